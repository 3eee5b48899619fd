"""A trained model as a file: weights, how to build it and what it classifies. safetensors, no pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from dsv import DsvError, ModelSpec, Task, build_model
from protos.files import write_output

METADATA_KEY = "feddsv-model"


@dataclass(frozen=True)
class Checkpoint:
    """A model with everything needed to use it.

    Args:
        examples: number of images that it was trained on; None where that is not told, as of a global model.
    """

    model: nn.Module
    spec: ModelSpec
    task: Task
    examples: int | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, private: bool = False) -> None:
    """Write ``checkpoint`` to ``path``, whole or not at all: a run that goes on must not meet half of one.

    Args:
        private: its user alone may read it.

    Raises:
        DsvError: it cannot be written.
    """
    described: dict[str, Any] = {"spec": asdict(checkpoint.spec), "task": asdict(checkpoint.task)}
    if checkpoint.examples is not None:
        described["examples"] = checkpoint.examples
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.model.state_dict().items()}
    content = safetensors.torch.save(tensors, metadata={METADATA_KEY: json.dumps(described, sort_keys=True)})
    write_output(path, content, "model", private=private)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read what ``save_checkpoint`` wrote; the model is on the CPU, in eval mode.

    Raises:
        DsvError: it cannot be read, is not a checkpoint, or has weights that do not fit its own description.
    """
    path = Path(path)
    try:
        path.open("rb").close()  # for the system's reason: safetensors calls a folder a device and all else not there
        with safetensors.safe_open(path, framework="pt") as opened:
            described = json.loads(opened.metadata()[METADATA_KEY])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not iterable itself)
        spec = ModelSpec(**described["spec"])
        tuples = {name: tuple(described["task"][name]) for name in ("class_names", "mean", "std")}
        task = Task(**{**described["task"], **tuples})
        examples = described.get("examples")
        if examples is not None and (type(examples) is not int or examples < 1):
            raise ValueError("a number of images")
    except OSError as error:
        raise DsvError(f"cannot read model {path}: {error.strerror or error}; name a .safetensors file") from None
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise DsvError(f"{path} is not a model written by dsv, or it is truncated; write it again") from None
    if (spec.channels, spec.image_size_px, spec.classes) != (task.channels, task.image_size_px, task.classes):
        raise DsvError(f"the model in {path} is built for other images or classes than its task's; write it again")
    model = _built(spec, tensors)
    if model is None:
        raise DsvError(f"the weights in {path} do not fit its architecture {spec.architecture}")
    return Checkpoint(model.eval(), spec, task, examples)


def _built(spec: ModelSpec, tensors: dict[str, Tensor]) -> nn.Module | None:
    """The model with these weights, or None where they do not fit."""
    if "regnet" not in spec.architecture:  # torchvision's reads numbers of tensors while it is built
        with torch.device("meta"):  # else a small file could ask for any amount of memory
            expected = build_model(spec, seed=0, device="meta").state_dict()
        if {name: tensor.shape for name, tensor in expected.items()} != {n: t.shape for n, t in tensors.items()}:
            return None
    model = build_model(spec, seed=0)
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        return None
    return model
