"""The mathematics of dsv/deepkkt.py against slow definitions, in float64."""

import math

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional

from dsv import (
    DISTANCES,
    DsvError,
    KktWeights,
    chosen_parameters,
    deepkkt_loss,
    image_norm,
    lagrangian_gradient,
    layer_cosine,
    mean_l1,
    prediction_entropy,
    primal_loss,
    project_dual,
    relative_l2,
    stationarity_loss,
    total_variation,
)

CLASSES, COUNT = 3, 4


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    # Smooth activations: finite differences of a ReLU network's gradient are wrong at its kinks.
    layers = (nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 16, CLASSES))
    return nn.Sequential(*layers).double()


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(COUNT, 1, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    multipliers = torch.rand(COUNT, generator=generator, dtype=torch.float64).requires_grad_()
    return images, torch.tensor([0, 1, 2, 0]), multipliers


def test_lagrangian_gradient_is_the_sum_of_weighted_per_sample_gradients(model, inputs):
    images, labels, multipliers = inputs
    parameters = dict(model.named_parameters())
    fast = lagrangian_gradient(model(images), labels, multipliers, parameters)
    slow = [torch.zeros_like(p) for p in parameters.values()]
    for i in range(COUNT):
        loss = functional.cross_entropy(model(images[i : i + 1]), labels[i : i + 1])
        for total, gradient in zip(slow, torch.autograd.grad(loss, list(parameters.values())), strict=True):
            total += multipliers[i].detach() * gradient
    for ours, reference in zip(fast.values(), slow, strict=True):
        torch.testing.assert_close(ours, reference)


@pytest.mark.parametrize("name", DISTANCES)
def test_stationarity_gradients_reach_images_and_multipliers(model, inputs, name):
    images, labels, multipliers = inputs
    parameters = dict(model.named_parameters())

    def loss(x, lam):
        return stationarity_loss(model(x), labels, lam, parameters, DISTANCES[name])

    assert gradcheck(loss, (images, multipliers), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", DISTANCES)
def test_a_linear_support_vector_machine_is_stationary(name):
    """Eq. 5 on a hard-margin machine solved by hand: w = (1, 0), b = 0, alpha = (1/3, 1/6, 1/2) for the points at the
    margin and 0 for the one behind it.

    Its two rows are -w / 2 and w / 2, so that the logits differ by w x, which is y = 1 or -1 at every support vector.
    There -grad L is sigmoid(-1) y x for the second row and its opposite for the first; and as w = sum alpha y x, Eq. 5
    holds with lambda = alpha / (2 sigmoid(-1)).
    """
    points = torch.tensor([[1.0, 1.0], [1.0, -2.0], [-1.0, 0.0], [4.0, 7.0]], dtype=torch.float64)
    labels = torch.tensor([1, 1, 0, 1])
    coefficients = torch.tensor([1 / 3, 1 / 6, 1 / 2, 0.0], dtype=torch.float64)
    machine = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        machine.weight.copy_(torch.tensor([[-0.5, 0.0], [0.5, 0.0]]))

    def stationarity(multipliers, wanted=labels):
        parameters = dict(machine.named_parameters())
        return float(stationarity_loss(machine(points), wanted, multipliers, parameters, DISTANCES[name]).detach())

    multipliers = coefficients / (2 * torch.sigmoid(torch.tensor(-1.0, dtype=torch.float64)))
    # lengths below 1e-5 of the whole fade out of the cosine, which costs that much
    assert stationarity(multipliers) == pytest.approx(0, abs=2e-5 if name == "layer-cosine" else 1e-12)
    behind_the_margin = multipliers + torch.tensor([0.0, 0.0, 0.0, 1.0])
    without_one = multipliers * torch.tensor([0.0, 1.0, 1.0, 1.0])
    for wrong in (multipliers.mean().expand(4), multipliers[[1, 0, 2, 3]], behind_the_margin, without_one):
        assert stationarity(wrong) > 0.01
    assert stationarity(multipliers, 1 - labels) > 0.5
    if name != "layer-cosine":  # which is blind to a common factor
        assert stationarity(2 * multipliers) > 0.1


def test_primal_loss_counts_misclassified_samples_alone():
    logits = torch.tensor([[5.0, 0.0], [5.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0, 1])
    expected = functional.cross_entropy(logits[1:], labels[1:]) / 2
    torch.testing.assert_close(primal_loss(logits, labels), expected)
    assert float(primal_loss(logits.detach(), torch.tensor([0, 0]))) == 0.0
    soft = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
    assert float(primal_loss(logits.detach(), soft)) == 0.0
    tie = torch.tensor([[0.5, 0.5], [0.4, 0.6]])
    assert float(primal_loss(logits.detach(), tie)) == pytest.approx(0.6 * 5 / 2, rel=0.01)


@pytest.mark.parametrize(
    ("labels", "wrong"),
    [
        (torch.tensor([0, 1, 2, 0]), [False, True, True, False]),
        (torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0]] * 0.7 + 0.1, [False, True, True, False]),
        (torch.tensor([2, 0, 1, 2]), [True, True, True, True]),
    ],
)
def test_primal_gradients_by_gradcheck(labels, wrong):
    """Away from the kink of Eq. 7, where two classes are equally probable: in every row the largest logit leads by 0.5
    or more, so that a step of 1e-6 changes nobody's class. The gradient of who is right is exactly 0."""
    logits = torch.tensor(
        [[1.5, 1.0, -2.0], [0.3, -0.4, 0.9], [2.0, -1.0, 1.0], [0.5, -0.2, -0.1]], dtype=torch.float64
    ).requires_grad_()
    assert gradcheck(lambda given: primal_loss(given, labels), (logits,), eps=1e-6, atol=1e-7)
    (gradient,) = torch.autograd.grad(primal_loss(logits, labels), logits)
    assert gradient.abs().amax(dim=1).gt(0).tolist() == wrong


def test_distances_by_hand():
    theta = {"a.weight": torch.tensor([3.0, 4.0]), "b.weight": torch.tensor([[1.0]])}
    zero = {"a.weight": torch.zeros(2), "b.weight": torch.zeros(1, 1)}
    assert float(mean_l1(theta, zero)) == pytest.approx(8 / 3)
    assert float(relative_l2(theta, zero)) == pytest.approx(1.0)
    assert float(layer_cosine(theta, {n: -t for n, t in theta.items()})) == pytest.approx(2.0, abs=1e-4)
    assert float(layer_cosine(theta, {n: 7 * t for n, t in theta.items()})) == pytest.approx(0.0, abs=1e-4)


def test_dual_feasibility_is_a_projection():
    multipliers = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    project_dual(multipliers)
    assert multipliers.tolist() == [0.0, 0.0, 2.0]


def test_priors_by_hand_and_by_gradcheck():
    flat = torch.full((2, 3, 4, 4), 0.7, dtype=torch.float64)
    assert float(total_variation(flat)) == 0.0
    assert float(image_norm(flat)) == pytest.approx(0.49)
    checker = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
    assert float(total_variation(checker)) == pytest.approx(2.0)
    assert float(total_variation(checker[..., :1])) == pytest.approx(1.0)  # one pixel wide
    assert float(total_variation(checker[..., :1, :1])) == 0.0
    images = torch.randn(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(total_variation, (images,))
    assert gradcheck(image_norm, (images,))


def test_the_whole_is_the_weighted_sum_of_its_terms(model, inputs):
    images, labels, multipliers = inputs
    weights = KktWeights(primal=0.3, total_variation=0.2, norm=0.1, augmented=5.0)
    parameters = dict(model.named_parameters())
    common = {"parameters": parameters, "augment": lambda x: x * 0.5, "distance": relative_l2, "weights": weights}
    terms = deepkkt_loss(model, images, labels, multipliers, **common)
    expected = 0.0
    for weight, view in ((1, images), (5, images * 0.5)):
        logits = model(view)
        expected += weight * stationarity_loss(logits, labels, multipliers, parameters, relative_l2)
        expected += weight * 0.3 * primal_loss(logits, labels)
    expected += 0.2 * total_variation(images) + 0.1 * image_norm(images)
    torch.testing.assert_close(terms.total, expected)


def test_a_loss_that_is_not_finite_is_named(model, inputs):
    images, labels, multipliers = inputs
    weights = KktWeights(1, 0, 0, 0)
    with pytest.raises(DsvError, match="not finite"):
        deepkkt_loss(
            model,
            images * torch.nan,
            labels,
            multipliers,
            parameters=dict(model.named_parameters()),
            augment=lambda x: x,
            distance=mean_l1,
            weights=weights,
        )


def test_the_direction_of_rounding_errors_does_not_count():
    theta = {"a.weight": torch.tensor([3.0, 4.0]), "a.bias": torch.tensor([1.0])}
    for noise in (1e-8, -1e-8, 0.0):
        found = {"a.weight": torch.tensor([3.0, 4.0]), "a.bias": torch.tensor([noise])}
        assert float(layer_cosine(theta, found)) == pytest.approx(0.5, abs=1e-3)


def test_parameters_are_named_by_patterns(model):
    names = list(dict(model.named_parameters()))
    assert list(chosen_parameters(model)) == names
    assert list(chosen_parameters(model, "3.*")) == [n for n in names if n.startswith("3.")]
    with pytest.raises(DsvError, match="no parameter of the model fits 'head"):
        chosen_parameters(model, f"{names[0]}, head.*")


def test_entropy_by_hand():
    assert float(prediction_entropy(torch.zeros(3, 4))) == pytest.approx(math.log(4))
    assert float(prediction_entropy(torch.tensor([[1e3, 0.0]]))) == pytest.approx(0.0)
