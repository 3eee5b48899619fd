"""A small model that is not ours, its task and some images of it."""

from __future__ import annotations

import torch
from torch import nn

from dsv import SynthesisConfig, Task

TASK = Task(3, 8, ("a", "b", "c"), (0.5,) * 3, (0.25,) * 3)
SHORT = SynthesisConfig(images_per_class=2, iterations=2)
IMAGES = torch.randint(256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LABELS = torch.arange(6) % 3


class Net(nn.Module):
    """Some layers, and a head over what a convolution gives."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *body)
        self.head = nn.Linear(256, 3)

    def forward(self, images):
        return self.head(torch.relu(self.body(images)).flatten(1))
