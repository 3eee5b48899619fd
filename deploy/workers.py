"""Threads that train several small models at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event

import torch


@dataclass(frozen=True)
class Workers:
    """Where trainings run.

    Args:
        pool: takes them.
        ended: whether nobody waits for them any more.
    """

    pool: ThreadPoolExecutor
    ended: Event

    def on_step(self, step: int, loss: float) -> None:
        """What every training here is to call at each step: it ends one that nobody waits for any more, or an
        interrupted command would go on for the minutes that trainings take."""
        if self.ended.is_set():
            raise InterruptedError(f"given up after {step} steps")


@contextmanager
def workers(device: str) -> Iterator[Workers]:
    """One training per core on a CPU (small models do not fill two), one at a time on a GPU.

    Where the block ends by an exception, trainings that run are ended too.
    """
    cores = len(os.sched_getaffinity(0)) if device == "cpu" else 1
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1 if device == "cpu" else threads,))
    ended = Event()
    try:
        yield Workers(pool, ended)
    finally:
        ended.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
