"""SGD with momentum, Adam and AdamW, without the compiler that torch.optim's objects bring along.

Making any optimiser object of torch.optim imports ``torch._dynamo``: 150 MB and several seconds, which a device would
pay in every round, since Flower starts a process for each message. The steps here are torch's own functional forms.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

MOMENTUM = 0.9

Moments = dict[str, Tensor]
"""Adam's state of one parameter: ``step`` (float32 scalar), ``exp_avg`` and ``exp_avg_sq``, as in torch.optim."""


class Sgd:
    """The steps of ``torch.optim.SGD`` with a momentum of 0.9.

    Args:
        parameters: to optimise, in place.
        learning_rate: at first; ``Sgd.learning_rate`` may be changed between steps.
        weight_decay: added to the gradient, times the parameter.
    """

    def __init__(self, parameters: Iterable[Tensor], *, learning_rate: float, weight_decay: float) -> None:
        self.learning_rate = learning_rate
        self._parameters = list(parameters)
        self._weight_decay = weight_decay
        self._momenta: dict[int, Tensor | None] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        _forget(self._parameters)

    @torch.no_grad()
    def step(self) -> None:
        """One step for every parameter that has a gradient."""
        chosen, gradients = _with_gradient(self._parameters)
        momenta = [self._momenta.get(number) for number in chosen]
        sgd(
            [self._parameters[number] for number in chosen],
            gradients,
            momenta,
            lr=self.learning_rate,
            momentum=MOMENTUM,
            dampening=0.0,
            weight_decay=self._weight_decay,
            nesterov=False,
            maximize=False,
        )
        self._momenta.update(zip(chosen, momenta, strict=True))


class Adam:
    """The steps of ``torch.optim.Adam``, or of ``torch.optim.AdamW`` where the decay is decoupled.

    Args:
        parameters: to optimise, in place.
        learning_rate: at first; ``Adam.learning_rate`` may be changed between steps.
        weight_decay: added to the gradient, times the parameter; or, decoupled, taken off the parameter itself.
        fused: torch's kernel that does all of a step at once; it rounds otherwise than the plain form.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        learning_rate: float,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        fused: bool = False,
    ) -> None:
        self.learning_rate = learning_rate
        self.moments: dict[int, Moments] = {}
        self._parameters = list(parameters)
        self._weight_decay, self._decoupled, self._fused = weight_decay, decoupled, fused

    def zero_grad(self) -> None:
        """Forget the gradients."""
        _forget(self._parameters)

    @torch.no_grad()
    def step(self) -> None:
        """One step for every parameter that has a gradient."""
        chosen, gradients = _with_gradient(self._parameters)
        for number in chosen:
            if number not in self.moments:
                self.moments[number] = self._first_moments(self._parameters[number])
        moments = [self.moments[number] for number in chosen]
        adam(
            [self._parameters[number] for number in chosen],
            gradients,
            [own["exp_avg"] for own in moments],
            [own["exp_avg_sq"] for own in moments],
            [],
            [own["step"] for own in moments],
            fused=self._fused,
            decoupled_weight_decay=self._decoupled,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.learning_rate,
            weight_decay=self._weight_decay,
            eps=1e-8,
            maximize=False,
        )

    def _first_moments(self, parameter: Tensor) -> Moments:
        step = torch.zeros((), device=parameter.device if self._fused else "cpu")
        return {"step": step, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}


def _forget(parameters: Iterable[Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = None


def _with_gradient(parameters: list[Tensor]) -> tuple[list[int], list[Tensor]]:
    """Numbers of the parameters that have a gradient, and their gradients."""
    given = [(number, p.grad) for number, p in enumerate(parameters) if p.grad is not None]
    return [number for number, _ in given], [gradient for _, gradient in given]
