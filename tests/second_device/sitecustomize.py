"""In every Python process whose path begins with this folder, dsv knows the device ``card`` of ``device.cpp``.

SECOND_DEVICE names its built library. Nothing is loaded before ``dsv.device`` is: Ray's helpers would take too long.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _load()
        module._TYPES = (*module._TYPES, "card")  # type: ignore[attr-defined]


class _Finder:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == "dsv.device" else None
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(name, spec.origin)
        return spec


def _load() -> None:
    import torch

    torch.ops.load_library(os.environ["SECOND_DEVICE"])
    torch.utils.rename_privateuse1_backend("card")
    card = ModuleType("torch.card")
    functions = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "manual_seed_all": lambda seed: None,
        "_is_in_bad_fork": lambda: False,
        "get_amp_supported_dtype": lambda: [torch.bfloat16],
    }
    for name, function in functions.items():
        setattr(card, name, function)
    torch._register_device_module("card", card)


if "SECOND_DEVICE" in os.environ:
    sys.meta_path.insert(0, _Finder)
