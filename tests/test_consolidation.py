"""What two models know is brought together in a third: the mathematics, on torch alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from sets import of_classes
from torch import Tensor, nn

from dsv import (
    DsvError,
    Expert,
    Task,
    TrainingConfig,
    ViewPlan,
    consolidate,
    joint_task,
    label_views,
    model_digest,
    of_shown_classes,
    predict,
)
from dsv.rehearsal import _some_pictures

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


def test_an_expert_answers_in_eval_mode_whatever_it_was_put_in_since():
    seen = nn.Sequential(nn.BatchNorm2d(1), brightness())
    experts = [Expert(seen, WARM, pictures(1)), Expert(side(), COLD, pictures(2))]
    seen.train()
    before = model_digest(seen)
    consolidate(student(), experts, dataclasses.replace(QUICK, steps=2), seed=0)
    assert model_digest(seen) == before


def test_views_are_looked_at_where_there_are_any():
    views = label_views(brightness(), pictures(1), WARM, ViewPlan(50))
    of_views = Expert(brightness(), WARM, pictures(1), views)
    consolidate(student(), [of_views, Expert(side(), COLD, pictures(2))], dataclasses.replace(QUICK, steps=3), seed=0)
    others = dataclasses.replace(of_views, images=pictures(5))
    with pytest.raises(DsvError, match="not the views that were labelled"):
        consolidate(student(), [others, Expert(side(), COLD, pictures(2))], QUICK, seed=0)


def test_a_set_that_shows_some_classes_alone_is_one_of_these(teacher, support_set):
    whole = support_set.with_views(teacher.model, ViewPlan(30))
    assert of_shown_classes(whole) is whole
    part = dataclasses.replace(of_classes(whole, [2, 7]), views=whole.views)
    found = of_shown_classes(part)
    assert found.task.class_names == ("2", "7") and found.labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(found.images, part.images) and torch.equal(found.views.levels, part.views.levels[:, [2, 7]])
    odds = part.soft_labels[:, 2] / part.soft_labels[:, 7]
    torch.testing.assert_close(found.soft_labels[:, 0] / found.soft_labels[:, 1], odds, rtol=1e-3, atol=0)
    nothing = torch.zeros(4, 10).index_fill(1, torch.tensor([0]), 1.0)
    assert of_shown_classes(dataclasses.replace(part, soft_labels=nothing)).soft_labels.tolist() == [[0.5, 0.5]] * 4


def test_a_single_shown_class_is_no_task(support_set):
    with pytest.raises(DsvError, match="images of '7' alone; a task needs two classes"):
        of_shown_classes(of_classes(support_set, [7]))


def test_many_pictures_are_looked_at_a_part_at_a_time():
    experts = [Expert(brightness(), WARM, pictures(1, 1999)), Expert(side(), COLD, pictures(2, 10))]
    parts = [list(_some_pictures(expert)) for expert in experts]
    assert [sum(map(len, own)) for own in parts] == [1000, 10] and max(map(len, parts[0])) <= 250


def test_what_cannot_be_brought_together_is_refused():
    with pytest.raises(DsvError, match="at least one image"):
        Expert(brightness(), WARM, pictures(1, 0))
    with pytest.raises(DsvError, match="classes"):
        Expert(student(), WARM, pictures(1))
    good = Expert(side(), COLD, pictures(2))
    with pytest.raises(DsvError, match="no task to join"):
        joint_task([])
    with pytest.raises(DsvError, match="at least two experts"):
        consolidate(side(), [good], QUICK, seed=0)
    with pytest.raises(DsvError, match="not finite, or all the same"):
        consolidate(student(), [Expert(brightness(0.0), WARM, pictures(1)), good], QUICK, seed=0)
    with pytest.raises(DsvError, match="classes"):
        consolidate(brightness(), [Expert(brightness(), WARM, pictures(1)), good], QUICK, seed=0)
