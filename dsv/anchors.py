"""Stationarity elsewhere than at one end point: what the models of a federation's clients say of its images.

Eq. 5 holds for one model at the end of its training. A server of a federation holds more: every client c that has
trained to the end is stationary by itself, on images of its own,

    theta_c = - sum_i lambda_ic grad L(x_i; theta_c),   lambda_ic >= 0.

There is one set of images for all of these *anchors*, with multipliers of each client's own: clients hold different
images of different classes. Every step of a synthesis asks stationarity of anchors drawn at random. docs/zero-shot.md
says what this is worth, and that the updates of the rounds (``theta_rc - theta_r`` at ``theta_r``) are worth nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsv.errors import DsvError
from dsv.support_set import state_digest

State = Mapping[str, Tensor]
"""A model's ``state_dict``."""


@dataclass(frozen=True)
class Anchors:
    """Places in weight space where stationarity is asked.

    Args:
        clients: whose multipliers belong to each anchor, numbered from 0.
        load: from an anchor's number to the state where gradients are taken, and what minus their weighted sum shall
            point to, by parameter name. Called once a step: read large models from files.
        digest: of all of them, for the provenance.

    Raises:
        DsvError: there is no anchor.
    """

    clients: tuple[int, ...]
    load: Callable[[int], tuple[State, State]]
    digest: str

    def __post_init__(self) -> None:
        if not self.clients:
            raise DsvError("there are no client models to synthesise from; synthesise from the end point")

    def draw(self, generator: torch.Generator) -> tuple[int, State, State]:
        """A random anchor: its client, the state, and the target."""
        number = int(torch.randint(len(self.clients), (1,), generator=generator))
        return (self.clients[number], *self.load(number))


def end_point_anchors(models: Sequence[State]) -> Anchors:
    """Every client's own end point, of models that each have trained long: a one-shot federation."""
    return Anchors(tuple(range(len(models))), lambda number: (models[number], models[number]), states_digest(models))


def states_digest(states: Sequence[State]) -> str:
    """SHA-256 over the ``state_digest`` of each, in their order."""
    return hashlib.sha256("".join(state_digest(state) for state in states).encode()).hexdigest()
