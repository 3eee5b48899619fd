"""Several classifiers as one, each of which may have seen its own share of every class.

A model that was trained on skewed classes answers with that skew: it has p(y|x) = p(x|y) s(y) / p(x), where s is the
share of each class in its images. Divided by s, models that were trained on different skews speak of the same p(x|y)
(prior shift: Saerens et al., Neural Computation 2002; Menon et al., *Long-tail learning via logit adjustment*,
arXiv:2007.07314), and each is worth most where it saw most. docs/zero-shot.md says what this is worth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dsv.dead_leaves import draw_dead_leaves
from dsv.errors import DsvError
from dsv.evaluation import predict
from dsv.task import Task

SMALLEST_SHARE = 1e-4
PICTURES = 1_000
_FITTING_STEPS = 200


class Ensemble(nn.Module):
    """Several models' probabilities as one model's logits: (N, C, H, W) normalised images to (N, K).

    Args:
        members: M models, at least one; each (N, C, H, W) to (N, K) logits. Their modes and devices are this module's
            own.
        counts: (M, K) how many images of each class every member was trained on, up to a common factor; the mean is
            then taken of probabilities that are freed of each member's shares, weighted by the square root of its
            counts. The plain mean when None.

    Raises:
        DsvError: counts that are not of at least one image a member.
    """

    counts: Tensor | None

    def __init__(self, members: Sequence[nn.Module], counts: Tensor | None = None) -> None:
        super().__init__()
        check_counts(counts)
        self.members = nn.ModuleList(members)
        self.register_buffer("counts", counts, persistent=False)  # of how to use the weights, not one of them

    def forward(self, images: Tensor) -> Tensor:
        """The logarithm of the mean probability."""
        answers = torch.stack([torch.log_softmax(member(images), 1) for member in self.members])
        if self.counts is None:
            return torch.logsumexp(answers, 0) - math.log(len(self.members))
        shares = class_shares(self.counts).clamp_min(SMALLEST_SHARE)
        freed = torch.log_softmax(answers - shares.log()[:, None], dim=2)
        weights = (shares * self.counts.sum(dim=1, keepdim=True)).sqrt()
        return torch.logsumexp(freed + (weights / weights.sum(dim=0)).log()[:, None], 0)


def class_shares(counts: Tensor) -> Tensor:
    """(M, K) share of each class, of (M, K) counts."""
    return counts / counts.sum(dim=1, keepdim=True)


def check_counts(counts: Tensor | None) -> None:
    """Raise DsvError where a row of the (M, K) counts is of no image, or holds what is no number of images."""
    if counts is None:
        return
    wrong = torch.nonzero(~(counts.isfinite().all(dim=1) & (counts >= 0).all(dim=1) & (counts.sum(dim=1) > 0)))
    if len(wrong):
        raise DsvError(f"the counts of member {int(wrong[0])} are not those of at least one image; leave it out")


def estimated_counts(
    members: Sequence[nn.Module], sizes: Sequence[int], task: Task, *, device: torch.device | str = "cpu"
) -> Tensor:
    """How many images of each class every member was trained on, told from its weights and number of images.

    What a member takes dead leaves for follows its own shares, and what dead leaves look like to all of them. The
    latter is cancelled by the assumption that all members together saw every class alike: the means of their answers
    are scaled, by class and by member in turn, until classes add up to the same and members to their sizes (iterative
    proportional fitting: Deming and Stephan, Annals of Mathematical Statistics 1940).

    Args:
        members: M models of the task in eval mode; they are moved to the device.
        sizes: how many images each was trained on, at least 1.
        device: where to ask them.

    Returns:
        (M, K) float32 on the device, above 0.
    """
    pictures = draw_dead_leaves(PICTURES, task, torch.Generator().manual_seed(0))
    seen = [predict(member.to(device), pictures, task).mean(dim=0) for member in members]
    counts = torch.stack(seen).double().cpu().clamp_min(torch.finfo(torch.float32).tiny)
    of_members = torch.tensor(sizes, dtype=torch.float64)[:, None]
    for _ in range(_FITTING_STEPS):
        counts = counts / counts.sum(dim=0)
        counts = counts * of_members / counts.sum(dim=1, keepdim=True)
    return counts.float().to(device)
