"""Command-line options made from settings classes, so that each has one default and one description."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from deploy.addresses import Address
from dsv import NEWCOMER_STEPS, PRESETS, VIEW_STEPS, DsvError, SynthesisConfig
from protos.settings import RunSettings, key_of, option

Command = TypeVar("Command", bound=Callable[..., Any])


class _AddressType(click.ParamType):  # type: ignore[type-arg]
    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        return value if isinstance(value, Address) else Address.parse(value)


ADDRESS = _AddressType()

QUIET = click.option("--quiet", is_flag=True, help="Plain lines instead of progress bars.")
TEACHER = click.option(
    "--teacher", required=True, type=click.Path(path_type=Path), help="Model file, as a run leaves it."
)
LABELS = click.option(
    "--labels",
    type=click.Choice(["hard", "soft", "view"]),
    callback=lambda context, parameter, value: value or "",
    help="What to learn of the release: classes, the teacher's probabilities, or its logits for every view (the "
    "default where the release has them, else soft).",
)
COMPUTE = ("device", "micro_batch", "precision", "compiled", "seed")
SYNTHESIS = (*(f.name for f in fields(SynthesisConfig) if hasattr(RunSettings, f.name)), *COMPUTE)
"""Fields of ``RunSettings`` that a synthesis reads."""


@dataclass(frozen=True)
class HarnessSettings:
    """Options of a simulation that the federation itself does not need: its size, and what is measured after it."""

    clients: int = option(8, "number of simulated clients")
    newcomers: str = option(
        "convnet:64,resnet18:16",
        "architectures that train from each release; the first is every rival's too, and compares kinds of labels",
    )
    newcomer_seeds: int = option(3, "runs behind each mean and standard deviation")
    newcomer_steps: int = option(
        0,
        "optimiser steps of a newcomer, and of every rival beside it; "
        f"0 means {NEWCOMER_STEPS}, or from labelled views {VIEW_STEPS} and at least so many that each is seen twice",
    )
    tensorboard: bool = option(
        False, "write the curves for TensorBoard while they grow, into tensorboard/ in the run's folder"
    )

    def __post_init__(self) -> None:
        if self.clients < 2:
            raise DsvError(f"a federation needs at least 2 clients, got {self.clients}")
        for name, least in (("newcomer_seeds", 1), ("newcomer_steps", 0)):
            if getattr(self, name) < least:
                raise DsvError(f"{name.replace('_', '-')} must be at least {least}, got {getattr(self, name)}")

        if len(set(self.architectures)) < len(self.architectures):
            raise DsvError(f"newcomers {self.newcomers!r} name an architecture twice; name each once")

    def to_config(self) -> dict[str, Any]:
        """The options under the command line's spelling of their names."""
        return {key_of(entry): getattr(self, entry.name) for entry in fields(self)}

    @property
    def architectures(self) -> tuple[str, ...]:
        """The newcomers' architectures."""
        return tuple(part.strip() for part in self.newcomers.split(","))


class Within(click.FloatRange):
    """A range of real numbers; click's own lets through what is no number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number.

        Raises:
            click.BadParameter: it lies outside, or is no number.
        """
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value} is not a number", param, ctx)
        return float(found)


class Group(click.Group):
    """Its help has every command's whole first sentence, where click's own breaks off at the line's end."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the section."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self.commands[name].get_short_help_str(limit=1000)) for name in self.list_commands(ctx)]
            )


def options_of(
    settings: type[Any], *, only: tuple[str, ...] = (), without: tuple[str, ...] = ()
) -> Callable[[Command], Command]:
    """A decorator that adds ``--data-root`` and so on for the fields of a settings class."""

    def decorate(command: Command) -> Command:
        for entry in reversed(fields(settings)):
            if (only and entry.name not in only) or entry.name in without:
                continue
            choices = entry.metadata["choices"]
            kind = click.IntRange(0, 2**63 - 1) if entry.name == "seed" else type(entry.default)
            switch = f"/--no-{key_of(entry)}" if type(entry.default) is bool else ""
            command = click.option(
                f"--{key_of(entry)}{switch}",
                entry.name,
                default=entry.default,
                type=click.Choice(choices) if choices else kind,
                show_default=entry.default != "",
                help=entry.metadata["help"][0].upper() + entry.metadata["help"][1:] + ".",
            )(command)
        return command

    return decorate


def preset_option(command: Command) -> Command:
    """Adds ``--preset``: other defaults for the options of the synthesis; an option that is given still counts."""

    def apply(context: click.Context, parameter: click.Parameter, name: str) -> None:
        chosen = asdict(PRESETS[name])
        context.default_map = {**chosen, "images_per_class": str(chosen["images_per_class"])} if name != "small" else {}

    return click.option(
        "--preset",
        type=click.Choice(tuple(PRESETS)),
        default="small",
        show_default=True,
        is_eager=True,
        expose_value=False,
        callback=apply,
        help="Defaults of the synthesis options for a kind of model; the help shows those of 'small'.",
    )(command)
