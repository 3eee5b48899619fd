"""Selection of real images: what is known about the multipliers of linear models, and memory."""

import copy
import math

import numpy
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from tensor_memory import peak_tensor_bytes
from torch import nn

from benchmarks.selection import selected_of_svm, svm_agreement
from dsv import (
    DISTANCES,
    Batch,
    Compute,
    DsvError,
    Selection,
    SelectionConfig,
    StationarityEngine,
    Task,
    chosen_parameters,
    class_accuracies,
    class_sums,
    from_uint8,
    rank_correlation,
    relative_l2,
    select,
)

PAIR = Task(1, 8, ("first", "second"), (0.3,), (0.4,), mirror=False)


def digits(first, second):
    data = load_digits()
    keep = numpy.isin(data.target, (first, second))
    images = torch.tensor(numpy.round(data.images[keep] * 255 / 16)).to(torch.uint8)[:, None]
    return images, torch.tensor((data.target[keep] == second).astype(int))


DECAY = 0.01


def with_weight_decay(images, labels):
    """The linear model at the minimum of mean loss + DECAY / 2 |theta|^2, found by L-BFGS."""
    inputs = from_uint8(images, PAIR, dtype=torch.float64)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double()
    solver = torch.optim.LBFGS(
        model.parameters(), max_iter=2000, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def objective():
        solver.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss = loss + DECAY / 2 * sum(p.square().sum() for p in model.parameters())
        loss.backward()
        return loss

    solver.step(objective)
    return model


def test_weight_decay_makes_equal_multipliers_stationary():
    """At the minimum of mean loss + decay / 2 |theta|^2 Eq. 5 holds exactly, with lambda_i = 1 / (N decay)."""
    images, labels = digits(3, 8)
    model, inputs = with_weight_decay(images, labels), from_uint8(images, PAIR, dtype=torch.float64)
    multipliers = torch.full((len(labels),), 1 / (len(labels) * DECAY), dtype=torch.float64)
    engine = StationarityEngine(model, chosen_parameters(model), relative_l2)
    total = engine.total_gradient([Batch(inputs, labels, multipliers)])
    assert float(engine.direction(total)[0]) < 1e-6
    assert engine.least_squares_scale(total) == pytest.approx(1, abs=1e-4)
    chosen = select(
        model, lambda i: images[list(i)], labels, PAIR, SelectionConfig(iterations=3, distance="relative-l2", step=1e-3)
    )
    torch.testing.assert_close(chosen.multipliers, multipliers.float(), rtol=0.05, atol=0)


@pytest.mark.parametrize(("count", "least", "most"), [(10, 0.0, 0.02), (357, 0.3, 0.43)])
def test_selection_finds_stationary_multipliers_from_others(count, least, most):
    """From random multipliers, some 40 % away from the equal ones, the distance falls two hundred times and more.

    Ten images have linearly independent gradients, so that the equal multipliers alone are stationary: they are found.
    357 images are more than the 130 parameters, and Eq. 5 leaves most of lambda open: the multipliers come nearer to
    the equal ones, to some 37 %, and stay there, since they are then stationary too.
    """
    images, labels = (part[:count] for part in digits(3, 8))
    model = with_weight_decay(images, labels)
    start = 0.2 + 1.6 * torch.rand(count, generator=torch.Generator().manual_seed(1))
    config = SelectionConfig(iterations=200, distance="relative-l2", step=0.2)
    chosen = select(model, lambda i: images[list(i)], labels, PAIR, config, start=start)
    assert chosen.distances[-1] < chosen.distances[0] / 200
    found, before = (
        float((relative - 1).square().mean().sqrt()) for relative in (chosen.multipliers * count * DECAY, start)
    )
    assert least <= found < most < before


@pytest.mark.parametrize(("pair", "regularisation"), [((0, 6), 0.01), ((4, 9), 0.001)])
def test_large_multipliers_are_the_support_vectors_of_a_linear_svm(pair, regularisation):
    """Stated: at least 80 % of the k images with the largest lambda are the k support vectors, rank correlation with
    the dual coefficients at least 0.5."""
    found, machine = selected_of_svm(*pair, regularisation)
    overlap, correlation = svm_agreement(found, machine)
    assert overlap >= 0.8
    assert correlation >= 0.5
    assert found.distances[-1] < found.distances[0]


def test_slopes_are_the_gradient_of_the_distance_in_every_multiplier(teacher, task):
    torch.manual_seed(0)
    model = teacher.model
    inputs, labels = torch.randn(9, 1, 8, 8), torch.arange(9)
    multipliers = torch.rand(9, requires_grad=True)
    parameters = dict(model.named_parameters())
    losses = nn.functional.cross_entropy(model(inputs), labels, reduction="none")
    gradients = torch.autograd.grad((multipliers * losses).sum(), list(parameters.values()), create_graph=True)
    distance = DISTANCES["mean-l1"](
        {n: p.detach() for n, p in parameters.items()}, {n: -g for n, g in zip(parameters, gradients, strict=True)}
    )
    expected = torch.autograd.grad(distance, multipliers)[0]
    engine = StationarityEngine(model, parameters, DISTANCES["mean-l1"])
    batch = Batch(inputs, labels, multipliers.detach())
    _, direction = engine.direction(engine.total_gradient([batch]))
    torch.testing.assert_close(engine.slopes(direction, batch), expected, rtol=1e-3, atol=1e-6)


def test_images_are_read_a_micro_batch_at_a_time_and_in_any_size_alike(teacher, task, device):
    images = torch.randint(0, 256, (25, 1, 8, 8), dtype=torch.uint8)
    labels, sizes = torch.arange(25) % 10, []

    def load(indices):
        sizes.append(len(indices))
        return images[list(indices)]

    config = SelectionConfig(iterations=2)
    model = copy.deepcopy(teacher.model).double()  # in float32 the order of the sums alone moves a multiplier by 1 %
    small = select(model, load, labels, task, config, compute=Compute(device, micro_batch=4))
    assert max(sizes) == 4
    large = select(model, load, labels, task, config, compute=Compute(device, micro_batch=25))
    torch.testing.assert_close(small.multipliers, large.multipliers, rtol=1e-4, atol=1e-5)
    assert (small.multipliers >= 0).all() and len(small.distances) == 3


def test_memory_is_three_numbers_an_image(teacher, task):
    """Beside the micro-batch: label (int64), multiplier and slope (float32). No gradient of an image is stored."""

    def peak_bytes(count):
        labels = torch.arange(count) % 10
        one_pass, compute = SelectionConfig(iterations=1), Compute(micro_batch=25)
        load = lambda i: torch.zeros(len(i), 1, 8, 8, dtype=torch.uint8)  # noqa: E731
        return peak_tensor_bytes(lambda: select(teacher.model, load, labels, task, one_pass, compute=compute))

    peak_bytes(25)  # what is made with the first use
    few, many = peak_bytes(50), peak_bytes(500)
    assert many - few <= 450 * (8 + 4 + 4) < few / 20


def test_coreset_and_sums_by_hand():
    found = Selection(torch.tensor([1.0, 3.0, 2.0, 0.0]), torch.tensor([0, 1, 1, 0]), 2, (1.0,))
    assert found.coreset(1).tolist() == [0, 1] and found.coreset(2).tolist() == [0, 3, 1, 2]
    assert found.per_class().tolist() == [1.0, 5.0]
    with pytest.raises(DsvError, match="class 0 has 2 images"):
        found.coreset(3)


def test_characteristics_by_hand():
    seen = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.6, 0.4, 0.0]])
    accuracies = class_accuracies(seen, torch.tensor([0, 1, 1]))
    assert accuracies[:2].tolist() == [1.0, 0.5] and accuracies[2].isnan()
    assert class_sums(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 1, 1]), 3).tolist() == [1, 6, 0]
    assert rank_correlation(torch.tensor([1.0, 5.0, 9.0]), torch.tensor([2.0, 3.0, 100.0])) == pytest.approx(1)
    assert rank_correlation(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([3.0, 1.0, 2.0])) == pytest.approx(
        -0.866, abs=1e-3
    )
    with pytest.raises(DsvError, match="two equally long rows"):
        rank_correlation(torch.zeros(3), torch.zeros(2))
    with pytest.raises(DsvError, match="no place for what is not a number"):
        rank_correlation(torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")]))
    assert math.isnan(rank_correlation(torch.ones(3), torch.arange(3.0)))


def test_a_rank_correlation_is_scipys_with_ties_and_without_a_table_of_pairs():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(2_000, (2, 50_000), generator=generator)
    second = second + first // 2
    assert peak_tensor_bytes(lambda: rank_correlation(first, second)) < 50_000 * 8 * 30
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic, abs=1e-9)


def test_the_scale_of_a_start_does_not_matter_and_its_shape_does(teacher, task):
    images, labels = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8), torch.arange(20) % 10

    def found(start):
        model = copy.deepcopy(teacher.model).double()
        chosen = select(model, lambda i: images[list(i)], labels, task, SelectionConfig(iterations=2), start=start)
        return chosen.multipliers

    torch.testing.assert_close(found(torch.full((20,), 7.0)), found(None), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found(torch.arange(1.0, 21.0)), found(None), rtol=0.1)


def test_errors(teacher, task):
    def chosen(images, labels, start=None):
        return select(teacher.model, lambda i: images[list(i)], labels, task, SelectionConfig(), start=start)

    with pytest.raises(DsvError, match="no images to select from"):
        chosen(torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DsvError, match="labels must lie in 0 to 9"):
        chosen(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 10]))
    for start in ([1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")], [1.0, float("inf")]):
        with pytest.raises(DsvError, match="must have 2 finite multipliers, >= 0 and not all 0"):
            chosen(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), torch.tensor(start))
    bytes_, pair = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1])
    with pytest.raises(DsvError, match="must have 2 finite multipliers"):
        chosen(bytes_, pair, torch.ones(2, 1))
    for labels in (pair.int(), torch.eye(10)[pair]):
        with pytest.raises(DsvError, match="int64 classes, one an image"):
            chosen(bytes_, labels)
    for images in (bytes_ / 255, bytes_[:, :, :4], bytes_.expand(2, 3, 8, 8)):
        with pytest.raises(DsvError, match=r"images 0 to 1 must be uint8 of shape \(2, 1, 8, 8\)"):
            chosen(images, pair)
    for options, message in (({"iterations": 0}, "at least 1 iteration"), ({"distance": "far"}, "unknown distance")):
        with pytest.raises(DsvError, match=message):
            SelectionConfig(**options)
