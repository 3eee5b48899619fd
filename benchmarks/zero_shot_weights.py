"""The honest rival's bytes: the teacher's weights at several precisions, really rounded and really tested."""

from __future__ import annotations

from collections.abc import Callable

import torch
from safetensors.torch import save
from torch import Tensor, nn

from dsv import build_model
from protos.checkpoint import Checkpoint

State = dict[str, Tensor]


def _int8(state: State) -> tuple[State, State]:
    """Rounded to 127 steps on either side of 0, one scale per output channel, beside what that decodes to."""
    stored, decoded = State(), State()
    for name, value in state.items():
        if not value.is_floating_point() or value.ndim < 2:
            stored[name] = decoded[name] = value
            continue
        scale = value.flatten(1).abs().amax(dim=1).clamp(min=1e-12) / 127
        shaped = scale.view(-1, *[1] * (value.ndim - 1))
        stored[name], stored[f"{name}.scale"] = (value / shaped).round().to(torch.int8), scale
        decoded[name] = stored[name].float() * shaped
    return stored, decoded


def _float16(state: State) -> tuple[State, State]:
    stored = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    return stored, {name: value.float() if value.dtype == torch.float16 else value for name, value in stored.items()}


PRECISIONS: dict[str, Callable[[State], tuple[State, State]]] = {
    "fp32": lambda state: (state, state),
    "fp16": _float16,
    "int8": _int8,
}
"""What is stored, and what a newcomer decodes from it."""


def quantised(teacher: Checkpoint, precision: str) -> tuple[nn.Module, int]:
    """The teacher as a newcomer gets it, in eval mode, and the bytes of its weights as a safetensors file."""
    stored, decoded = PRECISIONS[precision](teacher.model.state_dict())
    model = build_model(teacher.spec, seed=0)
    model.load_state_dict(decoded)
    return model.eval(), len(save({name: value.contiguous() for name, value in stored.items()}))
