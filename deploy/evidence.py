"""The commands that show what a model rests on: ``dsv select`` and ``dsv characterise``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch
from rich.text import Text

from client.data import open_split
from client.selection import select_own_images
from deploy.console import table_console, table_of
from deploy.options import QUIET, TEACHER, options_of
from deploy.progress import display
from dsv import (
    Checkpointing,
    DsvError,
    Selection,
    SelectionConfig,
    class_accuracies,
    class_sums,
    predict,
    rank_correlation,
)
from protos import artefact
from protos.checkpoint import load_checkpoint
from protos.files import check_output, write_output
from protos.settings import RunSettings
from server.events import read_events, synthesis_curves
from server.run_folder import run_folder_of

_DATA = ("data", "data_root")


@click.command()
@TEACHER
@options_of(RunSettings, only=(*_DATA, "distance", "stationary_parameters", "device", "micro_batch"))
@click.option("--per-class", default=10, show_default=True, type=click.IntRange(1), help="Images of a class to keep.")
@click.option("--steps", default=SelectionConfig.iterations, show_default=True, help="Passes of the selection.")
@click.option("--step", default=SelectionConfig.step, show_default=True, help="Length of the first step.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File for the selection, JSON.")
@QUIET
def select(teacher: Path, per_class: int, out: Path, quiet: bool, **values: Any) -> None:
    """Rank one's own training images by how much the model rests on each; nothing leaves this machine.

    What was killed goes on when it is called again: its state lies beside the file of --out, for its user alone.
    'dsv report RUN --selected FILE' shows the images beside the DSVs.
    """
    config = SelectionConfig(values["steps"], values["step"], values["distance"], values["stationary_parameters"])
    settings = RunSettings(**{name: values[name] for name in (*_DATA, "device", "micro_batch")})
    checkpoint = load_checkpoint(teacher)
    check_output(out, "the selection")
    state = Checkpointing(out.with_name(f".{out.name}.state"))
    with display(quiet=quiet) as shown:
        found, images = select_own_images(
            checkpoint,
            settings.data,
            settings.data_root,
            config,
            settings.compute(),
            per_class=per_class,
            checkpointing=state,
            on_iteration=lambda done, d: shown.update("selection", done, config.iterations, f"distance {d:.4f}"),
        )
    chosen = found.coreset(per_class)
    names = checkpoint.task.class_names
    report = _selection_report(found, chosen.tolist(), names, images.paths)
    write_output(out, f"{json.dumps(report, indent=1)}\n".encode(), "the selection", private=True)
    state.clear()
    table = table_of("class", "images", "sum of lambda", "lambda = 0", f"share of the first {per_class}")
    for label, name in enumerate(names):
        own = found.multipliers[found.labels == label]
        top = found.multipliers[chosen[found.labels[chosen] == label]].sum() / own.sum().clamp(min=1e-30)
        table.add_row(
            Text(name), str(len(own)), f"{float(own.sum()):.4g}", str(int((own == 0).sum())), f"{float(top):.1%}"
        )
    table_console().print(table)
    click.echo(f"distance {found.distances[0]:.4f} -> {found.distances[-1]:.4f}; selection written to {out}")


def _selection_report(
    found: Selection, chosen: Sequence[int], names: Sequence[str], paths: Sequence[Path]
) -> dict[str, Any]:
    """What the file of a selection holds; ``paths`` are of all images, or empty."""

    def described(index: int) -> dict[str, Any]:
        label = int(found.labels[index])
        entry = {"index": index, "class": label, "class_name": names[label], "lambda": float(found.multipliers[index])}
        return entry | ({"file": str(paths[index])} if paths else {})

    return {
        "coreset": [described(index) for index in chosen],
        "multipliers": found.multipliers.tolist(),
        "sum_of_lambda": {n: float(s) for n, s in zip(names, found.per_class(), strict=True)},
        "distances": list(found.distances),
    }


@click.command()
@TEACHER
@click.option("--release", required=True, type=click.Path(path_type=Path), help="Release file made from the teacher.")
@options_of(RunSettings, only=(*_DATA, "device"))
@click.option("--run", type=click.Path(path_type=Path), help="Folder of the run, for the entropy over its synthesis.")
def characterise(teacher: Path, release: Path, run: Path | None, **values: Any) -> None:
    """Per class: sum of lambda beside test accuracy (their rank correlation), and the entropy of the DSVs."""
    settings, checkpoint, support_set = RunSettings(**values), load_checkpoint(teacher), artefact.load(release)
    if support_set.task != checkpoint.task:
        raise DsvError(f"{release} was not made for the task of {teacher}; name the release of this teacher")
    entropies = _entropy_lines(run) if run else []
    test = open_split(settings.data, settings.data_root, "test", checkpoint.task)
    device = settings.compute().device
    seen = predict(checkpoint.model.to(device), test.images(), checkpoint.task)
    accuracies = class_accuracies(seen, test.labels)
    sums = class_sums(support_set.multipliers, support_set.labels, checkpoint.task.classes)
    table = table_of("class", "sum of lambda", "test accuracy", "entropy of its DSVs (nats)")
    for label, name in enumerate(checkpoint.task.class_names):
        own = support_set.soft_labels[support_set.labels == label]
        entropy = f"{float(-(own * own.clamp(min=1e-12).log()).sum(1).mean()):.3f}" if len(own) else "-"
        total = f"{float(sums[label]):.3f}" if len(own) else "-"
        table.add_row(Text(name), total, f"{float(accuracies[label]):.1%}", entropy)
    table_console().print(table)
    tested = torch.isfinite(accuracies) & support_set.shown
    correlation = rank_correlation(sums[tested], accuracies[tested])
    click.echo(
        f"rank correlation of sum of lambda and test accuracy: {correlation:+.2f} over {int(tested.sum())} classes"
    )
    for line in entropies:
        click.echo(line)


def _entropy_lines(run: Path) -> list[str]:
    curves = synthesis_curves(read_events(run_folder_of(run)))
    if not curves:
        raise DsvError(f"{run} holds no events of a synthesis; name a run folder such as runs/latest")
    lines = []
    for count, curve in curves.items():
        marks = [curve[(len(curve) - 1) * quarter // 4] for quarter in range(5)]
        values = ", ".join(f"{e.entropy:.3f} at {e.iteration}" for e in marks)
        lines.append(f"mean entropy of the candidates, {count} per class: {values}")
    return lines
