"""First derivatives along a direction in the weights: what the stationarity term needs of one model.

``kkt_gradient.py`` says what for.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dsv.compute import Compute
from dsv.deepkkt import Distance, Parameters
from dsv.derivatives import Batch, Derivatives, compiled_derivatives, eager_derivatives
from dsv.distance_gradient import distance_and_gradient
from dsv.ranks import Ranks


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
            with torch.enable_grad(), self.compute.running():
                losses, _ = self._of(batch).losses(self._parameters, batch.inputs, batch.labels)
                loss = (batch.multipliers * losses).sum()
                gradients = torch.autograd.grad(loss, leaves)
            torch._foreach_add_(list(totals.values()), list(gradients))
        self.ranks.add_up(list(totals.values()))
        return totals

    def graph_of_total_gradient(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """g of one batch and its logits, differentiable in its inputs and multipliers."""
        with torch.enable_grad(), self.compute.running():
            losses, logits = self._of(batch).losses(self._parameters, batch.inputs, batch.labels)
            leaves = list(self._parameters.values())
            gradients = torch.autograd.grad((batch.multipliers * losses).sum(), leaves, create_graph=True)
        return dict(zip(self._parameters, gradients, strict=True)), logits

    def logits(self, batch: Batch) -> Tensor:
        """(n, K) logits of one batch, differentiable in its inputs."""
        fixed = {name: p.detach() for name, p in self._parameters.items()}
        with torch.enable_grad(), self.compute.running():
            return self._of(batch).losses(fixed, batch.inputs, batch.labels)[1]

    def direction(self, total_gradient: Parameters, *, weight: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        """The distance of Eq. 8 at ``total_gradient``, and v = ``weight`` dD/dg by parameter name."""
        gradients = [gradient.detach() for gradient in total_gradient.values()]
        reconstruction = dict(zip(total_gradient, torch._foreach_neg(gradients), strict=True))
        target = {name: self._target[name] for name in total_gradient}
        return distance_and_gradient(self._distance, target, reconstruction, weight=-weight)

    def slopes(self, direction: Parameters, batch: Batch) -> Tensor:
        """(n,) derivative of every image's loss along ``direction``, by forward-mode differentiation alone.

        Args:
            direction: a tensor of every chosen parameter's shape and dtype, by its name.
            batch: whose multipliers are not read; what is returned has the inputs' dtype and no graph.
        """
        with torch.no_grad(), self.compute.running():
            return self._of(batch).slopes(direction, batch.inputs, batch.labels)

    def least_squares_scale(self, total_gradient: Parameters) -> float:
        """The factor for all multipliers that brings -g nearest to theta, or 0 where every positive one leads away."""
        pairs = [(self._parameters[name].detach(), g) for name, g in total_gradient.items()]
        along = sum(float(-(p * g).sum()) for p, g in pairs)
        return max(along, 0.0) / max(sum(float(g.square().sum()) for _, g in pairs), 1e-30)

    def along(
        self, direction: Parameters, batch: Batch, *, primal_weight: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What changes along ``direction``.

        Args:
            direction: a tensor of every chosen parameter's shape and dtype, by its name.
            batch: inputs without a graph.
            primal_weight: of a sum over the images, >= 0.

        Returns:
            (n, C, H, W) gradient in the inputs of sum_i lambda_i d/de L_i, plus ``primal_weight`` times that of the sum
            of the misclassified images' losses; (n,) d/de L_i; (n, K) logits. All have the inputs' dtype and no graph.
        """
        with torch.no_grad(), self.compute.running():
            weight = torch.tensor(primal_weight, dtype=batch.inputs.dtype, device=batch.inputs.device)
            return self._of(batch).along(direction, batch, weight)
