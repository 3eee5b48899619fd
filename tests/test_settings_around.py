"""What is set around a call, and how much a call takes: no_grad, autocast, other dtypes, threads, memory."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch
from nets import IMAGES, LABELS, SHORT, TASK, Net
from torch import nn

from dsv import (
    Compute,
    DsvError,
    SelectionConfig,
    SynthesisConfig,
    Task,
    TrainingConfig,
    ViewPlan,
    model_digest,
    predict,
    select,
    synthesize,
    train,
)
from dsv.compute import _SWITCHES

STEPS = TrainingConfig(2, "sgd", 0.1, cosine=False, weight_decay=0.0, batch_size=4)


@pytest.fixture
def plain():
    return synthesize(Net(), TASK, SHORT)


def test_no_grad_around_is_no_obstacle(plain):
    model = Net()
    with torch.no_grad():
        assert torch.equal(synthesize(model, TASK, SHORT).images, plain.images)
        train(model, IMAGES, LABELS, TASK, STEPS, seed=0)
    assert model_digest(model) != model_digest(Net())


def test_inference_mode_around_is_named():
    model = Net()
    with torch.inference_mode():
        for refused in (
            lambda: synthesize(model, TASK, SHORT),
            lambda: select(model, IMAGES.__getitem__, LABELS, TASK, SelectionConfig(iterations=1)),
            lambda: train(model, IMAGES, LABELS, TASK, STEPS, seed=0),
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
        with Compute(precision="tf32").running():  # a CPU has none
            assert not torch.backends.cudnn.allow_tf32
        with pytest.raises(DsvError, match="different precisions"):
            _SWITCHES.enter(tf32=True)
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.cudnn.allow_tf32) == before


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_the_precision_around_is_what_it_was_afterwards(precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with Compute().running():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="this torch has no such switches")
def test_torchs_other_way_of_setting_precisions_is_one_line():
    found = subprocess.run([sys.executable, "-c", OTHER_WAY], capture_output=True, text=True, check=False, timeout=100)
    assert found.stdout.startswith("torch.backends...fp32_precision was set, which excludes"), found.stderr


OTHER_WAY = """
import torch, dsv
torch.backends.cuda.matmul.fp32_precision = "tf32"
try:
    with dsv.Compute().running():
        pass
except dsv.DsvError as error:
    print(error)
"""


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
