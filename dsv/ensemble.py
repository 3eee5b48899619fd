"""Several classifiers as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """The mean of several models' probabilities, as logits: (N, C, H, W) normalised images to (N, K).

    Args:
        members: at least one; each (N, C, H, W) to (N, K) logits. Their modes and devices are this module's own.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """The logarithm of the mean probability, which softmax turns back into that mean."""
        logits = torch.stack([torch.log_softmax(member(images), 1) for member in self.members])
        return torch.logsumexp(logits, 0) - math.log(len(self.members))
