"""Lines 7 to 19 of Algorithm 1: the state of the candidates and one step of their optimisation."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsv.anchors import Anchors
from dsv.compute import Compute
from dsv.deepkkt import DISTANCES, KktTerms, KktWeights, Parameters, layer_cosine, project_dual
from dsv.errors import DsvError
from dsv.kkt_gradient import Candidates, KktGradient, View, kkt_gradient
from dsv.optimisers import Adam
from dsv.parameters import stationary_parameters
from dsv.pixels import noise_pixels, normalise
from dsv.ranks import Ranks
from dsv.resume import SynthesisState
from dsv.scale_invariance import steered_by_cosine
from dsv.start import Start
from dsv.stationarity_engine import StationarityEngine
from dsv.synthesis_config import SynthesisConfig
from dsv.task import Task


class PixelOptimiser:
    """Adam over this rank's share of the candidates, with the projections onto valid pixels and multipliers.

    Args as in ``synthesize``; ``model`` has been placed, ``labels`` are all ranks' labels. With ``anchors`` the model's
    weights are moved about.

    Raises:
        DsvError: the model reads no parameter that ``stationary_parameters`` names.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        config: SynthesisConfig,
        labels: Tensor,
        *,
        compute: Compute,
        ranks: Ranks,
        anchors: Anchors | None = None,
    ) -> None:
        self._model, self._anchors = model, anchors
        self._task, self._config, self._compute, self._ranks = task, config, compute, ranks
        self._total, self._own = len(labels), ranks.share(len(labels))
        self._labels = labels[self._own].to(compute.device)
        with compute.running():
            parameters: Parameters = stationary_parameters(model, task, config.stationary_parameters)
        distance = DISTANCES[config.distance]
        if distance is layer_cosine and not (anchors and anchors.targets):
            if anchors:  # what is zero in the model that was given need not be so in theirs
                model.load_state_dict(anchors.load(0))
            with compute.running():
                parameters, distance = steered_by_cosine(model, task, parameters)
        self._chosen = tuple(parameters)
        self._engine = StationarityEngine(model, parameters, distance, compute=compute, ranks=ranks)
        self._augmentation = config.augmentation(task)
        self._generator = torch.Generator()
        if anchors is not None:
            self._units = anchors.units(labels)[self._own].to(compute.device)
        self.iteration = 0

    def begin(self, seed: int, start: Start | None) -> None:
        """Candidates before the first step.

        Raises:
            DsvError: the start is not one uint8 image of the task's shape for every label.
        """
        self._generator.manual_seed(seed)
        side = self._config.side(0, self._task.image_size_px)
        if start is None:
            pixels = noise_pixels(self._task, self._total, self._generator, side_px=side)
        else:
            pixels = functional.interpolate(self._started(start), side, mode="area")
        shape = (self._total,) if self._anchors is None else (self._total, 1 + max(self._anchors.clients))
        multipliers = torch.rand(shape, generator=self._generator, dtype=torch.float32)
        self._hold(pixels, multipliers)

    def restore(self, state: SynthesisState) -> None:
        """Go on from ``state``, as if nothing had happened."""
        self._hold(state.pixels, state.multipliers)
        for index, moments in state.moments.items():
            self._adams[index].moments[0] = {
                name: value if value.ndim == 0 else value[self._own].to(self._compute.device)
                for name, value in moments.items()
            }
        self._generator.set_state(state.generator)
        self.iteration = state.iteration

    def pixels(self) -> Tensor:
        """All ranks' candidates as they are, (N, C, h, w) float32 in [0, 1] on the CPU."""
        return self._ranks.join(self._pixels.detach(), self._total).cpu()

    def state(self) -> SynthesisState:
        """All ranks' candidates and what belongs to them, on the CPU."""

        def whole(value: Tensor) -> Tensor:
            return (value if value.ndim == 0 else self._ranks.join(value.detach(), self._total)).cpu().clone()

        return SynthesisState(
            iteration=self.iteration,
            pixels=whole(self._pixels),
            multipliers=whole(self._multipliers),
            moments={
                index: {name: whole(value) for name, value in moments.items()}
                for index, adam in enumerate(self._adams)
                for moments in adam.moments.values()
            },
            generator=self._generator.get_state(),
        )

    @torch.enable_grad()
    def step(self) -> KktTerms:
        """One iteration; the terms are those before it.

        Raises:
            DsvError: the loss is not finite.
        """
        side = self._config.side(self.iteration, self._task.image_size_px)
        if side != self._pixels.shape[-1]:
            pixels = functional.interpolate(self._pixels, side, mode="bilinear").clamp(0, 1)
            self._optimise(pixels, self._multipliers)
        fallen = 0.5 * (1 + math.cos(math.pi * self.iteration / self._config.iterations))
        with self._compute.running():
            found = self._gradient()
        self._pixels.grad, self._multipliers.grad = found.images, found.multipliers
        for adam, step in zip(self._adams, (self._config.image_step, self._config.multiplier_step), strict=True):
            adam.learning_rate = step * fallen
            adam.step()
        self._pixels.clamp_(0, 1)
        project_dual(self._multipliers)
        self.iteration += 1
        return found.terms

    def _gradient(self) -> KktGradient:
        """At the end point, or of every copy at an anchor of its own, so that a step sees two of them."""
        views, weights = self._views(), self._config.weights
        if self._anchors is None:
            candidates = Candidates(self._pixels, self._labels, self._multipliers, self._total)
            return kkt_gradient(self._engine, candidates, views, weights)
        # Primal feasibility is not asked: a client may know but a few of the classes.
        first = self._at_random_anchor(views[0], replace(weights, primal=0.0))
        second = self._at_random_anchor(views[1], replace(weights, primal=0.0, total_variation=0.0, norm=0.0))
        stationarity = first.terms.stationarity + second.terms.stationarity
        total = first.terms.total + second.terms.total
        terms = replace(first.terms, total=total, stationarity=stationarity)
        return KktGradient(terms, first.images + second.images, first.multipliers + second.multipliers)

    def _at_random_anchor(self, view: tuple[float, View], weights: KktWeights) -> KktGradient:
        """One copy's gradient at a random anchor; of the multipliers, only its client's have one."""
        assert self._anchors is not None
        number = self._anchors.draw(self._generator)
        self._model.load_state_dict(self._anchors.load(number))
        if self._anchors.targets:
            target = self._anchors.targets(number)
            self._engine.aim({name: target[name].to(self._pixels.device) for name in self._chosen})
        client = self._anchors.clients[number]
        units = self._units[:, client]
        candidates = Candidates(self._pixels, self._labels, self._multipliers[:, client] * units, self._total)
        found = kkt_gradient(self._engine, candidates, [view], weights)
        multipliers = torch.zeros_like(self._multipliers)
        multipliers[:, client] = found.multipliers * units
        return replace(found, multipliers=multipliers)

    def _views(self) -> list[tuple[float, View]]:
        """The candidates as they are, and augmented copies, drawn for all ranks' candidates alike."""
        drawn = self._augmentation.draw(self._total, self._task.image_shape, self._generator)
        size = self._task.image_size_px

        def plain(pixels: Tensor, first: int) -> Tensor:
            full = pixels if pixels.shape[-1] == size else functional.interpolate(pixels, size, mode="bilinear")
            return normalise(full, self._task)

        def augmented(pixels: Tensor, first: int) -> Tensor:
            return drawn(plain(pixels, first), self._own.start + first)

        return [(1.0, plain), (self._config.augmented_weight, augmented)]

    def _started(self, start: Start) -> Tensor:
        expected = (self._total, *self._task.image_shape)
        if tuple(start.images.shape) != expected or start.images.dtype != torch.uint8:
            raise DsvError(
                f"the start {start.name!r} has {start.images.dtype} images of shape {tuple(start.images.shape)}; "
                f"this synthesis needs uint8 of {expected}"
            )
        return start.images.float() / 255

    def _hold(self, pixels: Tensor, multipliers: Tensor) -> None:
        device = self._compute.device
        self._optimise(pixels[self._own].to(device).clone(), multipliers[self._own].to(device).clone())

    def _optimise(self, pixels: Tensor, multipliers: Tensor) -> None:
        self._pixels, self._multipliers = pixels, multipliers
        config = self._config
        self._adams = (
            Adam([pixels], learning_rate=config.image_step),
            Adam([multipliers], learning_rate=config.multiplier_step),
        )
