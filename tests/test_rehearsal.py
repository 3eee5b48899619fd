"""New classes learnt beside a release's: what two models know is brought together, and nothing else is promised."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from command_line import done, refused
from sets import of_classes
from torch import Tensor

from benchmarks.cifar import Images
from benchmarks.rehearsal_halves import Halves, Reached
from benchmarks.rehearsal_ways import dsvs, without_forgetting
from client.data import open_split
from client.rehearsal import JOINING, LEARNING, PASSES, REMEMBERING, Own, joining_for, rehearse, training_for
from dsv import (
    KNOWN_TASKS,
    DsvError,
    ViewPlan,
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
    assert training_for(100, few, 0).learning_rate > training_for(6000, many, 0).learning_rate, "as for any newcomer"
    assert joining_for(100, few, 0).steps == newcomer_training().steps
    assert joining_for(24_000, many, 0).steps == 1_000 and joining_for(24_000, many, 7).steps == 7


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
    done(*always, "--images", tmp_path / "own", "--newcomer-steps", 1, "--labels", "hard")
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


@pytest.fixture
def digits(halves, tmp_path):
    """Writes a folder of some digits' pictures; the release of the old ones lies beside it."""
    artefact.save(halves.release, tmp_path / "old.dsv")
    images = halves.images

    def write(place: str, *classes: int) -> None:
        write_tree(tmp_path / place, images.train[:200], images.train_labels[:200], classes)

    return write


def command(folder: Path, release: str = "old.dsv") -> tuple[object, ...]:
    given = ("rehearse", "--release", folder / release, "--images", folder / "own", "--quiet", "--newcomer-steps", 1)
    return (*given, "--architecture", "convnet:4", "--save-model", folder / "m.safetensors")


def test_pictures_to_test_on_are_looked_at_before_anything_is_trained(digits, tmp_path):
    digits("own/train", 5, 6)
    digits("own/test", 5, 6)
    broken = next((tmp_path / "own" / "test" / "6").iterdir())
    broken.write_bytes(b"no picture")
    refused("cannot be decoded", *command(tmp_path))
    assert not (tmp_path / "m.safetensors").exists()
    broken.unlink()
    for name in ("5", "6"):
        (tmp_path / "own" / "test" / name).rename(tmp_path / "own" / "test" / f"digit-{name}")
    refused("has no image of the model's classes; name its folders as in train/", *command(tmp_path))


def test_a_test_folder_beside_classes_is_not_a_class(digits, tmp_path):
    digits("own", 5, 6)
    digits("own/test", 5, 6)
    refused("lies beside classes and holds some; put the images to train on into", *command(tmp_path))
    (tmp_path / "own" / "test").rename(tmp_path / "elsewhere")
    assert "model of 7 classes" in done(*command(tmp_path))


def test_a_strangers_class_names_lead_to_no_other_folder(digits, halves, tmp_path):
    digits("own/train", 5, 6)
    digits("own/test", 5, 6)
    digits("private", 7)
    names = ("../../private", "../../private/7", ".", str(tmp_path / "private"), "x" * 300)
    task = dataclasses.replace(halves.release.task, class_names=names)
    artefact.save(dataclasses.replace(halves.release, task=task), tmp_path / "evil.dsv")
    count = sum(1 for _ in (tmp_path / "own" / "test").rglob("*.png"))
    assert f"of {count} images of 2 classes" in done(*command(tmp_path, "evil.dsv"))


def test_classes_of_which_a_release_shows_nothing_are_ones_own_to_learn(digits, halves, tmp_path):
    part = of_classes(halves.release, [0, 1, 2])
    artefact.save(part.with_views(halves.teacher, ViewPlan(50)), tmp_path / "part.dsv")
    digits("own", 2, 3, 4, 5)
    said = done(*command(tmp_path, "part.dsv"))
    assert "images of 0, 1, 2\n" in said and "since the release has them: 2\n" in said, said
    assert load_checkpoint(tmp_path / "m.safetensors").task.class_names == ("0", "1", "2", "3", "4", "5")
