"""What ``--views`` means."""

import dataclasses

import pytest

from dsv import KNOWN_TASKS, DsvError
from server.view_labels import plan_of


@pytest.mark.parametrize(
    ("choice", "task", "expected"),
    [
        ("auto", "cifar10", (24_000, 4_000, 2.0)),
        ("auto", "digits", (4_000, 0, 0.25)),
        ("auto", "fashionmnist", (24_000, 0, 2.0)),
        ("300", "digits", (300, 0, 0.25)),
        ("300", "cifar10", (300, 4_000, 2.0)),
    ],
)
def test_the_choices(choice, task, expected):
    plan = plan_of(choice, KNOWN_TASKS[task], seed=7)
    assert (plan.count, plan.leaves, plan.temperature) == expected and plan.seed == 7


def test_no_views():
    assert plan_of("0", KNOWN_TASKS["cifar10"], seed=7) is None
    large = dataclasses.replace(KNOWN_TASKS["cifar10"], image_size_px=224)
    assert plan_of("auto", large, seed=7) is None
    assert plan_of("300", large, seed=7).count == 300


@pytest.mark.parametrize("choice", ["", "many", "-1", "1.5"])
def test_what_is_no_number(choice):
    with pytest.raises(DsvError, match="must be a number or auto"):
        plan_of(choice, KNOWN_TASKS["digits"], seed=0)
