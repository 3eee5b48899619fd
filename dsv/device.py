"""Where to compute."""

from __future__ import annotations

import os
from itertools import chain

import torch
from torch import nn

from dsv.errors import DsvError

_TYPES = ("cpu", "cuda")


def checked_device(name: str) -> torch.device:
    """The torch device called ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        DsvError: no such device on this machine.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DsvError(f"unknown device {name!r}; choose cpu, cuda or cuda:N") from None
    if device.type not in _TYPES:
        raise DsvError(f"device {name!r} is not supported; choose cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if shown is None else f" (CUDA_VISIBLE_DEVICES is {shown!r} here and hides all others)"
        count = torch.cuda.device_count()
        raise DsvError(f"device {name} was asked for, but this machine has {count} CUDA devices{hidden}; use cpu")
    return device


def device_of(model: nn.Module) -> torch.device:
    """Where ``model`` is, by its first parameter or buffer; the CPU when it has none."""
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))


def dtype_of(model: nn.Module) -> torch.dtype:
    """What ``model`` computes in, by its first parameter; float32 when it has none."""
    return next((parameter.dtype for parameter in model.parameters()), torch.float32)
