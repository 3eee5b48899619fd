"""CIFAR-10 and the paper's teachers for the benchmarks; every piece of work is done once and kept on disk."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.students import trained_form
from client.data import open_split
from dsv import KNOWN_TASKS, ModelSpec, TrainingConfig, accuracy, build_model, train
from protos.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from protos.settings import IMAGEFOLDER

TASK = KNOWN_TASKS["cifar10"]
TEACHER = "convnet:128:instance:max"


@dataclass(frozen=True)
class Images:
    """(N, C, H, W) uint8 and (N,) int64 of both splits."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def load_images(root: str, cache: Path, *, name: str = "cifar10") -> Images:
    """The images of an ImageFolder tree, decoded once into ``cache``."""
    path = cache / f"{name}.safetensors"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        for split in ("train", "test"):
            opened = open_split(IMAGEFOLDER, root, split, KNOWN_TASKS[name])
            tensors |= {split: opened.images(), f"{split}_labels": opened.labels}
        save_file(tensors, path)
    return Images(**load_file(path))


def paper_teacher(
    images: Images,
    cache: Path,
    *,
    seed: int,
    epochs: int,
    device: str,
    bfloat16: bool,
    compiled: bool = False,
    architecture: str = TEACHER,
    overfitted: bool = False,
) -> Checkpoint:
    """The paper's teacher (Appendix D): Adam 1e-3, weight decay 5e-3, flipping and cropping; a cosine to 0 so that it
    ends near a stationary point. Batches of 128; the paper gives neither batch size nor epochs. ``compiled``: see
    ``trained_form``. ``overfitted``: without weight decay and cropping, so that it fits nearly all of its own images,
    as the paper says of its teacher elsewhere (section 5) and as that weight decay prevents."""
    kind = "-overfitted" if overfitted else ""
    path = cache / f"teacher-{architecture.replace(':', '-')}-{epochs}-{seed}{kind}.safetensors"
    if path.exists():
        return load_checkpoint(path)
    spec = ModelSpec.parse(architecture, TASK)
    model = build_model(spec, seed=seed, device=device).to(memory_format=torch.contiguous_format)
    steps = epochs * len(images.train) // 128
    config = TrainingConfig(steps, "adam", 1e-3, True, 5e-3, 128, crop=0.0, bfloat16=bfloat16)
    if overfitted:
        config = replace(config, weight_decay=0.0, translate=0.0)
    started = time.perf_counter()

    def report(step: int, loss: float) -> None:
        if step % 100 == 0:
            print(
                f"teacher {seed}: {step}/{steps} loss {loss:.3f} {time.perf_counter() - started:.0f} s", file=sys.stderr
            )

    runs = trained_form(model, compiled=compiled)
    train(runs, images.train, images.train_labels, TASK, config, seed=seed, on_step=report)
    checkpoint = Checkpoint(model.cpu().to(memory_format=torch.contiguous_format), spec, TASK)
    reached = accuracy(model, images.test, images.test_labels, TASK)
    print(f"teacher {seed}: {epochs} epochs, test accuracy {reached:.1%}", file=sys.stderr)
    save_checkpoint(path, checkpoint)
    return checkpoint
