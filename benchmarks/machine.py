"""In what words every benchmark says where its seconds were taken, and what memory its process had."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def this_machine(device: str = "cpu", *, threads: int | None = None) -> str:
    """Card (unless ``device`` is the CPU), processor, the process's cores, torch's threads or those given, versions."""
    card = f"{torch.cuda.get_device_name(device)}, " if torch.device(device).type == "cuda" else ""
    cores, threads = len(os.sched_getaffinity(0)), threads or torch.get_num_threads()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{card}{platform.machine()}, {cores} cores, {threads} threads, {versions}"


def fresh_peak_bytes() -> int:
    """The process's resident memory, from which its peak starts anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """The largest that the process's resident memory has been."""
    line = next(text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
