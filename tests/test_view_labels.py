"""What ``--views`` means."""

import pytest

from dsv import KNOWN_TASKS, DsvError
from server.view_labels import plan_of


@pytest.mark.parametrize(
    ("choice", "task", "count", "leaves"),
    [
        ("auto", "cifar10", 24_000, 4_000),
        ("auto", "digits", None, None),
        ("auto", "fashionmnist", 24_000, 0),
        ("300", "digits", 300, 0),
        ("300", "cifar10", 300, 4_000),
        ("0", "cifar10", None, None),
    ],
)
def test_the_choices(choice, task, count, leaves):
    plan = plan_of(choice, KNOWN_TASKS[task], seed=7)
    assert (plan and plan.count, plan and plan.leaves) == (count, leaves)
    assert plan is None or plan.seed == 7


@pytest.mark.parametrize("choice", ["", "many", "-1", "1.5"])
def test_what_is_no_number(choice):
    with pytest.raises(DsvError, match="must be a number or auto"):
        plan_of(choice, KNOWN_TASKS["digits"], seed=0)
