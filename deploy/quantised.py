"""Just send the weights, in fewer bits: really rounded, really serialised, to be really tested."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor, nn

from dsv import DsvError

INT8, FLOAT16, FLOAT32 = "int8", "float16", "float32"
_SCALE = ".scale"


@dataclass(frozen=True)
class SentWeights:
    """Weights as they would be sent.

    Args:
        size_bytes: of the safetensors file.
        model: what a newcomer has after it has read that file, in float32 and eval mode.
    """

    size_bytes: int
    model: nn.Module


def sent_as(model: nn.Module, kind: str) -> SentWeights:
    """A model after its weights went as ``kind``.

    ``int8`` is the usual rounding without data: symmetric, one scale for each output channel of a tensor of two or
    more dimensions; vectors (biases, norms), which hardly weigh, go as float16 where it holds them.

    Raises:
        DsvError: another kind, or weights that float16 cannot hold.
    """
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    if kind == INT8:
        sent = _quantised(state)
    elif kind in (FLOAT16, FLOAT32):
        sent = {name: _as(tensor, getattr(torch, kind)) for name, tensor in state.items()}
    else:
        raise DsvError(f"weights cannot be sent as {kind!r}; choose {INT8}, {FLOAT16} or {FLOAT32}")
    if not all(bool(t.isfinite().all()) for t in sent.values()):
        raise DsvError(f"the weights do not fit into {kind}: some are too large")
    content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in sent.items()})
    received = copy.deepcopy(model).cpu()
    received.load_state_dict(_restored(safetensors.torch.load(content), state))
    return SentWeights(len(content), received.eval())


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _quantised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    sent: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.ndim >= 2:
            largest = tensor.abs().flatten(1).amax(1)
            scale = torch.where(largest > 0, largest / 127, 1.0)
            sent[name] = (tensor / _along(scale, tensor)).round().to(torch.int8)
            sent[name + _SCALE] = scale
        else:
            halves = _as(tensor, torch.float16)
            sent[name] = halves if bool(halves.isfinite().all()) else tensor
    return sent


def _restored(sent: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    restored = {}
    for name, tensor in like.items():
        value = sent[name].to(tensor.dtype)
        scale = sent.get(name + _SCALE)
        restored[name] = value if scale is None else value * _along(scale, value)
    return restored


def _along(scale: Tensor, tensor: Tensor) -> Tensor:
    """A scale for each output channel, shaped to be multiplied with the tensor."""
    return scale.view(-1, *[1] * (tensor.ndim - 1))
