"""Whether a model is one of a task's: what it takes, what it gives, and that its answers are each image's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dsv.device import device_of, dtype_of
from dsv.errors import DsvError
from dsv.task import Task

_SAME_ANSWER = 0.01
"""Share of the largest logit that rounding may take up, TF32's and that of another order of sums too."""


def check_teacher(model: nn.Module, task: Task, *, dtypes: Sequence[torch.dtype] = (torch.float32,)) -> None:
    """Check that ``model`` answers to each of the task's images, for itself, with logits of the task's classes.

    Args:
        model: in eval mode, where it is.
        task: whose images and classes; two images are tried.
        dtypes: as for ``check_fits``.

    Raises:
        DsvError: it does not.
    """
    check_fits(model, task, dtypes=dtypes)
    pair = _blank(2, model, task)
    pair[1] = 1
    with torch.no_grad():
        alone, beside = model(pair[:1]), model(pair)[:1]
    if bool((alone - beside).abs().max() > _SAME_ANSWER * alone.abs().max()):  # not where one is not a number
        raise DsvError(
            "the model's answer to an image depends on chance or on the images beside it; use layers that in eval mode "
            "do neither, such as a batch norm with running statistics"
        )


def check_fits(model: nn.Module, task: Task, *, dtypes: Sequence[torch.dtype] = (torch.float32,)) -> None:
    """Check that ``model`` maps the task's images to the task's classes.

    Args:
        model: in the mode that it is asked in, and where it is.
        task: whose images and classes; one black image is tried.
        dtypes: that its parameters may have.

    Raises:
        DsvError: it does not.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype not in dtypes:
            raise DsvError(f"the model's {name} is {parameter.dtype}, not float32; convert it with model.float()")
    try:
        with torch.no_grad():
            logits = model(_blank(1, model, task))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise DsvError(
            f"the model does not take images of {task.channels} x {task.image_size_px} x {task.image_size_px}; "
            "build it for this task's channels and image size"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise DsvError("the model does not give logits of shape (images, classes); wrap it so that it does")
    if tuple(logits.shape) != (1, task.classes):
        raise DsvError(
            f"the model has {logits.shape[-1]} outputs but the task has {task.classes} classes; use matching ones"
        )


def check_classes(labels: Tensor, task: Task) -> None:
    """Raise DsvError where one of the int64 ``labels``, at least one of them, is none of the task's classes."""
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= task.classes:
        raise DsvError(f"labels must lie in 0 to {task.classes - 1}, got {least} to {most}")


def _blank(count: int, model: nn.Module, task: Task) -> Tensor:
    """(count, C, S, S) zeros as the model takes them."""
    return torch.zeros(count, *task.image_shape, device=device_of(model), dtype=dtype_of(model))
