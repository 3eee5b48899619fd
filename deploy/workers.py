"""Threads that train several small models at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def workers(device: str) -> Iterator[ThreadPoolExecutor]:
    """One training per core on a CPU (small models do not fill two), one at a time on a GPU."""
    cores = len(os.sched_getaffinity(0)) if device == "cpu" else 1
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1 if device == "cpu" else threads,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
