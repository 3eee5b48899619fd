"""Many newcomers at once: does the server stay small, does none fail, and what does it cost beside plain TCP?

    OMP_NUM_THREADS=1 python -m benchmarks.distribution --out docs/results/distribution.json

Every newcomer is a thread that calls ``client.download.download``: it receives into a file, checks the digest,
decodes, and flushes to disk. The plain TCP copy sends the same file over as many connections at once with ``sendfile``
to threads in as many processes that write it into a file and flush it, and check nothing.
"""

from __future__ import annotations

import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier

import click

from benchmarks.machine import this_machine
from client.download import download
from protos import artefact
from server.store import DirectoryStore

_KEYS = {"rss_bytes": "VmRSS", "peak_rss_bytes": "VmHWM"}
_COPY_BYTES = 1 << 18


def _release(size_bytes: int) -> bytes:
    import torch

    from dsv import KNOWN_TASKS, Provenance, SupportSet

    task = KNOWN_TASKS["cifar10"]
    count = size_bytes // (3 * 32 * 32)
    generator = torch.Generator().manual_seed(0)
    soft_labels = torch.rand(count, task.classes, generator=generator)
    support_set = SupportSet(
        images=torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8),
        labels=torch.randint(0, task.classes, (count,), generator=generator),
        soft_labels=soft_labels / soft_labels.sum(1, keepdim=True),
        multipliers=torch.rand(count, generator=generator),
        task=task,
        provenance=Provenance("convnet:128", "0" * 64, "noise", 0),
    )
    return artefact.encode(support_set)


def _memory(pid: int) -> dict[str, int]:
    text = Path(f"/proc/{pid}/status").read_text()
    found = {key: re.search(rf"{name}:\s+(\d+) kB", text) for key, name in _KEYS.items()}
    return {key: int(match.group(1)) * 1024 for key, match in found.items() if match}


@contextmanager
def _server(store: Path) -> Iterator[tuple[str, int]]:
    command = [sys.executable, "-m", "deploy.cli", "serve", "--store", str(store), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield line.split(" on ")[1].split(";")[0], process.pid
        finally:
            process.terminate()


@contextmanager
def _plain_server(path: Path) -> Iterator[str]:
    def send(accepted: socket.socket) -> None:
        with accepted, path.open("rb") as opened:
            accepted.sendfile(opened)

    def accept() -> None:
        with ThreadPoolExecutor(64) as pool:  # as many at a time as the service lets send
            while True:
                try:
                    pool.submit(send, listening.accept()[0])
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        thread = threading.Thread(target=accept)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def _fetch(address: str, digest: str, folder: Path) -> None:
    download(address, digest, folder=folder)


def _copy(address: str, digest: str, folder: Path) -> None:
    host, port = address.split(":")
    folder.mkdir()
    with socket.create_connection((host, int(port)), timeout=600) as connected, (folder / digest).open("wb") as opened:
        while chunk := connected.recv(_COPY_BYTES):
            opened.write(chunk)
        opened.flush()
        os.fsync(opened.fileno())


def _newcomers(
    work: Callable[[str, str, Path], None], place: tuple[str, str, str], numbers: range, ready: Barrier
) -> list[tuple[float, float, str]]:
    """So many threads that begin when all processes are ready; returns for each its begin, its end and its error."""
    address, digest, folder = place
    results: list[tuple[float, float, str]] = []
    go, start = threading.Event(), 0.0

    def one(number: int) -> None:
        error = ""
        go.wait()
        try:
            work(address, digest, Path(folder) / str(number))
        except Exception as failed:
            error = str(failed)
        results.append((start, time.time(), error))

    threads = [threading.Thread(target=one, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.time()
    go.set()
    for thread in threads:
        thread.join()
    return results


def _at_once(
    work: Callable[[str, str, Path], None], place: tuple[str, str, str], newcomers: int, processes: int
) -> tuple[float, list[str], list[float]]:
    each, spawning = newcomers // processes, get_context("spawn")
    with spawning.Manager() as manager, spawning.Pool(processes) as pool:
        ready = manager.Barrier(processes)
        calls = [(work, place, range(i * each, (i + 1) * each), ready) for i in range(processes)]
        results = [entry for part in pool.starmap(_newcomers, calls, chunksize=1) for entry in part]
    began = min(start for start, _, _ in results)
    return max(end for _, end, _ in results) - began, [e for _, _, e in results if e], [b - a for a, b, _ in results]


@click.command()
@click.option("--newcomers", default=1000, show_default=True)
@click.option("--processes", default=4, show_default=True, help="The newcomers are threads of so many processes.")
@click.option("--size-mb", default=8.0, show_default=True, help="Size of the release.")
@click.option("--out", type=click.Path(path_type=Path))
def main(newcomers: int, processes: int, size_mb: float, out: Path | None) -> None:
    """Run both and print the result as JSON."""
    content = _release(int(size_mb * 1e6))
    digest, total_bytes = artefact.digest(content), len(content) * newcomers
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = DirectoryStore(folder / "store")
        store.publish(content)
        (folder / "ours").mkdir()
        (folder / "plain").mkdir()
        with _plain_server(store.path(digest)) as address:
            plain_s, plain_errors, _ = _at_once(_copy, (address, digest, str(folder / "plain")), newcomers, processes)
        with _server(folder / "store") as (address, pid):
            before = _memory(pid)
            seconds, errors, each = _at_once(_fetch, (address, digest, str(folder / "ours")), newcomers, processes)
            after = _memory(pid)
        whole = sum(path.read_bytes() == content for path in (folder / "ours").glob(f"*/{digest}.dsv"))
    result = {
        "newcomers": newcomers,
        "release_bytes": len(content),
        "failed": len(errors) + len(plain_errors),
        "errors": sorted(set(errors + plain_errors))[:5],
        "whole": whole,
        "seconds": seconds,
        "median_seconds_of_a_newcomer": statistics.median(each),
        "bytes_per_s": total_bytes / seconds,
        "plain_tcp_seconds": plain_s,
        "plain_tcp_bytes_per_s": total_bytes / plain_s,
        "share_of_plain_tcp": plain_s / seconds,
        "server_rss_bytes_idle": before["rss_bytes"],
        "server_rss_bytes_peak": after["peak_rss_bytes"],
        "load_before": os.getloadavg()[0],
        "machine": this_machine(),
    }
    text = json.dumps(result, indent=2) + "\n"
    click.echo(text, nl=False)
    if out:
        out.write_text(text)


if __name__ == "__main__":
    main()
