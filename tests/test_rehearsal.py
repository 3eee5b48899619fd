"""New classes learnt beside a release's: what two models know is brought together, and nothing else is promised."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from command_line import done, refused
from torch import Tensor, nn

from benchmarks.rehearsal_halves import Halves, Reached
from benchmarks.rehearsal_ways import dsvs, without_forgetting
from client.data import open_split
from client.rehearsal import JOINING, LEARNING, PASSES, REMEMBERING, Own, rehearse, training_for
from dsv import (
    KNOWN_TASKS,
    DsvError,
    Expert,
    Task,
    TrainingConfig,
    ViewPlan,
    accuracy,
    consolidate,
    joint_task,
    label_views,
    model_digest,
    newcomer_training,
    predict,
    write_picture,
)
from protos import artefact
from protos.checkpoint import load_checkpoint

WARM = Task(1, 4, ("dark", "bright"), (0.5,), (0.5,), mirror=False)
COLD = dataclasses.replace(WARM, class_names=("left", "right"))
QUICK = TrainingConfig(60, "adamw", 0.02, cosine=True, weight_decay=0.0, batch_size=16, translate=0.0, crop=0.0)


class Scores(nn.Module):
    """Logits that are fixed sums of pixels: (first, second) for images of 4 x 4."""

    def __init__(self, *weights: Tensor, factor: float = 1.0) -> None:
        super().__init__()
        self.weights = nn.Parameter(factor * torch.stack(weights))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weights.T


def brightness(factor: float = 1.0) -> Scores:
    return Scores(-torch.ones(16), torch.ones(16), factor=factor)


def side(factor: float = 1.0) -> Scores:
    right = torch.tensor([-1.0, -1.0, 1.0, 1.0]).repeat(4)
    return Scores(-right, right, factor=factor)


def pictures(seed: int, count: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)


def student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4))


def test_classes_are_joined_in_their_order_and_only_where_they_can_be():
    assert joint_task([WARM, COLD]).class_names == ("dark", "bright", "left", "right")
    assert joint_task([dataclasses.replace(WARM, mirror=True), COLD]).mirror
    with pytest.raises(DsvError, match="class 'bright' was given twice"):
        joint_task([WARM, dataclasses.replace(COLD, class_names=("left", "bright"))])
    for other in (dataclasses.replace(COLD, image_size_px=8), dataclasses.replace(COLD, mean=(0.4,))):
        with pytest.raises(DsvError, match="of one size, channels and normalisation"):
            joint_task([WARM, other])


def test_a_student_learns_both_answers_for_the_pictures_of_both():
    """A linear student can hold both experts whole: its logits become theirs, of either side's pictures."""
    model, new = student(), pictures(9)
    loss = consolidate(
        model, [Expert(brightness(), WARM, pictures(1)), Expert(side(), COLD, pictures(2))], QUICK, seed=0
    )
    shares = predict(model, new, joint_task([WARM, COLD]))
    for expert, columns in ((brightness(), slice(0, 2)), (side(), slice(2, 4))):
        wanted = predict(expert, new, WARM).argmax(dim=1)
        assert float((shares[:, columns].argmax(dim=1) == wanted).float().mean()) > 0.9
    assert loss > 0 and not model.training


def test_how_large_an_experts_logits_are_does_not_matter():
    models = [student(), student()]
    for model, factor in zip(models, (1.0, 1024.0), strict=True):
        experts = [Expert(brightness(factor), WARM, pictures(1)), Expert(side(), COLD, pictures(2))]
        consolidate(model, experts, QUICK, seed=0)
    one, other = (predict(model, pictures(3), joint_task([WARM, COLD])) for model in models)
    assert torch.allclose(one, other, atol=1e-4)


def test_one_seed_one_result_and_experts_stay_as_they_are():
    experts = [Expert(brightness(), WARM, pictures(1)), Expert(side(), COLD, pictures(2))]
    before = [model_digest(expert.model) for expert in experts]
    digests = []
    for seed in (0, 0, 1):
        model = student()
        consolidate(model, experts, dataclasses.replace(QUICK, steps=5), seed=seed)
        digests.append(model_digest(model))
    assert digests[0] == digests[1] != digests[2]
    assert [model_digest(expert.model) for expert in experts] == before


def test_views_are_looked_at_where_there_are_any():
    views = label_views(brightness(), pictures(1), WARM, ViewPlan(50))
    of_views = Expert(brightness(), WARM, pictures(1), views)
    consolidate(student(), [of_views, Expert(side(), COLD, pictures(2))], dataclasses.replace(QUICK, steps=3), seed=0)
    others = dataclasses.replace(of_views, images=pictures(5))
    with pytest.raises(DsvError, match="not the views that were labelled"):
        consolidate(student(), [others, Expert(side(), COLD, pictures(2))], QUICK, seed=0)


def test_what_cannot_be_brought_together_is_refused():
    with pytest.raises(DsvError, match="at least one image"):
        Expert(brightness(), WARM, pictures(1, 0))
    with pytest.raises(DsvError, match="classes"):
        Expert(student(), WARM, pictures(1))
    good = Expert(side(), COLD, pictures(2))
    with pytest.raises(DsvError, match="at least two experts"):
        consolidate(side(), [good], QUICK, seed=0)
    with pytest.raises(DsvError, match="not finite, or all the same"):
        consolidate(student(), [Expert(brightness(0.0), WARM, pictures(1)), good], QUICK, seed=0)
    with pytest.raises(DsvError, match="classes"):
        consolidate(brightness(), [Expert(brightness(), WARM, pictures(1)), good], QUICK, seed=0)


@pytest.fixture(scope="module")
def halves(tmp_path_factory) -> Halves:
    task = KNOWN_TASKS["digits"]
    train, test = (open_split("digits", "", split, task) for split in ("train", "test"))
    from benchmarks.cifar import Images

    images = Images(train.images(), train.labels, test.images(), test.labels)
    return Halves(images, task, "convnet:32", 10, 500, tmp_path_factory.mktemp("halves"))


def test_old_digits_are_not_forgotten(halves):
    """Five digits from a release alone, five from images: the weights' own way forgets the old ones."""
    reached, _ = dsvs(halves, "convnet:32", 1)
    forgot, _ = without_forgetting(halves, "convnet:32", 1)
    print(reached, forgot)
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
