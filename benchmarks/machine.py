"""In what words every benchmark says where its seconds were taken."""

from __future__ import annotations

import os
import platform

import torch


def this_machine(device: str = "cpu", *, threads: int | None = None) -> str:
    """Card (unless ``device`` is the CPU), processor, the process's cores, torch's threads or those given, versions."""
    card = f"{torch.cuda.get_device_name(device)}, " if torch.device(device).type == "cuda" else ""
    cores, threads = len(os.sched_getaffinity(0)), threads or torch.get_num_threads()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{card}{platform.machine()}, {cores} cores, {threads} threads, {versions}"
