"""Several classifiers as one, and what their weights tell of the images they were trained on."""

import copy

import pytest
import torch
from torch import nn

from dsv import DsvError, Ensemble, ModelSpec, Task, build_model, end_point_anchors, estimated_counts

TASK = Task(1, 8, ("a", "b", "c"), (0.5,), (0.5,))
COUNTS = torch.tensor([[90.0, 9.0, 1.0], [10.0, 90.0, 100.0], [100.0, 101.0, 99.0]])
"""All classes add up to 200."""


class Skewed(nn.Module):
    """Bayes' rule for images whose first pixels are the likelihoods of the classes."""

    def __init__(self, prior):
        super().__init__()
        self.prior = prior

    def forward(self, images):
        return (images.flatten(1)[:, : len(self.prior)] * self.prior).log()


def probabilities(model, images):
    return torch.softmax(model(images), dim=1)


def test_without_counts_it_is_the_mean_probability(task):
    members = [build_model(ModelSpec.parse("convnet:4", task), seed=seed) for seed in range(3)]
    images = torch.rand(5, *task.image_shape)
    expected = torch.stack([probabilities(member, images) for member in members]).mean(dim=0)
    torch.testing.assert_close(probabilities(Ensemble(members), images), expected)


def test_of_one_it_is_that_model_freed_of_its_shares():
    images = torch.rand(4, 1, 8, 8)
    alone = Skewed(COUNTS[0])
    torch.testing.assert_close(probabilities(Ensemble([alone]), images), probabilities(alone, images))
    balanced = probabilities(Skewed(torch.ones(3)), images)
    torch.testing.assert_close(probabilities(Ensemble([alone], COUNTS[:1]), images), balanced)


def test_differently_skewed_members_agree_on_the_images():
    images = torch.rand(6, 1, 8, 8)
    members = [Skewed(counts) for counts in COUNTS]
    balanced = probabilities(Skewed(torch.ones(3)), images)
    torch.testing.assert_close(probabilities(Ensemble(members, COUNTS), images).argmax(1), balanced.argmax(1))
    assert not torch.allclose(probabilities(Ensemble(members), images), balanced, atol=0.05)


def test_a_class_is_decided_by_who_has_seen_it():
    sure, other = torch.tensor([8.0, 0.0, 0.0]), torch.tensor([0.0, 8.0, 0.0])
    members = [_Constant(sure), _Constant(other)]
    seen_by_first = torch.tensor([[50.0, 1.0, 50.0], [1.0, 1.0, 1.0]])
    assert Ensemble(members, seen_by_first)(torch.zeros(1, 1, 8, 8)).argmax() == 0


def test_counts_are_told_from_answers_that_follow_shares_and_pictures():
    looks_like = torch.tensor([0.2, 3.0, 1.0])
    members = [_Constant((counts / counts.sum() * looks_like).log()) for counts in COUNTS]
    found = estimated_counts(members, [100, 200, 300], TASK)
    torch.testing.assert_close(found, COUNTS, rtol=1e-3, atol=1e-3)
    assert found.dtype == torch.float32


def test_a_class_that_nobody_answers_is_no_division_by_zero():
    members = [_Constant(torch.tensor([0.0, 0.0, -1000.0])) for _ in range(2)]
    found = estimated_counts(members, [5, 7], TASK)
    torch.testing.assert_close(found.sum(dim=1), torch.tensor([5.0, 7.0]))
    assert bool((found > 0).all())


@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [1.0, -1.0, 3.0], [1.0, float("nan"), 1.0]])
def test_counts_of_no_image_are_refused(row):
    members, counts = [_Constant(torch.zeros(3))] * 2, torch.tensor([[3.0, 1.0, 2.0], row])
    for refused in (lambda: Ensemble(members, counts), lambda: end_point_anchors([{}, {}], counts)):
        with pytest.raises(DsvError, match="counts of member 1 are not those of at least one image"):
            refused()


def test_counts_go_where_the_members_go_and_are_no_weights(task):
    made = Ensemble([build_model(ModelSpec.parse("convnet:4", task), seed=0)], torch.ones(1, task.classes))
    assert "counts" not in made.state_dict()
    assert copy.deepcopy(made).to(torch.device("meta")).counts.device.type == "meta"


class _Constant(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        return self.logits.expand(len(images), -1)
