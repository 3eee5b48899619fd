"""Where to compute."""

from __future__ import annotations

import torch

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
        raise DsvError(
            f"device {name} was asked for, but this machine has {torch.cuda.device_count()} CUDA devices; use cpu"
        )
    return device
