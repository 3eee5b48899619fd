"""Models that are not ours: each gives what it should, or one line that says why not."""

from __future__ import annotations

import pytest
import torch
from nets import IMAGES, LABELS, SHORT, TASK, Net
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
    Task,
    ViewPlan,
    chosen_parameters,
    deepkkt_loss,
    kkt_gradient,
    model_digest,
    select,
    synthesize,
)

LARGE = Task(3, 32, ("a", "b", "c"), (0.5,) * 3, (0.25,) * 3)


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


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda images: {}[images.ndim], "does not take images of 3 x 8 x 8 .*; build it"),
        (lambda images: images.no_such_thing, "does not take images of 3 x 8 x 8 .*no_such_thing"),
        (lambda images: images.flatten(1)[:, :3].reshape(1, -1), "does not give logits of shape .images, classes."),
    ],
)
def test_a_model_that_fails_in_its_own_way_is_one_line(answer, message):
    class Own(Net):
        def forward(self, images):
            super().forward(images)
            return answer(images)

    with pytest.raises(DsvError, match=message):
        synthesize(Own(), TASK, SHORT)


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d, lambda c: nn.GroupNorm(c, c, affine=False)])
def test_rounding_behind_many_norms_is_not_taken_for_chance(norm):
    blocks = [layer for _ in range(8) for layer in (norm(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))]
    assert len(synthesize(Net(*blocks), TASK, SHORT)) == 6


class Mirrored(Net):
    """Of every second time."""

    def forward(self, images):
        return super().forward(images.flip(3) if torch.rand(()) < 0.5 else images)


class Dropped(Net):
    """Half of the pixels, in eval mode too."""

    def forward(self, images):
        return super().forward(nn.functional.dropout(images, 0.5, training=True))


@pytest.mark.parametrize("model", [Mirrored, Dropped])
def test_chance_before_the_first_layer_is_found(model):
    with pytest.raises(DsvError, match="depends on chance or on the images beside it"):
        synthesize(model(), TASK, SHORT)
