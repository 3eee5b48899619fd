"""Labelled views: drawn alike by everyone, labelled by the teacher, trained from."""

import dataclasses

import numpy
import pytest
import torch

from dsv import (
    LEVELS,
    DsvError,
    ModelSpec,
    Task,
    ViewPlan,
    Views,
    accuracy,
    build_model,
    draw_dead_leaves,
    from_uint8,
    label_views,
    newcomer_training,
    train,
)

COLOUR = Task(3, 16, ("dark", "bright"), (0.5,) * 3, (0.25,) * 3, mirror=True)


def pictures(count=4, seed=0):
    return torch.randint(256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def brightness(images):
    mean = images.mean(dim=(1, 2, 3))
    return torch.stack([-mean, mean], dim=1)


@pytest.fixture(scope="module")
def labelled():
    return label_views(brightness, pictures(), COLOUR, ViewPlan(30, 1, leaves=5))


def test_a_view_is_the_same_alone_and_among_others():
    views = Views(pictures(), COLOUR, ViewPlan(30, leaves=5))
    numbers = torch.tensor([7, 2, 29])
    assert torch.equal(views.draw(torch.arange(30))[numbers], views.draw(numbers))
    assert torch.equal(Views(pictures(), COLOUR, ViewPlan(30, leaves=5)).draw(numbers), views.draw(numbers))
    assert not torch.equal(Views(pictures(), COLOUR, ViewPlan(30, 1, leaves=5)).draw(numbers), views.draw(numbers))


def test_philox_is_the_specified_one():
    """The known answer of Random123 for Philox 4x64-10, of key and counter 0: another generator is another format."""
    assert [int(value) for value in numpy.random.Philox(key=0, counter=2**256 - 1).random_raw(4)] == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]


def as_specified(pictures, leaves, task, plan):
    """All views, as protos/ARTEFACT.md says under "Labelled views", pixel by pixel and without torch."""
    side = task.image_size_px
    words = numpy.random.Philox(key=plan.seed).random_raw(19 * plan.count)
    uniform = ((words >> numpy.uint64(11)) * 2.0**-53).reshape(plan.count, 19)
    at = (2 * numpy.arange(side) + 1) / side - 1  # centres of pixels, over the picture from -1 to 1

    def weights(where):
        """(S, S): of every pixel of the picture, at each of S places; none of what is outside."""
        pixel = ((where + 1) * side - 1) / 2
        return numpy.maximum(0, 1 - numpy.abs(pixel[:, None] - numpy.arange(side)[None, :]))

    def cut_out(u):
        drawn = u[0] < plan.leaves_share and plan.leaves > 0
        picture = leaves[int(u[1] * len(leaves))] if drawn else pictures[int(u[1] * len(pictures))]
        zoom, flip = 1 - plan.crop * u[2], -1 if task.mirror and u[3] < 0.5 else 1
        x, y = (2 * plan.translate * (2 * a - 1) + (2 * b - 1) * (1 - zoom) for a, b in (u[4:6], u[6:8]))
        seen = (picture.numpy() / 255 - numpy.array(task.mean)[:, None, None]) / numpy.array(task.std)[:, None, None]
        return numpy.einsum("ir,jc,krc->kij", weights(zoom * at + y), weights(zoom * flip * at + x), seen)

    views = []
    for u in uniform:
        ground, pasted = cut_out(u[:8]), cut_out(u[8:16])
        half = numpy.sqrt(1 - numpy.sqrt(u[16])) / 2
        in_x, in_y = (numpy.abs((at + 1) / 2 - centre) < half for centre in u[17:])
        views.append(numpy.where(in_y[:, None] & in_x[None, :], pasted, ground))
    return numpy.stack(views)


@pytest.mark.parametrize("mirror", [True, False])
def test_views_are_those_of_the_specification(mirror):
    """Another assignment of the numbers would be another format, in which old labels mislead."""
    task, plan = dataclasses.replace(COLOUR, mirror=mirror), ViewPlan(40, 5, crop=0.4, translate=0.2, leaves=6)
    leaves = draw_dead_leaves(plan.leaves, task, torch.Generator().manual_seed(plan.seed))
    drawn = Views(pictures(), task, plan).draw(torch.arange(plan.count)).numpy()
    assert numpy.abs(drawn - as_specified(pictures(), leaves, task, plan)).max() < 1e-4


def test_dead_leaves_are_those_that_releases_were_made_with():
    leaves = draw_dead_leaves(4, COLOUR, torch.Generator().manual_seed(5)).float()
    assert leaves.mean(dim=(1, 2, 3)).tolist() == pytest.approx([144.9, 151.8, 77.2, 161.5], abs=0.5)


def test_without_crop_or_shift_a_view_is_made_of_pixels_of_two_pictures():
    task = dataclasses.replace(COLOUR, mirror=False)
    plain = torch.stack([torch.full((3, 16, 16), value, dtype=torch.uint8) for value in (0, 255)])
    drawn = Views(plain, task, ViewPlan(200, crop=0.0, translate=0.0)).draw(torch.arange(200))
    assert torch.unique(drawn.round(decimals=3)).tolist() == [-2.0, 2.0]
    pure = (drawn.flatten(1).std(dim=1) == 0).float().mean()
    assert 0.4 < float(pure) < 0.7  # half of the pairs are one picture twice


def test_leaves_take_their_share():
    black = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    for share, low, high in ((0.0, 0.0, 0.0), (0.25, 0.3, 0.6), (1.0, 1.0, 1.0)):
        plan = ViewPlan(200, crop=0.0, translate=0.0, leaves=20, leaves_share=share)
        drawn = Views(black, COLOUR, plan).draw(torch.arange(200))
        coloured = float((drawn.flatten(1).amax(dim=1) > -1.9).float().mean())
        assert low <= coloured <= high


def test_labels_are_the_teachers_to_half_a_level(labelled):
    numbers = torch.arange(30)
    true = brightness(labelled.of(pictures(), COLOUR).draw(numbers))
    inside = true.abs() <= labelled.scale
    off = (labelled.logits(numbers) - true).abs()[inside]
    assert float(off.max()) <= labelled.scale / (LEVELS - 1) * 1.001
    assert int(labelled.levels.max()) < LEVELS


def test_the_loss_is_least_at_the_teachers_own_logits(labelled):
    numbers = torch.arange(30)
    logits = labelled.logits(numbers).requires_grad_()
    (gradient,) = torch.autograd.grad(labelled.loss(logits, numbers), logits)
    assert float(gradient.abs().max()) < 1e-7


def test_the_loss_follows_the_plans_temperature(labelled):
    """Of logits that stand still, (a, -a): the cross-entropy of their softmax, both divided by the temperature."""
    numbers, given = torch.arange(30), torch.tensor([[1.0, -1.0]]).expand(30, 2)
    for temperature in (0.25, 4.0):
        read = dataclasses.replace(labelled, plan=dataclasses.replace(labelled.plan, temperature=temperature))
        divided = temperature * labelled.scale / 3
        wanted = torch.softmax(labelled.logits(numbers) / divided, dim=1)
        expected = -(wanted * torch.log_softmax(given / divided, dim=1)).sum(dim=1).mean()
        torch.testing.assert_close(read.loss(given, numbers), expected)


@pytest.mark.parametrize(("views", "steps"), [(30, 750), (9_000, 750), (24_000, 2_000)])
def test_a_newcomer_sees_every_view_twice(labelled, views, steps):
    levels = torch.zeros(views, 2, dtype=torch.uint8)
    many = dataclasses.replace(labelled, plan=ViewPlan(views), levels=levels)
    assert newcomer_training(targets=many).steps == steps
    assert newcomer_training(7, many).steps == 7 and newcomer_training().steps == 500


def test_other_images_are_noticed(labelled):
    with pytest.raises(DsvError, match="not the views that were labelled"):
        labelled.of(pictures(seed=1), COLOUR)


def test_another_random_generator_is_noticed(labelled, monkeypatch):
    black = torch.zeros(5, 3, 16, 16, dtype=torch.uint8)
    monkeypatch.setattr("dsv.views._drawn_leaves", lambda count, task, seed: black)
    with pytest.raises(DsvError, match="this torch draws otherwise"):
        labelled.of(pictures(), COLOUR)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"count": 0}, "count"),
        ({"count": 2**18 + 1}, "count"),
        ({"count": 3.0}, "count"),
        ({"count": True}, "count"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"leaves": -1}, "leaves"),
        ({"leaves": 2**14 + 1}, "leaves"),
        ({"crop": 1.5}, "crop"),
        ({"crop": 1}, "crop"),
        ({"crop": float("nan")}, "crop"),
        ({"translate": "0.1"}, "translate"),
        ({"leaves_share": -0.1}, "leaves_share"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": 2}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
    ],
)
def test_plans_out_of_range(change, names):
    with pytest.raises(DsvError, match=f"plan's {names} must be"):
        ViewPlan(**{"count": 3, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": torch.zeros(29, 2, dtype=torch.uint8)}, "a row for each"),
        ({"levels": torch.zeros(30, 2)}, "must be uint8"),
        ({"levels": torch.zeros(30, 0, dtype=torch.uint8)}, "levels below"),
        ({"levels": torch.full((30, 2), LEVELS, dtype=torch.uint8)}, "levels below"),
        ({"scale": 0.0}, "scale"),
        ({"scale": float("inf")}, "scale"),
        ({"scale": 1}, "scale"),
        ({"probe": (1,) * 7}, "probe"),
        ({"probe": (1.0,) * 8}, "probe"),
    ],
)
def test_labels_that_do_not_fit(labelled, change, message):
    with pytest.raises(DsvError, match=message):
        dataclasses.replace(labelled, **change)


def test_leaves_beyond_memory():
    huge = Task(3, 224, ("a", "b"), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(DsvError, match="plan fewer"):
        Views(torch.zeros(1, 3, 224, 224, dtype=torch.uint8), huge, ViewPlan(1, leaves=2**14))


def test_a_set_without_views_says_so(support_set):
    assert support_set.label_kinds == ("hard", "soft")
    with pytest.raises(DsvError, match="has hard, soft labels, not 'view'"):
        support_set.targets("view")


def test_views_of_another_number_of_classes(support_set, labelled):
    with pytest.raises(DsvError, match="2 logits each"):
        dataclasses.replace(support_set, views=labelled)


def test_a_newcomer_learns_from_views_what_the_images_do_not_show(device):
    """The pictures carry no classes at all; the teacher's answers to their views do."""
    views = label_views(brightness, pictures(), COLOUR, ViewPlan(1000, leaves=100), device=device)
    model = build_model(newcomer_spec(COLOUR), seed=1)
    train(model, pictures(), views, COLOUR, newcomer_training(100), seed=1)
    fresh = draw_dead_leaves(200, COLOUR, torch.Generator().manual_seed(9))
    labels = brightness(from_uint8(fresh, COLOUR, dtype=torch.float32)).argmax(dim=1)
    assert accuracy(model, fresh, labels, COLOUR) > 0.85


def newcomer_spec(task):
    return ModelSpec.parse("convnet:16", task)


def test_training_is_the_same_twice(support_set, teacher):
    with_views, found = support_set.with_views(teacher.model, ViewPlan(33)), []
    for _ in range(2):
        model = build_model(newcomer_spec(with_views.task), seed=1)
        with_views.train(model, config=newcomer_training(5), seed=1)
        found.append(model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


# The release file
