"""DSV sets that tests make of others."""

import dataclasses

import torch


def of_classes(support_set, labels):
    """The set's images of some classes alone, under the same task; its views are of more images, and left out."""
    kept = torch.isin(support_set.labels, torch.tensor(labels))
    tensors = {name: getattr(support_set, name)[kept] for name in ("images", "labels", "soft_labels", "multipliers")}
    return dataclasses.replace(support_set, **tensors, views=None)
