"""``dsv wrap``: weights that were trained elsewhere, as the model file that every command takes for a teacher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dsv import DsvError, ModelSpec, Task, build_model
from protos.checkpoint import Checkpoint, save_checkpoint


def wrap(weights: Path, task: Task, architecture: str, out: Path) -> Checkpoint:
    """Write plain weights as a model file.

    Args:
        weights: safetensors file of a state dict, such as torchvision's.
        task: what the model classifies, and how its images were normalised.
        architecture: as ``ModelSpec.parse`` takes it.
        out: file to write.

    Raises:
        DsvError: as ``load_plain``, ``ModelSpec.parse`` and ``save_checkpoint``.
    """
    spec = ModelSpec.parse(architecture, task)
    checkpoint = Checkpoint(load_plain(weights, spec), spec, task)
    save_checkpoint(out, checkpoint)
    return checkpoint


def load_plain(weights: Path, spec: ModelSpec) -> nn.Module:
    """The model of ``spec`` with the weights of a file, in eval mode.

    Raises:
        DsvError: no such file, no safetensors, or the weights of another model.
    """
    try:
        found = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise DsvError(f"cannot read {weights} as safetensors ({error}); name a file of a state dict") from None
    model = build_model(spec, seed=0)
    own = model.state_dict()
    counters = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
    found = counters | found  # older files lack them, and eval mode reads none
    wrong = [name for name in sorted(own.keys() | found.keys()) if _shape(own, name) != _shape(found, name)]
    if wrong:
        raise DsvError(
            f"{weights} holds no weights of {spec}: {len(wrong)} tensors are missing, too many or of another shape, "
            f"such as {wrong[0]}; name the architecture that it was trained as"
        )
    model.load_state_dict(found)
    return model.eval()


def _shape(tensors: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None


def read_class_names(path: Path) -> tuple[str, ...]:
    """Class names, one a line in the order of the labels. Names that two classes share (crane) get their index.

    Raises:
        DsvError: the file cannot be read as text.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DsvError(f"cannot read {path}: {error.strerror}; put the class names there, one a line") from None
    except UnicodeDecodeError:
        raise DsvError(f"{path} is not text in UTF-8; put the class names there, one a line") from None
    found = [line.strip() for line in lines if line.strip()]
    counts = Counter(found)
    return tuple(name if counts[name] == 1 else f"{name}_{label}" for label, name in enumerate(found))
