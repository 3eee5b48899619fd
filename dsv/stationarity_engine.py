"""First derivatives along a direction in the weights: what the stationarity term needs of one model.

``kkt_gradient.py`` says what for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from dsv.compute import Compute
from dsv.deepkkt import Distance, Parameters, misclassified
from dsv.derivatives import Batch, Derivatives, compiled_derivatives, eager_derivatives
from dsv.distance_gradient import distance_and_gradient
from dsv.errors import differentiable
from dsv.ranks import Ranks

_Found = TypeVar("_Found")


class Along(NamedTuple):
    """What changes along a direction v in the parameters; nothing has a graph, all is of the inputs' dtype and device.

    Args:
        images: (n, C, H, W) gradient in the inputs of sum_i lambda_i d/de L_i(theta + e v), plus that of the sum of the
            misclassified images' losses times the primal term's weight.
        slopes: (n,) d/de L_i.
        logits: (n, K), at theta.
    """

    images: Tensor
    slopes: Tensor
    logits: Tensor


class _Graph(NamedTuple):
    """A batch whose inputs and multipliers are leaves, and what was computed from them: its losses (n,), logits (n, K)
    and total gradient, by parameter name."""

    leaves: Batch
    losses: Tensor
    logits: Tensor
    total: dict[str, Tensor]


class StationarityEngine:
    """Directional derivatives that the stationarity term needs, of one model; holds what is prepared once.

    Args:
        model: in eval mode, on the device of ``compute``.
        parameters: those of ``model`` that the stationarity term speaks of.
        distance: D of Eq. 8.
        compute: micro-batch, precision and compilation.
        ranks: over which gradients are added up.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Parameters,
        distance: Distance,
        *,
        compute: Compute | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.compute, self.ranks = compute or Compute(), ranks or Ranks()
        self._model = model
        self._parameters = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        self._distance = distance
        self._target: Parameters = self._parameters
        self._made: Derivatives | None = None
        self._has_tangents = True
        chosen, all_numbers = (sum(p.numel() for p in of) for of in (parameters.values(), model.parameters()))
        self.by_graph = not self.compute.compiled and 2 * chosen < all_numbers
        """Whether the first of the two ways in ``kkt_gradient.py`` is the cheaper one."""

    def _of(self, batch: Batch) -> Derivatives:
        """What derivatives are taken with, made when the first batch shows what the model's inputs are like."""
        if self._made is None:
            make = compiled_derivatives if self.compute.compiled else eager_derivatives
            self._made = make(self._model, self._parameters, batch.inputs[:1].detach().clone())
        return self._made

    def aim(self, target: Parameters) -> None:
        """Ask that -g be ``target``, by parameter name, instead of the parameters themselves (Eq. 5)."""
        self._target = target

    def total_gradient(self, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """g = sum_i lambda_i grad_theta L_i over all ranks' batches, by parameter name; memory of one batch."""
        totals = {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        leaves = list(self._parameters.values())
        for batch in batches:
            with differentiable(), torch.enable_grad(), self.compute.running():
                losses, _ = self._of(batch).losses(self._parameters, batch.inputs, batch.labels)
                loss = (batch.multipliers * losses).sum()
                gradients = torch.autograd.grad(loss, leaves)
            torch._foreach_add_(list(totals.values()), list(gradients))
        self.ranks.add_up(list(totals.values()))
        return totals

    @differentiable()
    def logits(self, batch: Batch) -> Tensor:
        """(n, K) logits of one batch, differentiable in its inputs."""
        fixed = {name: p.detach() for name, p in self._parameters.items()}
        with torch.enable_grad(), self.compute.running():
            return self._of(batch).losses(fixed, batch.inputs, batch.labels)[1]

    @torch.no_grad()
    def direction(self, total_gradient: Parameters, *, weight: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        """The distance of Eq. 8 at ``total_gradient``, and v = ``weight`` dD/dg by parameter name."""
        negated = torch._foreach_neg(list(total_gradient.values()))
        reconstruction = dict(zip(total_gradient, negated, strict=True))
        target = {name: self._target[name] for name in total_gradient}
        return distance_and_gradient(self._distance, target, reconstruction, weight=-weight)

    @differentiable()
    def slopes(self, direction: Parameters, batch: Batch) -> Tensor:
        """(n,) derivative of every image's loss along ``direction``, by forward-mode differentiation alone where the
        model's layers have it.

        Args:
            direction: a tensor of every chosen parameter's shape and dtype, by its name.
            batch: whose multipliers are not read; what is returned has the inputs' dtype and no graph.
        """
        found = self._by_tangents(lambda: self._of(batch).slopes(direction, batch.inputs, batch.labels))
        return self._along(direction, self._graph(batch), 0.0).slopes if found is None else found

    def least_squares_scale(self, total_gradient: Parameters) -> float:
        """The factor for all multipliers that brings -g nearest to theta, or 0 where every positive one leads away."""
        pairs = [(self._parameters[name].detach(), g) for name, g in total_gradient.items()]
        along = sum(float(-(p * g).sum()) for p, g in pairs)
        return max(along, 0.0) / max(sum(float(g.square().sum()) for _, g in pairs), 1e-30)

    @differentiable()
    def along(self, direction: Parameters, batch: Batch, *, primal_weight: float = 0.0) -> Along:
        """What changes along ``direction``.

        Args:
            direction: a tensor of every chosen parameter's shape and dtype, by its name.
            batch: whose own graph is not followed.
            primal_weight: of the primal term, here a sum over the misclassified images, >= 0.
        """
        if not self.by_graph:
            own = batch.detached()
            weight = torch.tensor(primal_weight, dtype=own.inputs.dtype, device=own.inputs.device)
            if found := self._by_tangents(lambda: self._of(own).along(direction, own, weight)):
                return Along(*found)
        return self._along(direction, self._graph(batch), primal_weight)

    def _by_tangents(self, compute: Callable[[], _Found]) -> _Found | None:
        """What forward mode finds; None where a layer has no rule for it, from the first time on that one is met."""
        if self._has_tangents:
            try:
                with torch.no_grad(), self.compute.running():
                    return compute()
            except (NotImplementedError, CheckpointError):
                self._has_tangents = False
        return None

    @differentiable()
    def at_once(self, batch: Batch, *, weight: float, primal_weight: float) -> tuple[Tensor, Along]:
        """``direction`` at this batch's own total gradient, and what ``along`` gives for it, by one graph.

        Nothing in it waits for a card to have computed something.
        """
        graph = self._graph(batch)
        distance, direction = self.direction(graph.total, weight=weight)
        return distance, self._along(direction, graph, primal_weight)

    def _graph(self, batch: Batch) -> _Graph:
        inputs, multipliers = (leaf.detach().requires_grad_() for leaf in (batch.inputs, batch.multipliers))
        leaves = replace(batch, inputs=inputs, multipliers=multipliers)
        with torch.enable_grad(), self.compute.running():
            losses, logits = self._of(leaves).losses(self._parameters, inputs, batch.labels)
            chosen = list(self._parameters.values())
            total = torch.autograd.grad((multipliers * losses).sum(), chosen, create_graph=True)
        return _Graph(leaves, losses, logits, dict(zip(self._parameters, total, strict=True)))

    def _along(self, direction: Parameters, graph: _Graph, primal_weight: float) -> Along:
        batch, seen = graph.leaves, graph.logits.detach()
        with torch.enable_grad(), self.compute.running():
            primal = primal_weight * (graph.losses * misclassified(seen, batch.labels)).sum()
            images, slopes = torch.autograd.grad(
                [*graph.total.values(), primal],
                [batch.inputs, batch.multipliers],
                [*(direction[name] for name in graph.total), torch.ones_like(primal)],
            )
        return Along(images, slopes, seen)
