"""Classifiers by name, the same on both sides of the wire."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dsv.errors import DsvError
from dsv.task import MAX_CLASSES, MAX_IMAGE_SIZE_PX, Task

NORMS = ("instance", "batch", "group", "layer", "none")
POOLINGS = ("average", "max")
MAX_WIDTH = 4_096
_TORCHVISION = "torchvision."
_ALWAYS_TAKEN_PX = 16
"""From here on every norm of our own networks sees more than one value."""
_DEFAULT_NORM = {"convnet": "instance", "resnet18": "group"}
_GLOBAL_RANDOM_STATE = threading.Lock()  # layers draw from it alone, so models are built one at a time


@dataclass(frozen=True)
class ModelSpec:
    """Everything that is needed to build a classifier.

    Args:
        architecture: ``convnet``, ``resnet18`` (3x3 stem), or any classification model of torchvision by its name;
            ``torchvision.resnet18`` is torchvision's own of that name, for large images.
        channels: of the input, 1 or 3.
        image_size_px: side of the square input, in pixels.
        classes: number of logits.
        width: channels of the ConvNet's layers, or of ResNet-18's first stage (the field's ResNet-18 has 64; 0
            means the architecture's own default: 128 and 64), at most 4096. Torchvision models have no such knob.
        norm: one of ``NORMS``, or ``default``: instance for convnet, group for resnet18 (no running statistics, which a
            federation would have to average).
        pooling: of the ConvNet, one of ``POOLINGS``; ``average`` in dataset condensation, ``max`` in the paper of DSVs.

    Raises:
        DsvError: a value is of another type or out of its range.
    """

    architecture: str
    channels: int
    image_size_px: int
    classes: int
    width: int = 0
    norm: str = "default"
    pooling: str = "average"

    def __post_init__(self) -> None:
        """Specs also come out of files that strangers wrote, so the annotations alone do not hold."""
        if not all(isinstance(value, str) for value in (self.architecture, self.norm, self.pooling)):
            raise DsvError("a model's architecture, norm and pooling must be text")
        for name, low, high in (
            ("image_size_px", 1, MAX_IMAGE_SIZE_PX),
            ("classes", 1, MAX_CLASSES),
            ("width", 0, MAX_WIDTH),
        ):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise DsvError(f"a model's {name} must be a whole number from {low} to {high}, got {value!r}")
        if type(self.channels) is not int or self.channels not in (1, 3):
            raise DsvError(f"a model's channels must be 1 (grey) or 3 (colour), got {self.channels!r}")

    @classmethod
    def parse(cls, text: str, task: Task) -> ModelSpec:
        """The spec for ``task`` of ``name[:width[:norm[:pooling]]]``, such as ``convnet``, ``convnet:64:batch``.

        Raises:
            DsvError: the text does not have that form, or the width is out of its range.
        """
        parts = text.split(":")
        if not parts[0] or len(parts) > 4 or not all(part.isdecimal() for part in parts[1:2]):
            raise DsvError(
                f"architecture {text!r} must have the form name[:width[:norm[:pooling]]], such as resnet18:16"
            )
        width, norm, pooling = parts[1:] + ["0", "default", "average"][len(parts) - 1 :]
        number = int(width.lstrip("0")[:9] or 0)  # Python refuses thousands of digits; nine are out of range too
        return cls(parts[0], task.channels, task.image_size_px, task.classes, number, norm, pooling)

    def __str__(self) -> str:
        """What ``parse`` reads."""
        given = [str(self.width), self.norm, self.pooling]
        while given and given[-1] == ["0", "default", "average"][len(given) - 1]:
            given.pop()
        return ":".join([self.architecture, *given])


def build_model(spec: ModelSpec, *, seed: int, device: torch.device | str = "cpu") -> nn.Module:
    """A freshly initialised classifier: (N, channels, H, W) normalised float images to (N, classes) logits.

    The same ``spec`` and ``seed`` give the same weights; the global random state is left as it was. Threads may
    build models at once.

    Raises:
        DsvError: unknown architecture, norm or pooling, an image too small for the architecture; of torchvision's
            models, a width or norm, or that it is not installed.
    """
    if spec.norm != "default" and spec.norm not in NORMS:
        raise DsvError(f"unknown norm {spec.norm!r}; choose one of: default, {', '.join(NORMS)}")
    if spec.pooling not in POOLINGS or (spec.pooling != "average" and spec.architecture != "convnet"):
        raise DsvError(f"unknown pooling {spec.pooling!r} of {spec.architecture}; convnet has {', '.join(POOLINGS)}")
    with _GLOBAL_RANDOM_STATE, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every CUDA generator too
        if spec.architecture == "convnet":
            model: nn.Module = _ConvNet(spec)
        elif spec.architecture == "resnet18":
            model = _ResNet18(spec)
        else:
            model = _torchvision_model(spec)
    if torch.device(device).type != "meta":
        with _named(spec):
            _ask(model.eval(), spec)
    return model.train().to(device)


@torch.no_grad()
def _ask(model: nn.Module, spec: ModelSpec) -> None:
    """Norms want more than one value, poolings some pixels, and say so when they are asked."""
    if spec.architecture not in _DEFAULT_NORM or spec.image_size_px < _ALWAYS_TAKEN_PX:
        model(torch.zeros(1, spec.channels, spec.image_size_px, spec.image_size_px))


@contextmanager
def _named(spec: ModelSpec) -> Iterator[None]:
    """What torch says of a network that is too deep for its images, with that network's name."""
    try:
        yield
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        other = "norm, width or architecture" if spec.architecture in _DEFAULT_NORM else "architecture"
        raise DsvError(
            f"{spec.architecture} does not take images of {spec.image_size_px} px ({reason}); use another {other}"
        ) from None


def norm_layer(name: str) -> Callable[[int], nn.Module]:
    """A function from a number of channels to a normalisation layer; instance and layer norm are affine."""
    layers: dict[str, Callable[[int], nn.Module]] = {
        "instance": lambda channels: nn.GroupNorm(channels, channels),
        "batch": nn.BatchNorm2d,
        "group": lambda channels: nn.GroupNorm(next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0), channels),
        "layer": lambda channels: nn.GroupNorm(1, channels),
        "none": lambda channels: nn.Identity(),
    }
    return layers[name]


def _norm_of(spec: ModelSpec) -> Callable[[int], nn.Module]:
    return norm_layer(_DEFAULT_NORM[spec.architecture] if spec.norm == "default" else spec.norm)


class _ConvNet(nn.Module):
    """3 x [conv 3x3, norm, ReLU, pool 2x2], then one linear layer: the ConvNet of dataset condensation
    (Zhao et al., arXiv:2006.05929)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        if spec.image_size_px < 8:
            raise DsvError(f"convnet halves the image three times: {spec.image_size_px} px is below its minimum of 8")
        width, norm = spec.width or 128, _norm_of(spec)
        layers: list[nn.Module] = []
        pool = nn.MaxPool2d if spec.pooling == "max" else nn.AvgPool2d
        for channels in (spec.channels, width, width):
            layers += [nn.Conv2d(channels, width, 3, padding=1), norm(width), nn.ReLU(), pool(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * (spec.image_size_px // 8) ** 2, spec.classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al., arXiv:1512.03385)."""

    def __init__(self, channels_in: int, channels: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = norm(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), norm(channels))

    def forward(self, features: Tensor) -> Tensor:
        inner = torch.relu(self.norm1(self.conv1(features)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.shortcut(features))


class _ResNet18(nn.Module):
    """ResNet-18 for small images: a 3x3 stem of stride 1 and no max pooling."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width, norm = spec.width or 64, _norm_of(spec)
        layers: list[nn.Module] = [nn.Conv2d(spec.channels, width, 3, 1, 1, bias=False), norm(width), nn.ReLU()]
        channels = width
        for stage, stride in enumerate((1, 2, 2, 2)):
            for block in range(2):
                layers.append(_BasicBlock(channels, width << stage, stride if block == 0 else 1, norm))
                channels = width << stage
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, spec.classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits


class _GreyAsColour(nn.Module):
    """Repeats a single grey channel three times for models that expect RGB."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images.expand(-1, 3, -1, -1))
        return logits


def _torchvision_model(spec: ModelSpec) -> nn.Module:
    try:
        import torchvision
    except ImportError as error:
        raise DsvError(
            f"architecture {spec.architecture!r} comes from torchvision, which is not installed; "
            "install torchvision, or use convnet or resnet18"
        ) from error
    name = spec.architecture.removeprefix(_TORCHVISION)
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise DsvError(
            f"unknown architecture {spec.architecture!r}; use convnet, resnet18 or the name of a torchvision "
            "classifier such as mobilenet_v3_small"
        )
    if spec.width or spec.norm != "default":
        raise DsvError(f"{spec.architecture} is torchvision's own: it takes no width and no norm")
    with _named(spec):
        model: nn.Module = torchvision.models.get_model(
            name, weights=None, num_classes=spec.classes, **_torchvision_options(name, spec.image_size_px)
        )
    return model if spec.channels == 3 else _GreyAsColour(model)


def _torchvision_options(name: str, image_size_px: int) -> dict[str, Any]:
    """No second head, which would make the output of training a tuple; transformers are built for one size."""
    if name in {"googlenet", "inception_v3"}:
        return {"aux_logits": False, "init_weights": True}
    return {"image_size": image_size_px} if name.startswith("vit_") else {}
