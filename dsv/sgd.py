"""SGD with momentum, without the compiler that torch.optim brings along."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.sgd import sgd

MOMENTUM = 0.9


class Sgd:
    """The steps of ``torch.optim.SGD``, by torch's own functional form of it.

    Making any optimiser object of torch.optim imports ``torch._dynamo``: 150 MB and several seconds, which a device
    would pay in every round, since Flower starts a process for each message.

    Args:
        parameters: to optimise, in place.
        learning_rate: at first; ``param_groups[0]["lr"]``, as in torch.optim, may be changed between steps.
        weight_decay: added to the gradient, times the parameter.
    """

    def __init__(self, parameters: Iterable[Tensor], *, learning_rate: float, weight_decay: float) -> None:
        self.param_groups = [{"lr": learning_rate}]
        self._parameters = list(parameters)
        self._weight_decay = weight_decay
        self._momenta: dict[int, Tensor | None] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step for every parameter that has a gradient."""
        chosen = [(number, p) for number, p in enumerate(self._parameters) if p.grad is not None]
        momenta = [self._momenta.get(number) for number, _ in chosen]
        sgd(
            [p for _, p in chosen],
            [p.grad for _, p in chosen if p.grad is not None],
            momenta,
            lr=self.param_groups[0]["lr"],
            momentum=MOMENTUM,
            dampening=0.0,
            weight_decay=self._weight_decay,
            nesterov=False,
            maximize=False,
        )
        self._momenta.update((number, momentum) for (number, _), momentum in zip(chosen, momenta, strict=True))
