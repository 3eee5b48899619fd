"""New classes learnt beside a release's: what two models know is brought together, and nothing else is promised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import done, refused
from torch import Tensor

from benchmarks.cifar import Images
from benchmarks.rehearsal_halves import Halves, Reached
from benchmarks.rehearsal_ways import dsvs, without_forgetting
from client.data import open_split
from client.rehearsal import JOINING, LEARNING, PASSES, REMEMBERING, Own, rehearse, training_for
from dsv import (
    KNOWN_TASKS,
    DsvError,
    accuracy,
    newcomer_training,
    write_picture,
)
from protos import artefact
from protos.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def halves(tmp_path_factory) -> Halves:
    task = KNOWN_TASKS["digits"]
    train, test = (open_split("digits", "", split, task) for split in ("train", "test"))
    images = Images(train.images(), train.labels, test.images(), test.labels)
    return Halves(images, task, "convnet:32", 10, 500, tmp_path_factory.mktemp("halves"))


def test_old_digits_are_not_forgotten(halves):
    """Five digits from a release alone, five from images: the weights' own way forgets the old ones."""
    reached, _ = dsvs(halves, "convnet:32", 1)
    forgot, _ = without_forgetting(halves, "convnet:32", 1)
    assert reached.every > 0.6 and reached.old > 0.4 and reached.new > 0.7
    assert forgot.old < 0.2 and forgot.new > 0.9


def test_shares_are_counted_by_half(halves):
    found = halves.tested(torch.nn.functional.one_hot(halves.images.test_labels.clamp(max=4), 10).float())
    assert found == Reached(pytest.approx(found.every), 1.0, 0.0) and 0.4 < found.every < 0.6


def test_three_trainings_are_told_and_the_model_knows_all_classes(halves):
    told: list[tuple[str, int, int]] = []
    model, task = rehearse(
        halves.release,
        halves.own,
        "resnet18:8",
        steps=2,
        seed=0,
        on_step=lambda name, done, of, loss: told.append((name, done, of)),
    )
    assert [t for t in told if t[1] == 2] == [(name, 2, 2) for name in (REMEMBERING, LEARNING, JOINING)]
    assert task.class_names == halves.task.class_names
    assert 0 <= accuracy(model, halves.images.test, halves.images.test_labels, task) <= 1
    for labels in ("hard", "soft"):
        rehearse(halves.release, halves.own, "convnet:4", labels=labels, steps=1, seed=0)
    with pytest.raises(DsvError, match="was given twice"):
        rehearse(halves.release, Own(halves.own.images, halves.own.labels, halves.old), "convnet:4", seed=0)


def test_an_expert_sees_its_images_often_enough():
    few, many = torch.zeros(100, dtype=torch.int64), torch.zeros(6000, dtype=torch.int64)
    assert training_for(100, few, 0).steps == newcomer_training().steps
    assert training_for(6000, many, 0).steps == PASSES * 6000 / 24
    assert training_for(6000, many, 7).steps == 7


def write_tree(root: Path, images: Tensor, labels: Tensor, classes: tuple[int, ...]) -> None:
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        if label in classes:
            folder = root / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            write_picture(folder / f"{number}.png", image)


def test_the_command_learns_a_folder_beside_a_release(halves, tmp_path):
    artefact.save(halves.release, tmp_path / "old.dsv")
    images = halves.images
    write_tree(tmp_path / "own" / "train", images.train[:200], images.train_labels[:200], (4, 5, 6))
    write_tree(tmp_path / "own" / "test", images.test[:60], images.test_labels[:60], (1, 5, 6, 9))
    model = tmp_path / "model.safetensors"
    given = ("rehearse", "--release", tmp_path / "old.dsv", "--quiet", "--save-model", model)
    always = (*given, "--architecture", "convnet:8")
    said = done(*always, "--images", tmp_path / "own", "--newcomer-steps", 3)
    assert "left out, since the release has them: 4" in said
    assert "model of 7 classes" in said and "of 3 classes" in said.splitlines()[-1], said
    checkpoint = load_checkpoint(model)
    assert checkpoint.task.class_names == ("0", "1", "2", "3", "4", "5", "6")
    refused("does not exist", *always, "--images", tmp_path / "none")
    write_tree(tmp_path / "one", images.train[:50], images.train_labels[:50], (4, 5))
    refused(
        "has 1 class folders that are not among the release's classes (0, 1, 2, 3, 4)",
        *always,
        "--images",
        tmp_path / "one",
    )
    (tmp_path / "one" / "6").mkdir()
    refused("holds no image", *always, "--images", tmp_path / "one")
    refused("nonsense", *given, "--images", tmp_path / "own", "--architecture", "nonsense")
