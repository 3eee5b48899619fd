"""Every knob of a run, each with its one default and its one description.

Flower carries these to the ServerApp and every ClientApp as the run's configuration; the command line offers the same
as options. ``make generate`` writes the defaults into pyproject.toml, where Flower looks for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from dsv import (
    DISTANCES,
    KNOWN_TASKS,
    PRECISIONS,
    Compute,
    DsvError,
    ModelSpec,
    SynthesisConfig,
    Task,
    TrainingConfig,
)
from protos.encodings import ImageEncoding

IMAGEFOLDER = "imagefolder"
MAX_VALIDATION_SHARE = 0.5
"""A device refuses a run that keeps more of its images from training: of what few are left, weights would tell most."""
PARTITIONERS = ("dirichlet", "iid")
GLOBAL, CLIENTS = "global", "clients"
"""Values of ``synthesis_from``."""
AUTO, NOISE = "auto", "noise"
"""Values of ``start``, beside ``dsv.DEAD_LEAVES`` and a folder."""
UPLOAD_DTYPES = ("float32", "float16")

Scalar = bool | int | float | str


def option(default: Scalar, text: str, *, choices: tuple[str, ...] = ()) -> Any:
    """A field of a settings class with its description, and its permitted values when there are few."""
    return field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True)
class RunSettings:
    """Options of one run: federation and synthesis. Flower spells ``data_root`` as ``data-root``."""

    data: str = option("digits", "data set", choices=(*KNOWN_TASKS, IMAGEFOLDER))
    data_root: str = option("", "folder of the data set (an ImageFolder tree with train/ and test/, or torchvision's)")
    classes: str = option("", "class names of an imagefolder, separated by commas, in label order")
    channels: int = option(3, "of an imagefolder: 1 (grey) or 3 (colour)")
    image_size_px: int = option(32, "side that an imagefolder's images are resized to, in pixels")
    partitioner: str = option("dirichlet", "how the data is split over simulated clients", choices=PARTITIONERS)
    dirichlet_alpha: float = option(0.5, "label skew of the dirichlet partitioner; smaller is more skewed")
    partition_file: str = option(
        "", "JSON file that lists every simulated client's image indices, instead of a partitioner"
    )
    validation_share: float = option(
        0.0,
        "share of each client's images that it keeps from training and tests every round's model on; 0 tests nothing",
    )
    rounds: int = option(14, "rounds of federated averaging")
    fraction_train: float = option(
        1.0, "share of the connected clients that a round asks; below 1 Flower draws them by chance, whatever the seed"
    )
    min_train_nodes: int = option(2, "fewest clients that a round asks")
    min_available_nodes: int = option(
        2, "fewest connected clients that a round starts with; it waits until then, so keep it below their number"
    )
    round_timeout_s: float = option(3600.0, "a round goes on without the clients that have not answered by then")
    local_epochs: int = option(5, "passes over a client's own images in a round")
    local_batch_size: int = option(32, "images a step on a client")
    local_learning_rate: float = option(
        0.1, "SGD's learning rate in the first round; falls along a cosine over the rounds, or within a single one"
    )
    local_weight_decay: float = option(1e-3, "SGD's weight decay on a client")
    architecture: str = option(
        "convnet:64",
        "the model that clients train, as name[:width[:norm[:pooling]]]: convnet, resnet18 or a torchvision classifier",
    )
    trainable: str = option(
        "*",
        "parameters that clients train and send: patterns of their names, separated by commas; head is the last layer",
    )
    backbone: str = option(
        "", "safetensors file of weights that training starts from; a device names its own copy in its node config"
    )
    backbone_sha256: str = option("", "digest that the backbone's file must have on either side; empty checks nothing")
    upload_dtype: str = option("float32", "what clients send weights as", choices=UPLOAD_DTYPES)
    images_per_class: str = option(
        "1,10", "DSVs per class; several numbers, separated by commas, give several releases"
    )
    synthesis_from: str = option(
        GLOBAL,
        "whose end point the DSVs satisfy: the global model's, or each client's own of the last round (for federations "
        "of one round, whose average is poor)",
        choices=(GLOBAL, CLIENTS),
    )
    image_encoding: str = option(
        "2-bit",
        "how a release stores its images: raw, 1-bit to 7-bit, png, webp (lossless), or webp:Q or avif:Q (lossy) with "
        "a quality Q from 1 to 100",
    )
    iterations: int = option(SynthesisConfig.iterations, "optimiser steps of a synthesis")
    image_step: float = option(SynthesisConfig.image_step, "step size for pixels in [0, 1]")
    multiplier_step: float = option(SynthesisConfig.multiplier_step, "step size for the multipliers")
    distance: str = option(SynthesisConfig.distance, "distance in the stationarity term", choices=tuple(DISTANCES))
    primal_weight: float = option(
        SynthesisConfig.primal_weight,
        "weight of the primal term; not read for DSVs of the clients' models, which may know but a few of the classes",
    )
    total_variation_weight: float = option(SynthesisConfig.total_variation_weight, "weight of total variation")
    norm_weight: float = option(SynthesisConfig.norm_weight, "weight of the image norm")
    augmented_weight: float = option(SynthesisConfig.augmented_weight, "weight of the augmented copy (eta)")
    stationarity_weight: float = option(SynthesisConfig.stationarity_weight, "weight of the stationarity term")
    stationary_parameters: str = option(
        SynthesisConfig.stationary_parameters,
        "parameters that the stationarity term speaks of: patterns of their names, separated by commas",
    )
    coarse_stages: int = option(
        SynthesisConfig.coarse_stages, "equal parts of the synthesis, each at twice the resolution of the one before"
    )
    cutout: float = option(SynthesisConfig.cutout, "side of the square cut out of the augmented copy, as a fraction")
    noise: float = option(SynthesisConfig.noise, "standard deviation of the augmented copy's noise")
    start: str = option(
        AUTO,
        "what DSVs start from: noise, dead-leaves (drawn shapes), auto (dead leaves for colour images of 16 to 64 px, "
        "else noise), or a folder of public images",
    )
    views: str = option(
        AUTO,
        "augmented copies of a release's images that the teacher labels for newcomers, half a byte a class each: a "
        "number, or auto (24000 for images of 16 to 64 px, 4000 for smaller ones, else none)",
    )
    device: str = option(Compute.device, "where to compute: cpu, cuda or cuda:N")
    micro_batch: int = option(Compute.micro_batch, "images whose graph is held at once; 0 chooses for the device")
    precision: str = option(Compute.precision, "arithmetic of a synthesis on CUDA", choices=PRECISIONS)
    compiled: bool = option(Compute.compiled, "use torch.compile for the synthesis; pays in runs of many minutes")
    seed: int = option(0, "seed of everything that is drawn")
    run_dir: str = option("", "folder for the run's files; empty makes a new one, runs/<UTC time>")
    store: str = option("", "folder of the server that takes the releases; empty: releases/ in the run's folder")

    def __post_init__(self) -> None:
        self._check_fields()
        for name in ("rounds", "local_epochs", "local_batch_size", "min_train_nodes", "min_available_nodes"):
            if getattr(self, name) < 1:
                raise DsvError(f"{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        for name in ("dirichlet_alpha", "local_learning_rate", "round_timeout_s"):
            if not getattr(self, name) > 0:
                raise DsvError(f"{name.replace('_', '-')} must be positive, got {getattr(self, name)}")
        if not 0 < self.fraction_train <= 1 or not 0 <= self.validation_share <= MAX_VALIDATION_SHARE:
            raise DsvError(
                f"fraction-train must lie above 0 and up to 1, validation-share from 0 to {MAX_VALIDATION_SHARE}, got "
                f"{self.fraction_train} and {self.validation_share}"
            )
        ImageEncoding(self.image_encoding)
        self.local_training(1, examples=1)
        for count in self.releases:
            self.synthesis(count)

    def _check_fields(self) -> None:
        for entry in fields(self):
            choices = entry.metadata["choices"]
            if choices and getattr(self, entry.name) not in choices:
                raise DsvError(
                    f"{key_of(entry)} {getattr(self, entry.name)!r} is unknown; choose one of: {', '.join(choices)}"
                )
            if isinstance(entry.default, float) and not math.isfinite(getattr(self, entry.name)):
                raise DsvError(f"{key_of(entry)} must be a finite number, got {getattr(self, entry.name)}")
        if not self.start:  # as a path, it would be the current folder
            raise DsvError("start is empty; give auto, noise, dead-leaves or a folder of public images")
        if not 0 <= self.seed < 2**63:
            raise DsvError(f"seed must lie in 0 to 2^63 - 1, got {self.seed}")

    @classmethod
    def from_run_config(cls, run_config: Mapping[str, Scalar]) -> RunSettings:
        """Settings from Flower's run configuration; missing keys take their defaults.

        Raises:
            DsvError: an unknown key or a value of the wrong type.
        """
        known = {key_of(entry): entry for entry in fields(cls)}
        values: dict[str, Any] = {}
        for key, value in run_config.items():
            if key not in known:
                raise DsvError(f"unknown option {key!r}; known ones: {', '.join(known)}")
            wanted = type(known[key].default)
            converted = float(value) if wanted is float and type(value) is int else value
            if type(converted) is not wanted:
                raise DsvError(f"option {key} must be of type {wanted.__name__}, got {value!r}")
            values[known[key].name] = converted
        return cls(**values)

    def to_run_config(self) -> dict[str, Scalar]:
        """The settings under Flower's spelling of their names."""
        return {key_of(entry): getattr(self, entry.name) for entry in fields(self)}

    @property
    def releases(self) -> tuple[int, ...]:
        """Images per class of every release wanted."""
        try:
            return tuple(int(part) for part in self.images_per_class.split(","))
        except ValueError:
            raise DsvError(
                f"images-per-class must be whole numbers separated by commas, got {self.images_per_class!r}"
            ) from None

    def task(self) -> Task:
        """What is classified. An imagefolder's class names must have been given."""
        if self.data != IMAGEFOLDER:
            return KNOWN_TASKS[self.data]
        if not self.classes:
            raise DsvError("data imagefolder needs the option classes: the class names, separated by commas")
        middle = (0.5,) * self.channels
        names = tuple(name.strip() for name in self.classes.split(","))
        return Task(self.channels, self.image_size_px, names, middle, middle)

    def model_spec(self) -> ModelSpec:
        """The teacher."""
        return ModelSpec.parse(self.architecture, self.task())

    def synthesis(self, images_per_class: int) -> SynthesisConfig:
        """Options of the synthesis of one release."""
        shared = {f.name: getattr(self, f.name) for f in fields(SynthesisConfig) if hasattr(self, f.name)}
        if self.stationary_parameters == SynthesisConfig.stationary_parameters:
            shared["stationary_parameters"] = self.trainable  # Eq. 5 holds for what was trained
        return SynthesisConfig(**{**shared, "images_per_class": images_per_class})

    def compute(self) -> Compute:
        """How to synthesise; raises DsvError where the device does not exist."""
        return Compute(self.device, self.micro_batch, self.precision, self.compiled)

    def local_training(self, round_number: int, examples: int) -> TrainingConfig:
        """Training in round ``round_number`` (from 1) on a client that holds ``examples`` images.

        The rate falls from round to round, and where there is one alone, within it.
        """
        fallen = 0.5 * (1 + math.cos(math.pi * (round_number - 1) / self.rounds))
        return TrainingConfig(
            steps=-(-self.local_epochs * examples // self.local_batch_size),
            optimiser="sgd",
            learning_rate=self.local_learning_rate * fallen,
            cosine=self.rounds == 1,
            weight_decay=self.local_weight_decay,
            batch_size=self.local_batch_size,
            crop=0.0,
        )


def key_of(entry: Field[Any]) -> str:
    """Flower's and the command line's spelling of a setting's name."""
    return entry.name.replace("_", "-")
