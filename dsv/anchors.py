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
from torch.nn import functional

from dsv.ensemble import check_counts, class_shares
from dsv.errors import DsvError
from dsv.support_set import state_digest

State = Mapping[str, Tensor]
"""A model's ``state_dict``."""


@dataclass(frozen=True)
class Anchors:
    """Places in weight space where stationarity is asked.

    Args:
        clients: whose multipliers belong to each anchor, numbered from 0.
        load: from an anchor's number to the state where gradients are taken. Called once a step: read large models from
            files.
        digest: of all of them, for the provenance.
        shares: (C, K) share of each class in what every client was trained on, where that is known. A client's
            multipliers are then counted in these, so that whom a class is new to hardly speaks of its images.
        targets: from an anchor's number to what minus the weighted sum of gradients shall point to, by parameter name;
            the anchor's own weights (Eq. 5) when None.

    Raises:
        DsvError: there is no anchor.
    """

    clients: tuple[int, ...]
    load: Callable[[int], State]
    digest: str
    shares: Tensor | None = None
    targets: Callable[[int], State] | None = None

    def __post_init__(self) -> None:
        if not self.clients:
            raise DsvError("there are no client models to synthesise from; synthesise from the end point")

    def units(self, labels: Tensor) -> Tensor:
        """(N, C) float32 that multipliers are counted in, of (N,) int64 or (N, K) float labels; their mean is 1."""
        if self.shares is None:
            return torch.ones(len(labels), 1 + max(self.clients))
        classes = self.shares.shape[1]
        rows = labels.float() if labels.ndim == 2 else functional.one_hot(labels, classes).float()
        return classes * rows @ self.shares.float().cpu().T

    def draw(self, generator: torch.Generator) -> int:
        """The number of a random anchor."""
        return int(torch.randint(len(self.clients), (1,), generator=generator))


def end_point_anchors(models: Sequence[State], counts: Tensor | None = None) -> Anchors:
    """Every client's own end point, of models that each have trained long: a one-shot federation.

    Args:
        models: C states, at least one.
        counts: (C, K) how many images of each class every client has, up to a factor; see ``estimated_counts``.

    Raises:
        DsvError: there is no model, or counts that are not of at least one image a client.
    """
    check_counts(counts)
    shares = None if counts is None else class_shares(counts)
    digest = states_digest(models)
    if shares is not None:
        digest = states_digest([*models, {"shares": shares}])
    return Anchors(tuple(range(len(models))), models.__getitem__, digest, shares)


def states_digest(states: Sequence[State]) -> str:
    """SHA-256 over the ``state_digest`` of each, in their order."""
    return hashlib.sha256("".join(state_digest(state) for state in states).encode()).hexdigest()
