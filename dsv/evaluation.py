"""What a classifier says of images: probabilities and accuracy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dsv.device import device_of, dtype_of
from dsv.pixels import from_uint8
from dsv.task import Task

_MOST, _PIXELS = 512, 1 << 18


def asked_at_once(task: Task) -> int:
    """Of how many images a model is asked at once: few large ones, so that memory does not follow their size."""
    return max(1, min(_MOST, _PIXELS // task.image_size_px**2))


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, task: Task, *, batch_size: int = 0) -> Tensor:
    """Class probabilities, (N, K) float32 on the CPU, of (N, C, H, W) images in bytes (uint8, or float 0 to 255).

    The model is asked where it is, in its parameters' dtype, and put in eval mode.

    Args:
        batch_size: images that it is asked of at once, which sets the memory needed; 0 chooses by their size.
    """
    model.eval()
    device, dtype = device_of(model), dtype_of(model)
    batches = [
        torch.softmax(model(from_uint8(batch, task, device=device, dtype=dtype)).float(), dim=1).cpu()
        for batch in torch.split(images, batch_size or asked_at_once(task))
    ]
    return torch.cat(batches) if batches else torch.empty(0, task.classes)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, task: Task) -> float:
    """Share of (N, C, H, W) uint8 images whose most probable class is their (N,) int64 label, 0 to 1."""
    return share_correct(predict(model, images, task), labels)


def share_correct(probabilities: Tensor, labels: Tensor) -> float:
    """Share of the (N, K) probabilities whose largest is that of the (N,) int64 label, 0 to 1."""
    return float((probabilities.argmax(dim=1) == labels).float().mean())
