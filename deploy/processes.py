"""Processes on this machine: started in groups of their own, awaited, and ended with everything that they started."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from dsv import DsvError

ROOT = Path(__file__).resolve().parent.parent
POLL_S = 0.2
_STOP_TIMEOUT_S = 10.0
_LOOPBACK = "127.0.0.1,localhost,::1"

_FLOWER_VARIABLES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # else every run starts with 'uv sync' and fails offline
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray hides every card from the clients that it simulates
    "HF_HUB_OFFLINE": "1",
}
"""Environment of every Flower process: no telemetry, no network, and this machine's cards."""


def flower_environment(home: Path) -> dict[str, str]:
    """Environment of a Flower process that keeps its files in ``home``.

    Flower starts its children by name, so the folder of the running Python comes first on PATH.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # What goes to this machine itself takes no proxy of the network's.
    direct = ",".join(filter(None, [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), _LOOPBACK]))
    proxies = {"no_proxy": direct, "NO_PROXY": direct}
    return {**os.environ, **_FLOWER_VARIABLES, **proxies, "FLWR_HOME": str(home), "PATH": path}


def tool(name: str) -> str:
    """The executable beside the running Python, so that no other installation's is taken."""
    return str(Path(sys.executable).parent / name)


def flwr(*arguments: str, environment: Mapping[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run the ``flwr`` command to its end, whatever that is, and keep what it prints.

    Raises:
        subprocess.TimeoutExpired: it takes longer; it is ended.
    """
    return subprocess.run(
        [tool("flwr"), *arguments], env=environment, capture_output=True, text=True, check=False, timeout=timeout_s
    )


def app_folder() -> Path:
    """The checkout that holds the Flower app.

    Raises:
        DsvError: this installation is none.
    """
    if not (ROOT / "pyproject.toml").exists():
        raise DsvError(
            "federations run from a checkout of feddsv, which holds the Flower app; clone it and 'make install'"
        )
    return ROOT


@contextmanager
def process(command: list[str], environment: Mapping[str, str], output: object) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a process group of its own, which is ended with everything in it."""
    child = subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,  # type: ignore[call-overload]
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(child.pid, number)
                child.wait(_STOP_TIMEOUT_S)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


@contextmanager
def flower_process(command: list[str], home: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child with a FLWR_HOME of its own, which is ended with everything that has the same."""
    home.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output, process(command, flower_environment(home), output) as child:
        try:
            yield child
        finally:
            end_all(home)


def end_all(home: Path) -> None:
    """End every process that was started with this FLWR_HOME, and their descendants: Flower and Ray put theirs into
    groups of their own, which outlive an interrupted SuperLink, and Ray's overwrite their environment with a title."""
    wanted = f"FLWR_HOME={home}".encode()
    family = _family(wanted, set())
    for number, patience_s in ((signal.SIGTERM, _STOP_TIMEOUT_S), (signal.SIGKILL, 1.0)):
        deadline, told = time.monotonic() + patience_s, set[_Identity]()
        while family and time.monotonic() < deadline:
            for pid, _ in family - told:  # one that began meanwhile is told too
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            told |= family
            time.sleep(POLL_S)
            family = _family(wanted, family)


_Identity = tuple[int, int]
"""A process's number and when it began, in ticks: numbers are used again."""
_NAME_CHARS = 15
"""As many of its name as Linux keeps."""


def children(parent: int, name: str) -> set[_Identity]:
    """The running children of a process whose executable has this name: number, and when it began, in ticks."""
    found = set()
    for one, above in _running():
        with suppress(OSError):
            if above == parent and Path(f"/proc/{one[0]}/comm").read_text().strip() == name[:_NAME_CHARS]:
                found.add(one)
    return found


def _family(variable: bytes, known: set[_Identity]) -> set[_Identity]:
    """Running processes that have this in their environment or are ``known``, and the descendants of all of these."""
    parents = dict(_running())
    family = {one for one in parents if one in known or _has(one[0], variable)}
    while True:
        pids = {pid for pid, _ in family}
        children = {one for one, parent in parents.items() if parent in pids} - family
        if not children:
            return family
        family |= children


def _running() -> Iterator[tuple[_Identity, int]]:
    """Every process that is no zombie, with its parent's number."""
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit():
                # What follows the command's name, which may hold anything, in brackets: proc_pid_stat(5).
                state, parent, *rest = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if state != "Z":
                    yield (int(folder.name), int(rest[17])), int(parent)


def _has(pid: int, variable: bytes) -> bool:
    with suppress(OSError):
        return variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def answers(url: str, trust: ssl.SSLContext | None = None) -> bool:
    """Whether an HTTP server of this machine answers there with success within a second."""
    direct, tls = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
    try:
        with urllib.request.build_opener(direct, tls).open(url, timeout=1):
            return True
    except (urllib.error.URLError, OSError):
        return False


def await_answer(
    child: subprocess.Popen[bytes], url: str, *, name: str, log: Path, timeout_s: float, trust: Path | None = None
) -> None:
    """Wait until a child's HTTP server answers.

    Args:
        name: what it is called in the error.
        trust: CA certificate for https; the system's when None.

    Raises:
        DsvError: it ended, or did not answer in time; holds its last words.
    """
    context = ssl.create_default_context(cafile=str(trust)) if trust else None
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and child.poll() is None:
        if answers(url, context):
            return
        time.sleep(POLL_S)
    raise DsvError(f"{name} did not start on {url.split('/')[2]}; its last words: {last_words(log)}")


def last_words(log: Path) -> str:
    """The last line of a log."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return (lines or ["it printed nothing"])[-1]


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
