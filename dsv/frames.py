"""Looks at a synthesis on its way: for people; the synthesis itself takes no notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Frames:
    """Which iterations to look at, and what is done with the candidates.

    Args:
        at: numbers of iterations done; 0 is the start. Those that a resumed synthesis has behind it are passed over.
        take: called on rank 0 with the number of iterations done and all candidates' pixels, (N, C, h, w) uint8 at the
            side of the present stage.
    """

    at: frozenset[int]
    take: Callable[[int, Tensor], None]
