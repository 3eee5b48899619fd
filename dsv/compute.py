"""How a synthesis or a selection is computed: this changes speed and memory, not what is computed beyond rounding."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dsv.device import checked_device
from dsv.errors import DsvError

PRECISIONS = ("float32", "tf32")
_PIXELS_ON_CPU, _PIXELS_ON_CARD = 10_240, 1_000_000


@dataclass(frozen=True)
class Compute:
    """Where and how to compute.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        micro_batch: images whose graph is held at once, which sets the memory needed; 0 chooses by their size, at least
            4: on a CPU ten of 32 px, whose activations fit into its cache, on CUDA a thousand.
        precision: one of ``PRECISIONS``; ``tf32`` rounds the inputs of CUDA's matrix products and convolutions to 10
            bits of mantissa (no effect on a CPU). bfloat16 is not offered: docs/results.md says why.
        compiled: whether to use ``torch.compile``. Needs a C++ compiler; the first step then takes about a minute.

    Raises:
        DsvError: an unknown device or precision, or a negative micro-batch.
    """

    device: str = "cpu"
    micro_batch: int = 0
    precision: str = "float32"
    compiled: bool = False

    def __post_init__(self) -> None:
        checked_device(self.device)
        if self.micro_batch < 0:
            raise DsvError(f"micro-batch must be at least 1 (0 chooses by itself), got {self.micro_batch}")
        if self.precision not in PRECISIONS:
            raise DsvError(f"unknown precision {self.precision!r}; choose one of: {', '.join(PRECISIONS)}")

    @property
    def _on_cpu(self) -> bool:
        return torch.device(self.device).type == "cpu"

    def chunk(self, image_size_px: int) -> int:
        """Images a micro-batch, at least 1, for square images of that side."""
        pixels = _PIXELS_ON_CPU if self._on_cpu else _PIXELS_ON_CARD
        return self.micro_batch or max(4, pixels // image_size_px**2)

    def place(self, model: nn.Module) -> nn.Module:
        """``model`` on the device, in eval mode, in the memory layout that is fastest there; changed in place."""
        layout = torch.contiguous_format if self._on_cpu else torch.channels_last
        return model.to(device=self.device, memory_format=layout).eval()  # type: ignore[call-overload, no-any-return]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it the model runs in the chosen precision, whatever is set around it, with attention that can be
        differentiated twice. Some of the switches are the process's: threads take turns in setting them."""
        _SWITCHES.enter(tf32=self.precision == "tf32" and not self._on_cpu)
        try:
            with sdpa_kernel(SDPBackend.MATH), torch.autocast(torch.device(self.device).type, enabled=False):
                yield
        finally:
            _SWITCHES.leave()


class _Switches:
    """torch's, of the whole process: set by the first that comes, back as they were with the last that goes."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, (False, "highest", False)

    def enter(self, *, tf32: bool) -> None:
        with self._lock:
            if self._inside == 0:
                try:
                    self._before = self._now()
                    self._set(tf32, "high" if tf32 else "highest", False)
                except RuntimeError:  # torch knows two ways of setting them, and takes but one of them at a time
                    raise DsvError(
                        "torch.backends...fp32_precision was set, which excludes the switches that are set here; leave "
                        "it as it was, or use torch.set_float32_matmul_precision and torch.backends.cudnn.allow_tf32"
                    ) from None
            elif tf32 != torch.backends.cudnn.allow_tf32:
                raise DsvError("two threads compute in different precisions; let one end first, or give both the same")
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._set(*self._before)

    @staticmethod
    def _now() -> tuple[bool, str, bool]:
        fast_path = torch.backends.mha.get_fastpath_enabled()
        return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision(), fast_path

    @staticmethod
    def _set(convolutions: bool, products: str, fast_path: bool) -> None:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)
        torch.backends.mha.set_fastpath_enabled(fast_path)


_SWITCHES = _Switches()
