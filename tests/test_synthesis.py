import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from dsv import (
    KNOWN_TASKS,
    PRESETS,
    Compute,
    DsvError,
    ModelSpec,
    Ranks,
    Start,
    SynthesisConfig,
    Task,
    TrainingConfig,
    accuracy,
    build_model,
    checked_device,
    class_sums,
    predict,
    synthesize,
    train,
)
from dsv.pixel_optimiser import PixelOptimiser

SHORT = SynthesisConfig(images_per_class=2, iterations=4)


def test_the_loss_falls_and_the_set_is_whole(teacher, task, device):
    model, totals = copy.deepcopy(teacher.model), []
    config = SynthesisConfig(images_per_class=2, iterations=60, augmented_weight=0)
    found = synthesize(
        *(model, task, config),
        compute=Compute(device),
        on_iteration=lambda done, terms: totals.append(terms.total.item()),
    )
    assert len(totals) == 60 and totals[-1] < 0.9 * totals[0]
    assert found.labels.bincount().tolist() == [2] * 10
    assert (found.multipliers >= 0).all() and (class_sums(found.multipliers, found.labels, 10) > 0).all()
    torch.testing.assert_close(found.soft_labels, predict(model, found.images, task))


@pytest.mark.parametrize("images_per_class", [1, SynthesisConfig().images_per_class])
def test_every_class_has_a_say_at_the_end_with_the_default_options(trained, task, images_per_class):
    """On the way a class's multipliers may all be 0 and come back. With another distance than the default, or one of
    the paper's presets, a class may end without any: its images are then ones that stationarity does not speak of."""
    config = SynthesisConfig(images_per_class=images_per_class)
    found = synthesize(trained.model, task, config, seed=0)
    assert (class_sums(found.multipliers, found.labels, task.classes) > 0).all()


@pytest.mark.parametrize(
    "change", [{}, {"coarse_stages": 3}, {"image_step": 10.0}, {"distance": "mean-l1"}, {"stationarity_weight": 0.0}]
)
def test_pixels_and_multipliers_keep_to_their_ranges_all_along(teacher, task, change):
    config = dataclasses.replace(SHORT, iterations=12, multiplier_step=1.0, **change)
    run = PixelOptimiser(teacher.model, task, config, torch.arange(10), compute=Compute(), ranks=Ranks())
    run.begin(0, None)
    for _ in range(config.iterations + 1):
        pixels = run.pixels()
        assert pixels.dtype == torch.float32 and pixels.min() >= 0 and pixels.max() <= 1
        assert (run.state().multipliers >= 0).all()
        if run.iteration < config.iterations:
            run.step()
    assert run.iteration == config.iterations


def test_same_seed_same_set_and_another_seed_another(teacher, task):
    first, second, other = (synthesize(teacher.model, task, SHORT, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.images, second.images) and torch.equal(first.multipliers, second.multipliers)
    assert not torch.equal(first.images, other.images)


def test_the_teacher_is_not_changed(teacher, task):
    before = {name: tensor.clone() for name, tensor in teacher.model.state_dict().items()}
    synthesize(teacher.model, task, SHORT, seed=0)
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.model.state_dict().items())


def test_batch_norm_runs_on_its_running_statistics(task):
    model = build_model(ModelSpec.parse("convnet:4:batch", task), seed=0)
    counters = [b.clone() for b in model.buffers()]
    synthesize(model, task, SHORT, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(counters, model.buffers(), strict=True))


def test_given_images_are_the_start(teacher, task):
    images = torch.randint(0, 255, (20, 1, 8, 8), dtype=torch.uint8)
    still = dataclasses.replace(SHORT, iterations=1, image_step=1e-9)
    found = synthesize(teacher.model, task, still, seed=0, start=Start("mine", images))
    assert torch.equal(found.images, images) and found.provenance.start == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images_per_class": 0}, "images per class must be at least 1"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"iterations": 2, "coarse_stages": 3}, "3 coarse stages need as many iterations, got 2"),
        ({"distance": "far"}, "unknown distance 'far'"),
        ({"image_step": 0.0}, "must be positive"),
    ],
)
def test_bad_options(change, message):
    with pytest.raises(DsvError, match=message):
        dataclasses.replace(SHORT, **change)


def test_a_teacher_that_does_not_fit_the_task(teacher):
    with pytest.raises(DsvError, match="does not take images of 3 x 32 x 32"):
        synthesize(teacher.model, KNOWN_TASKS["cifar10"], SHORT, seed=0)
    eleven = dataclasses.replace(teacher.task, class_names=tuple("abcdefghijk"))
    with pytest.raises(DsvError, match="10 outputs but the task has 11 classes"):
        synthesize(teacher.model, eleven, SHORT, seed=0)


def test_a_start_that_does_not_fit(teacher, task):
    with pytest.raises(DsvError, match="the start 'mine'"):
        synthesize(teacher.model, task, SHORT, seed=0, start=Start("mine", torch.zeros(3, 1, 8, 8)))


def test_labels_that_are_none(teacher, task):
    negative = torch.tensor([[-3.0, 4.0] + 8 * [0.0]])
    for labels in (negative, torch.full((1, 10), 0.2), torch.full((1, 10), float("nan"))):
        with pytest.raises(DsvError, match="at least 0 and sum up to 1"):
            synthesize(teacher.model, task, SHORT, labels=labels)
    with pytest.raises(DsvError, match="labels must lie in 0 to 9"):
        synthesize(teacher.model, task, SHORT, labels=torch.tensor([10]))
    with pytest.raises(DsvError, match="labels must be int64 classes"):
        synthesize(teacher.model, task, SHORT, labels=torch.zeros(0, dtype=torch.int64))


def test_cuda_where_there_is_none(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(DsvError, match="this machine has 0 CUDA devices; use cpu"):
        checked_device("cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(DsvError, match="CUDA_VISIBLE_DEVICES is '' here and hides all others"):
        checked_device("cuda")
    for name in ("meta", "nonsense"):
        with pytest.raises(DsvError, match="choose cpu, cuda"):
            checked_device(name)


def test_a_set_is_a_torch_dataset(support_set):
    images, labels = next(iter(DataLoader(support_set, batch_size=5)))
    assert images.shape == (5, 1, 8, 8) and images.dtype == torch.float32
    assert labels.tolist() == [0, 0, 1, 1, 2]
    with pytest.raises(IndexError):
        support_set[len(support_set)]
    assert len(list(support_set)) == len(support_set)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(20, 1, 8, 8)}, "images must be torch.uint8"),
        ({"labels": torch.zeros(19, dtype=torch.int64)}, "labels must be"),
        ({"labels": torch.full((20,), 10)}, "labels must lie in 0 to 9"),
        ({"multipliers": torch.full((20,), -1.0)}, "multipliers must be finite and not negative"),
        ({"soft_labels": torch.full((20, 10), torch.nan)}, "soft_labels must be finite"),
    ],
)
def test_a_set_that_does_not_hang_together(support_set, change, message):
    with pytest.raises(DsvError, match=message):
        dataclasses.replace(support_set, **change)


def test_training_learns_with_hard_and_soft_labels(task):
    images = torch.zeros(40, 1, 8, 8, dtype=torch.uint8)
    labels = torch.arange(40) % 2
    images[labels == 1, :, :4] = 255
    images[labels == 0, :, :, :4] = 255
    for optimiser, mixup, targets in (("sgd", 0.0, labels), ("adamw", 1.0, torch.eye(10)[labels])):
        config = TrainingConfig(100, optimiser, 0.02, True, 0.0, 16, mixup=mixup)
        model = build_model(ModelSpec.parse("convnet:8", task), seed=0)
        train(model, images, targets, task, config, seed=0)
        assert accuracy(model, images, labels, task) == 1.0


def test_training_errors(task):
    model = build_model(ModelSpec.parse("convnet:8", task), seed=0)
    images, labels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(DsvError, match="no images"):
        train(model, images[:0], labels[:0], task, TrainingConfig(1, "sgd", 0.1, False, 0, 1), seed=0)
    once = TrainingConfig(1, "sgd", 0.1, False, 0, 1)
    with pytest.raises(DsvError, match="must be torch.uint8, got torch.float32"):
        train(model, images / 255, labels, task, once, seed=0)
    for targets in (labels[:3], labels.int(), torch.full((4, 9), 1 / 9)):
        with pytest.raises(DsvError, match="4 images need as many int64 classes, or probabilities of 10 classes"):
            train(model, images, targets, task, once, seed=0)
    with pytest.raises(DsvError, match="labels must lie in 0 to 9, got 0 to 10"):
        train(model, images, torch.tensor([0, 1, 2, 10]), task, once, seed=0)
    with pytest.raises(DsvError, match="diverged"):
        train(model, images, labels, task, TrainingConfig(9, "sgd", 1e30, False, 0, 4), seed=0)


def test_coarse_to_fine_doubles_the_side():
    config = SynthesisConfig(iterations=9, coarse_stages=3)
    assert [config.side(i, 32) for i in range(9)] == [8, 8, 8, 16, 16, 16, 32, 32, 32]
    assert config.side(0, 7) == 2 and SynthesisConfig(coarse_stages=8).side(0, 8) == 1
    for stages in (0, 9):
        with pytest.raises(DsvError, match="coarse stages"):
            SynthesisConfig(coarse_stages=stages)


def test_a_weight_below_zero_is_refused():
    with pytest.raises(DsvError, match="norm weight must not be negative"):
        SynthesisConfig(norm_weight=-1.0)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs(teacher, task, name):
    config = dataclasses.replace(PRESETS[name], iterations=PRESETS[name].coarse_stages + 2)
    found = synthesize(teacher.model, task, config, seed=0, labels=torch.tensor([3, 3, 8]))
    assert found.labels.tolist() == [3, 3, 8] and found.images.shape == (3, 1, 8, 8)


def test_a_set_keeps_its_labels_whatever_becomes_of_the_callers(teacher, task):
    labels = torch.tensor([3, 1])
    found = synthesize(teacher.model, task, SynthesisConfig(iterations=1), seed=0, labels=labels)
    labels.zero_()
    assert found.labels.tolist() == [3, 1]


def test_labels_that_do_not_fit(teacher, task):
    for labels in (torch.tensor([10]), torch.tensor([]), torch.ones(2, 9), torch.tensor([0.5])):
        with pytest.raises(DsvError, match="labels must"):
            synthesize(teacher.model, task, SHORT, seed=0, labels=labels)


def test_images_of_a_single_pixel():
    """Which have no neighbours to differ from."""
    task = Task(3, 1, ("a", "b"), (0.5,) * 3, (0.5,) * 3)
    found = synthesize(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), task, SHORT, seed=0)
    assert found.images.shape == (4, 3, 1, 1) and found.multipliers.isfinite().all()
