"""Models that are not ours, under settings that are not ours: each gives what it should, or one line that says why
not."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dsv import (
    DISTANCES,
    Candidates,
    Compute,
    DsvError,
    Expert,
    KktWeights,
    SelectionConfig,
    StationarityEngine,
    SynthesisConfig,
    Task,
    TrainingConfig,
    ViewPlan,
    chosen_parameters,
    deepkkt_loss,
    kkt_gradient,
    model_digest,
    predict,
    select,
    synthesize,
    train,
)

TASK = Task(3, 8, ("a", "b", "c"), (0.5,) * 3, (0.25,) * 3)
LARGE = Task(3, 32, ("a", "b", "c"), (0.5,) * 3, (0.25,) * 3)
STEPS = TrainingConfig(2, "sgd", 0.1, cosine=False, weight_decay=0.0, batch_size=4)
SHORT = SynthesisConfig(images_per_class=2, iterations=2)
IMAGES = torch.randint(256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LABELS = torch.arange(6) % 3


class Net(nn.Module):
    """Some layers, and a head over what a convolution gives."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *body)
        self.head = nn.Linear(256, 3)

    def forward(self, images):
        return self.head(torch.relu(self.body(images)).flatten(1))


class Turned(nn.Module):
    """Resampled as its parameter says: a spatial transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.affine = nn.Parameter(torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.8, 0.1]]))

    def forward(self, features):
        grid = functional.affine_grid(self.affine.expand(len(features), 2, 3), features.shape, align_corners=False)
        return functional.grid_sample(features, grid, align_corners=False)


class Recomputed(nn.Module):
    """Saves memory by computing its layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, features):
        return checkpoint(self.layer, features, use_reentrant=False)


class Ungraphed(nn.Module):
    def forward(self, features):
        with torch.no_grad():
            return features * 2


class AlwaysDropping(nn.Module):
    def forward(self, features):
        return functional.dropout(features, 0.5, training=True)


class Untrained(Net):
    """A batch norm that stays in training mode whatever is asked."""

    def train(self, mode: bool = True):
        return super().train(True)


@pytest.mark.parametrize(
    "model",
    [
        Net(nn.BatchNorm2d(4, track_running_stats=False)),
        Net(AlwaysDropping()),
        Untrained(nn.BatchNorm2d(4)),
    ],
    ids=["batch statistics", "chance", "batch norm in training"],
)
def test_an_answer_that_is_not_the_images_own_is_refused(model, support_set):
    """Else the gradient would follow the micro-batch."""
    refused = pytest.raises(DsvError, match="depends on chance or on the images beside it")
    with refused:
        synthesize(model, TASK, SHORT)
    with refused:
        select(model, IMAGES.__getitem__, LABELS, TASK, SelectionConfig(iterations=1))
    with refused:
        Expert(model, TASK, IMAGES)
    with refused:
        synthesize(Net(), TASK, SHORT).with_views(model, ViewPlan(8))


def weight_norm():
    model = Net()
    model.body[0] = nn.utils.parametrizations.weight_norm(model.body[0])
    return model


def torch_resamples_twice() -> bool:
    """Whether this torch has the second derivative of a resampling; 2.11 has not."""
    images, grid = torch.rand(1, 1, 2, 2, requires_grad=True), torch.zeros(1, 2, 2, 2)
    [first] = torch.autograd.grad(
        functional.grid_sample(images, grid, align_corners=False).square().sum(), images, create_graph=True
    )
    try:
        first.sum().backward()
    except RuntimeError:
        return False
    return True


def test_a_spatial_transformer_where_torch_has_no_second_derivative_of_it():
    if torch_resamples_twice():
        synthesize(Net(Turned()), TASK, SHORT, compute=Compute("cpu", 2))
    else:
        with pytest.raises(DsvError, match="torch cannot differentiate the model .derivative for .*grid_sampler"):
            synthesize(Net(Turned()), TASK, SHORT, compute=Compute("cpu", 2))


WITHOUT_FORWARD_MODE = [weight_norm, lambda: Net(Recomputed())]
if torch_resamples_twice():
    WITHOUT_FORWARD_MODE.append(lambda: Net(Turned()))


@pytest.mark.parametrize("make", WITHOUT_FORWARD_MODE)
def test_layers_without_a_forward_mode_are_differentiated_the_other_way(make):
    model = make().double().eval()
    engine = StationarityEngine(model, chosen_parameters(model), DISTANCES["layer-cosine"], compute=Compute("cpu", 2))
    images = torch.rand(6, 3, 8, 8, dtype=torch.float64)
    multipliers = torch.rand(6, dtype=torch.float64)
    weights = KktWeights(0.3, 0.0, 0.0, 0.0)
    assert not engine.by_graph
    found = kkt_gradient(engine, Candidates(images, LABELS, multipliers, 6), [(1.0, lambda x, first: x * 1.0)], weights)
    leaves = images.clone().requires_grad_(), multipliers.clone().requires_grad_()
    terms = deepkkt_loss(
        model,
        leaves[0],
        LABELS,
        leaves[1],
        parameters=chosen_parameters(model),
        augment=lambda x: x,
        distance=DISTANCES["layer-cosine"],
        weights=weights,
    )
    expected = torch.autograd.grad(terms.total, leaves)
    torch.testing.assert_close(found.images, expected[0], rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(found.multipliers, expected[1], rtol=1e-7, atol=1e-10)


def test_a_selection_too_does_without_forward_mode():
    model, config = weight_norm(), SelectionConfig(iterations=2)
    found = select(model, IMAGES.__getitem__, LABELS, TASK, config, compute=Compute("cpu", 2))
    nn.utils.parametrize.remove_parametrizations(model.body[0], "weight")
    assert len(found.distances) == 3 and found.distances[-1] < found.distances[0]


def test_hard_sigmoids_of_a_model_that_was_not_built_here():
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.mobilenet_v3_small(num_classes=3).eval()
    before = model_digest(model)
    sets = [synthesize(model, LARGE, SHORT, compute=Compute("cpu", size)) for size in (0, 4)]
    off = (sets[0].images.float() - sets[1].images.float()).abs()
    assert off.mean() < 1 and model_digest(model) == before
    assert any(type(module) is nn.Hardsigmoid for module in model.modules())


def in_inference_mode():
    with torch.inference_mode():
        return Net()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Net(Ungraphed()),
        lambda: torch.jit.script(Net()),
        lambda: torch.jit.trace(Net(), torch.zeros(1, 3, 8, 8)),
        in_inference_mode,
    ],
    ids=["no_grad inside", "scripted", "traced", "made in inference mode"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_what_cannot_be_differentiated_is_one_line(make):
    with pytest.raises(DsvError, match="torch cannot differentiate the model") as caught:
        synthesize(make(), TASK, SHORT)
    assert "\n" not in str(caught.value)


def test_a_model_that_takes_more_than_images():
    class Two(nn.Module):
        def forward(self, images, others):
            return images

    with pytest.raises(DsvError, match="does not take images of 3 x 8 x 8"):
        synthesize(Two(), TASK, SHORT)


@pytest.fixture
def plain():
    return synthesize(Net(), TASK, SHORT)


def test_no_grad_around_is_no_obstacle(plain):
    model = Net()
    with torch.no_grad():
        assert torch.equal(synthesize(model, TASK, SHORT).images, plain.images)
        train(
            model,
            IMAGES,
            LABELS,
            TASK,
            STEPS,
            seed=0,
        )
    assert model_digest(model) != model_digest(Net())


def test_inference_mode_around_is_named():
    model = Net()
    with torch.inference_mode():
        for refused in (
            lambda: synthesize(model, TASK, SHORT),
            lambda: select(model, IMAGES.__getitem__, LABELS, TASK, SelectionConfig(iterations=1)),
            lambda: train(
                model,
                IMAGES,
                LABELS,
                TASK,
                STEPS,
                seed=0,
            ),
        ):
            with pytest.raises(DsvError, match="inference_mode"):
                refused()


def test_what_is_set_around_changes_nothing(plain):
    views = plain.with_views(Net(), ViewPlan(8, leaves=4)).views
    with torch.autocast("cpu", torch.bfloat16):
        cast = synthesize(Net(), TASK, SHORT)
    assert torch.equal(cast.images, plain.images) and torch.equal(cast.soft_labels, plain.soft_labels)
    model = Net()
    torch.set_default_dtype(torch.float64)
    try:
        double = synthesize(model, TASK, SHORT)
        assert torch.equal(double.images, plain.images) and torch.equal(double.multipliers, plain.multipliers)
        views.of(plain.images, TASK)
    finally:
        torch.set_default_dtype(torch.float32)


def test_threads_take_turns_in_setting_what_is_the_process():
    entered, leave = threading.Event(), threading.Event()

    def first():
        with Compute().running():
            entered.set()
            leave.wait(10)

    before = torch.backends.mha.get_fastpath_enabled(), torch.backends.cudnn.allow_tf32
    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(10)
    with Compute().running():
        leave.set()
        thread.join(10)
        assert not torch.backends.mha.get_fastpath_enabled() and not torch.backends.cudnn.allow_tf32
        with pytest.raises(DsvError, match="different precisions"), Compute(precision="tf32").running():
            pass
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.cudnn.allow_tf32) == before


class Counting(Net):
    """Notes how many images it was asked of at once."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def forward(self, images):
        self.asked.append(len(images))
        return super().forward(images)


def test_no_more_images_than_a_micro_batch_go_through_the_model_at_once():
    model = Counting()
    synthesize(model, TASK, SynthesisConfig(images_per_class=5, iterations=1), compute=Compute("cpu", 2))
    # to find out which layers count takes four images of noise, whatever the set holds
    assert set(model.asked) <= {1, 2, 4} and model.asked.count(4) == 1


def test_of_large_images_few_are_asked_at_once():
    model = Counting()
    predict(model, IMAGES[:1].expand(600, 3, 8, 8), TASK)
    assert model.asked == [512, 88]
    large = Task(3, 256, ("a", "b", "c"), (0.5,) * 3, (0.25,) * 3)
    seen = []

    class Mean(nn.Module):
        def forward(self, images):
            seen.append(len(images))
            return images.mean(dim=(2, 3))

    predict(Mean(), torch.zeros(9, 3, 256, 256, dtype=torch.uint8), large)
    assert seen == [4, 4, 1]
