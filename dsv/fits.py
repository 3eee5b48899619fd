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
_ASKED = 4
"""Times; chance that changes half of all answers is missed once in sixteen."""


def check_teacher(model: nn.Module, task: Task, *, dtypes: Sequence[torch.dtype] = (torch.float32,)) -> None:
    """Check that ``model`` answers to each of the task's images, for itself, with logits of the task's classes.

    Args:
        model: in eval mode, where it is.
        task: whose images and classes; two images of noise are tried.
        dtypes: as for ``check_fits``.

    Raises:
        DsvError: it does not.
    """
    check_fits(model, task, dtypes=dtypes)
    pair = _noise(2, model, task)
    alone, *beside = (_logits(model, images, task)[:1] for images in (pair[:1], *[pair] * _ASKED))
    # not where one is not a number
    if any(bool((alone - other).abs().max() > _SAME_ANSWER * alone.abs().max()) for other in beside):
        raise DsvError(
            "the model's answer to an image depends on chance or on the images beside it; use layers that in eval mode "
            "do neither, such as a batch norm with running statistics"
        )


def check_fits(model: nn.Module, task: Task, *, dtypes: Sequence[torch.dtype] = (torch.float32,)) -> None:
    """Check that ``model`` maps the task's images to the task's classes.

    Args:
        model: in the mode that it is asked in, and where it is.
        task: whose images and classes; one image of noise is tried.
        dtypes: that its parameters may have.

    Raises:
        DsvError: it does not.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype not in dtypes:
            raise DsvError(f"the model's {name} is {parameter.dtype}, not float32; convert it with model.float()")
    _logits(model, _noise(1, model, task), task)


def _logits(model: nn.Module, images: Tensor, task: Task) -> Tensor:
    """(N, K), without a graph; raises DsvError where the model gives anything else."""
    try:
        with torch.no_grad():
            logits = model(images)
    except (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DsvError(
            f"the model does not take images of {task.channels} x {task.image_size_px} x {task.image_size_px} "
            f"({reason}); build it for this task's channels and image size"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        raise DsvError("the model does not give logits of shape (images, classes); wrap it so that it does")
    if logits.shape[1] != task.classes:
        raise DsvError(
            f"the model has {logits.shape[1]} outputs but the task has {task.classes} classes; use matching ones"
        )
    return logits


def check_classes(labels: Tensor, task: Task) -> None:
    """Raise DsvError where one of the int64 ``labels``, at least one of them, is none of the task's classes."""
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= task.classes:
        raise DsvError(f"labels must lie in 0 to {task.classes - 1}, got {least} to {most}")


def _noise(count: int, model: nn.Module, task: Task) -> Tensor:
    """(count, C, S, S) as the model takes them. Of one grey, a norm would make rounding as large as anything, and what
    is drawn by chance nothing."""
    drawn = torch.randn(count, *task.image_shape, generator=torch.Generator().manual_seed(0))
    return drawn.to(device_of(model), dtype_of(model))
