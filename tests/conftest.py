"""Small real things that the tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from dsv import KNOWN_TASKS, ModelSpec, SupportSet, SynthesisConfig, Task, build_model, synthesize
from protos.checkpoint import Checkpoint


@pytest.fixture(scope="session")
def task() -> Task:
    return KNOWN_TASKS["digits"]


@pytest.fixture(scope="session")
def teacher(task: Task) -> Checkpoint:
    spec = ModelSpec.parse("convnet:8", task)
    return Checkpoint(build_model(spec, seed=3).eval(), spec, task)


@pytest.fixture(scope="session")
def support_set(teacher: Checkpoint, task: Task) -> SupportSet:
    config = SynthesisConfig(images_per_class=2, iterations=3)
    return synthesize(teacher.model, task, config, seed=0, teacher_architecture="convnet:8")


@pytest.fixture
def image_tree(tmp_path: Path) -> Path:
    """An ImageFolder tree of two classes, which colour alone tells apart."""
    root = tmp_path / "tree"
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 12), ("test", 4)):
        for name, colour in (("red", 0), ("blue", 2)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(0, 60, (10, 12, 3), generator=generator, dtype=torch.uint8)
                pixels[:, :, colour] += 180
                Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return root
