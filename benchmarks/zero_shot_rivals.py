"""Rivals of ``zero_shot.py`` that condense otherwise, each in its plainest form; sources in their docstrings.

The first two see every real image, the third the teacher alone, as ours do. They share our augmentation, so what it is
worth is given to them too (this is what DSA adds to DC).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.zero_shot_federations import Images
from dsv import (
    Augmentation,
    ModelSpec,
    Task,
    build_model,
    from_uint8,
    layer_cosine,
    noise_pixels,
    normalise,
    to_uint8,
    total_variation,
)


@dataclass(frozen=True)
class RealData:
    """Real images by class for the rivals that see them."""

    images: Images
    task: Task
    device: str

    def batch(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        """Normalised random training images of one class."""
        own = torch.nonzero(self.images.train_labels == label).flatten()
        chosen = own[torch.randint(len(own), (count,), generator=generator)]
        return from_uint8(self.images.train[chosen], self.task, device=self.device, dtype=torch.float32)

    def start(self, per_class: int, generator: torch.Generator) -> Tensor:
        """Pixels of ``per_class`` random real images of every class."""
        chosen = []
        for label in range(self.task.classes):
            own = torch.nonzero(self.images.train_labels == label).flatten()
            chosen.append(own[torch.randperm(len(own), generator=generator)[:per_class]])
        return (self.images.train[torch.cat(chosen)].float() / 255).to(self.device)


@contextmanager
def inputs_of(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Within it, the inputs of ``layers`` in the order that they run in; clear the list before every pass."""
    seen: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def distribution_matching(
    spec: ModelSpec, data: RealData, per_class: int, *, iterations: int, seed: int, step: float = 0.03
) -> Tensor:
    """DM (Zhao and Bilen, arXiv:2110.04181): equal mean features of real and synthetic images of every class, in
    networks drawn anew at every iteration. Starts from real images, as published.

    Returns:
        (classes * per_class, C, H, W) uint8, sorted by class.
    """
    task, generator = data.task, torch.Generator().manual_seed(seed)
    pixels = data.start(per_class, generator).requires_grad_()
    optimiser = torch.optim.Adam([pixels], lr=step)
    augment = Augmentation(mirror=0.5 if task.mirror else 0.0)
    for iteration in range(iterations):
        model = build_model(spec, seed=seed * 100_003 + iteration, device=data.device).eval()
        layers = [m for m in model.modules() if isinstance(m, nn.Linear)][-1:]
        loss = pixels.new_zeros(())
        with inputs_of(layers) as features:
            for label in range(task.classes):
                real = data.batch(label, 64, generator)
                own = normalise(pixels[label * per_class : (label + 1) * per_class], task)
                means = []
                for images in (real, own):
                    features.clear()
                    model(augment(images, generator))
                    means.append(features[0].mean(dim=0))
                loss = loss + (means[0].detach() - means[1]).square().sum()
        _descend(optimiser, pixels, loss, step, iteration / iterations)
    return to_uint8(pixels)


def gradient_matching(
    spec: ModelSpec, data: RealData, per_class: int, *, iterations: int, seed: int, step: float = 0.03
) -> Tensor:
    """DC with augmentation (Zhao et al., arXiv:2006.05929; DSA, arXiv:2102.08259): per class, the gradient of the
    synthetic images along that of real ones, in networks that are trained on the synthetic ones, a step at a time, and
    drawn anew after ten steps. Returns as ``distribution_matching``."""
    task, generator = data.task, torch.Generator().manual_seed(seed)
    pixels = data.start(per_class, generator).requires_grad_()
    labels = torch.arange(task.classes).repeat_interleave(per_class).to(data.device)
    optimiser = torch.optim.Adam([pixels], lr=step)
    augment = Augmentation(mirror=0.5 if task.mirror else 0.0)
    for iteration in range(iterations):
        if iteration % 10 == 0:
            model = build_model(spec, seed=seed * 100_003 + iteration, device=data.device)
            inner = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
        names = [name for name, _ in model.named_parameters()]
        loss = pixels.new_zeros(())
        for label in range(task.classes):
            own = slice(label * per_class, (label + 1) * per_class)
            real = augment(data.batch(label, 64, generator), generator)
            synthetic = augment(normalise(pixels[own], task), generator)
            gradients = [
                torch.autograd.grad(
                    functional.cross_entropy(model(images), labels[own][:1].expand(len(images))),
                    list(model.parameters()),
                    create_graph=images is synthetic,
                )
                for images in (real, synthetic)
            ]
            wanted, found = (dict(zip(names, g, strict=True)) for g in gradients)
            loss = loss + layer_cosine(wanted, found)
        _descend(optimiser, pixels, loss, step, iteration / iterations)
        inner.zero_grad()
        loss = functional.cross_entropy(model(augment(normalise(pixels.detach(), task), generator)), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        inner.step()
    return to_uint8(pixels)


def _statistics_distance(layers: Sequence[nn.BatchNorm2d], seen: Sequence[Tensor]) -> Tensor:
    """Distance of a batch's mean and variance from a batch norm's running ones, summed over the layers."""
    terms = []
    for layer, given in zip(layers, seen, strict=True):
        assert layer.running_mean is not None and layer.running_var is not None
        mean, variance = given.mean(dim=(0, 2, 3)), given.var(dim=(0, 2, 3), unbiased=False)
        terms.append(torch.linalg.vector_norm(mean - layer.running_mean))
        terms.append(torch.linalg.vector_norm(variance - layer.running_var))
    return torch.stack(terms).sum()


def batch_norm_inversion(
    model: nn.Module, task: Task, per_class: int, *, iterations: int, seed: int, device: str, step: float = 0.03
) -> Tensor:
    """DeepInversion / SRe2L (Yin et al., arXiv:1912.08795; arXiv:2306.13092): from noise, images that the teacher gives
    their class and whose statistics in every batch norm are the running ones. Returns as ``distribution_matching``.

    Raises:
        ValueError: the teacher has no batch norm.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if not layers:
        raise ValueError("the teacher has no batch norm; its statistics cannot be matched")
    model.to(device).eval()
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(task.classes).repeat_interleave(per_class)
    pixels = noise_pixels(task, len(labels), generator).to(device).requires_grad_()
    labels = labels.to(device)
    optimiser = torch.optim.Adam([pixels], lr=step)
    augment = Augmentation(mirror=0.5 if task.mirror else 0.0)
    with inputs_of(layers) as seen:
        for iteration in range(iterations):
            seen.clear()
            logits = model(augment(normalise(pixels, task), generator))
            loss = functional.cross_entropy(logits, labels) + 0.1 * _statistics_distance(layers, seen)
            _descend(optimiser, pixels, loss + 0.01 * total_variation(pixels), step, iteration / iterations)
    return to_uint8(pixels)


def _descend(optimiser: torch.optim.Optimizer, pixels: Tensor, loss: Tensor, step: float, done: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = step * 0.5 * (1 + math.cos(math.pi * done))
    (pixels.grad,) = torch.autograd.grad(loss, [pixels])
    optimiser.step()
    with torch.no_grad():
        pixels.clamp_(0, 1)
