"""The model before the first round, and which of its tensors travel between a device and the server."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from flwr.app import ArrayRecord
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dsv import DsvError, build_model, chosen_parameters, train_only
from protos.allowlist import ArrayLayout, Layout
from protos.settings import RunSettings

WHOLE = "*"
"""The pattern that means the whole model."""


def starting_model(settings: RunSettings, backbone: str = "") -> nn.Module:
    """The model before the first round, the same on both sides; all but ``settings.trainable`` is frozen.

    Args:
        backbone: this machine's copy of ``settings.backbone``; that one when empty. Not read where a run has none: a
            device names its copy once, for all runs.

    Raises:
        DsvError: no such architecture or parameters, or a backbone's file that is not what it should be.
    """
    model = build_model(settings.model_spec(), seed=settings.seed)
    trainable = train_only(model, settings.trainable)
    if settings.backbone:
        _load_backbone(model, Path(backbone or settings.backbone), settings.backbone_sha256, trainable)
    return model


def exchanged_tensors(model: nn.Module, trainable: str) -> dict[str, Tensor]:
    """What travels: the whole state with ``*``, else the trained parameters alone; detached, on the CPU."""
    chosen = model.state_dict() if trainable == WHOLE else chosen_parameters(model, trainable)
    return {name: tensor.detach().cpu() for name, tensor in chosen.items()}


def as_record(tensors: dict[str, Tensor], dtype: str = "float32") -> ArrayRecord:
    """Tensors as Flower carries them; floats as ``dtype``, all else as it is."""
    kind: torch.dtype = getattr(torch, dtype)
    return ArrayRecord({name: t.to(kind) if t.is_floating_point() else t for name, t in tensors.items()})


def load_record(model: nn.Module, record: ArrayRecord) -> None:
    """Put the record's tensors into ``model``; the others stay."""
    model.load_state_dict(record.to_torch_state_dict(), strict=False)


def reply_layout(layout: Layout, upload_dtype: str) -> Layout:
    """What a reply's arrays look like when floats are sent as ``upload_dtype``."""
    return {
        name: ArrayLayout(upload_dtype if array.dtype.startswith("float") else array.dtype, array.shape)
        for name, array in layout.items()
    }


def _load_backbone(model: nn.Module, path: Path, sha256: str, trainable: dict[str, Tensor]) -> None:
    try:
        if sha256 and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise DsvError(f"backbone {path} is another file than the federation's: its SHA-256 is not {sha256}")
        stored = load_file(path)
    except OSError as error:
        raise DsvError(f"cannot read backbone {path}: {error.strerror or 'no such file'}; name its file") from None
    except SafetensorError:
        raise DsvError(f"backbone {path} is no safetensors file, or it is truncated; fetch it again") from None
    wanted = model.state_dict()
    prefix = "inner." if all(name.startswith("inner.") for name in wanted) else ""  # grey images, see dsv/models.py
    fitting = {
        prefix + name: t
        for name, t in stored.items()
        if prefix + name in wanted and t.shape == wanted[prefix + name].shape
    }
    if missing := sorted(set(wanted) - set(fitting) - set(trainable)):
        raise DsvError(
            f"backbone {path} lacks {missing[0]!r}, or it has another shape there; it must hold all frozen tensors"
        )
    if not fitting:
        raise DsvError(f"backbone {path} holds no tensor of this model; name weights of its architecture")
    model.load_state_dict(fitting, strict=False)
