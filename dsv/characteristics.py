"""What the paper reads off Deep Support Vectors: accuracy, multipliers and entropy of every class (Fig. 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from dsv.errors import DsvError


def class_accuracies(probabilities: Tensor, labels: Tensor) -> Tensor:
    """(K,) float32 accuracy of every class; not a number for a class without images.

    Args:
        probabilities: (N, K) float, of a classifier for N images.
        labels: (N,) int64.
    """
    classes = probabilities.shape[1]
    hit = (probabilities.argmax(dim=1) == labels).float()
    return torch.zeros(classes).index_add_(0, labels, hit) / torch.bincount(labels, minlength=classes)


def confusion_counts(probabilities: Tensor, labels: Tensor) -> Tensor:
    """(K, K) int64: how many images of the row's class were taken for the column's. Args as ``class_accuracies``."""
    classes = probabilities.shape[1]
    pairs = labels * classes + probabilities.argmax(dim=1)
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def class_sums(multipliers: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(K,) float32 sum of the (N,) multipliers of every class (Fig. 2b)."""
    return torch.zeros(classes).index_add_(0, labels, multipliers.float())


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's correlation of two (n,) tensors, n >= 2; equal values share their mean rank. Not a number where all
    values of one are equal.

    Raises:
        DsvError: lengths differ, fewer than two values, or one that is not a number, which has no rank.
    """
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise DsvError(
            f"a rank correlation needs two equally long rows, got {tuple(first.shape)}, {tuple(second.shape)}"
        )
    ranks = []
    for values in (first.double(), second.double()):
        if bool(values.isnan().any()):
            raise DsvError("a rank correlation has no place for what is not a number; leave such pairs out")
        _, place, equal = torch.unique(values, return_inverse=True, return_counts=True)
        ranks.append((equal.cumsum(0) - (equal.double() + 1) / 2)[place])
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])
