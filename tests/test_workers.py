"""Trainings in threads."""

import threading
import time

import pytest
import torch

from deploy.workers import workers


def test_whoever_gives_up_does_not_wait_for_trainings():
    begun, steps = threading.Event(), []

    def training(on_step):
        for step in range(10_000):
            begun.set()
            time.sleep(0.01)
            on_step(step, 0.0)
            steps.append(step)

    threads, started_s = torch.get_num_threads(), time.monotonic()
    with pytest.raises(KeyboardInterrupt), workers("cpu") as at_work:
        futures = [at_work.pool.submit(training, at_work.on_step) for _ in range(20)]
        assert begun.wait(10)
        raise KeyboardInterrupt
    assert time.monotonic() - started_s < 15 and len(steps) < 5_000, "100 s each"
    assert all(future.done() for future in futures)
    assert torch.get_num_threads() == threads


def test_trainings_that_are_waited_for_end_by_themselves():
    with workers("cpu") as at_work:
        for done in at_work.pool.map(lambda number: at_work.on_step(number, 0.0) or number, range(5)):
            assert not at_work.ended.is_set() and done in range(5)
