"""Flower's own door, used from outside: a private SuperLink for one simulation, ``flwr run``, and its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from dsv import DsvError

ROOT = Path(__file__).resolve().parent.parent
CONNECTION = "dsv-local"
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.2

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # else every run starts with 'uv sync' and fails offline
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
}
"""Environment of every Flower process: no telemetry, no network."""


@dataclass(frozen=True)
class Simulation:
    """A running SuperLink of one's own, in simulation mode.

    Args:
        environment: for every command that speaks to it.
        await_ready: returns when the SuperLink answers, raises DsvError when it does not start.
        children: ends what was started, when the simulation ends.
    """

    environment: Mapping[str, str]
    await_ready: Callable[[], None]
    children: ExitStack

    def run(self, run_config: Mapping[str, object], *, clients: int, log: Path, finished: Callable[[], bool]) -> None:
        """``flwr run`` the app of this checkout.

        Args:
            run_config: Flower's run configuration.
            clients: simulated SuperNodes.
            log: file that takes everything Flower prints.
            finished: called several times a second; True once the app has done all it does. Flower's own processes
                then wind down beside whatever the caller does next.

        Raises:
            DsvError: the run did not complete; names the log.
        """
        self.await_ready()
        overrides = Path(self.environment["FLWR_HOME"]) / "run-config.toml"
        overrides.write_text(tomli_w.dumps(run_config))
        federation = f"num-supernodes={clients} client-resources-num-cpus=1"
        command = [_tool("flwr"), "run", str(_app_folder()), CONNECTION, "--stream"]
        command += ["-c", str(overrides), "--federation-config", federation]
        output = self.children.enter_context(log.open("wb"))
        process = self.children.enter_context(_process(command, self.environment, output))
        while not finished():
            if process.poll() is not None and not finished():
                # 'flwr run' itself exits with 0 whatever happened.
                raise DsvError(f"the Flower run ended as {self._status() or 'not started'!r}; {log} says why")
            time.sleep(_POLL_S)

    def _status(self) -> str:
        """Status of the latest run, such as ``finished:completed``; empty when there is none."""
        command = [_tool("flwr"), "list", CONNECTION, "--format", "json"]
        listed = subprocess.run(command, env=dict(self.environment), capture_output=True, text=True, check=False)
        try:
            return str(json.loads(listed.stdout)["runs"][0]["status"])
        except (ValueError, KeyError, IndexError):
            return ""


@contextmanager
def simulation() -> Iterator[Simulation]:
    """A SuperLink on a free loopback port with a home of its own; nothing of it is left at the end.

    It starts while the caller goes on; ``Simulation.run`` waits for it.
    """
    # A short path: Ray puts Unix sockets below it, whose paths may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="dsv-", ignore_cleanup_errors=True) as folder:
        port = _free_port()
        home = Path(folder) / "flwr"
        home.mkdir()
        connections = {
            "superlink": {"default": CONNECTION, CONNECTION: {"address": f"127.0.0.1:{port}", "insecure": True}}
        }
        (home / "config.toml").write_text(tomli_w.dumps(connections))
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        environment = {**os.environ, **QUIET, "FLWR_HOME": str(home), "RAY_TMPDIR": folder, "PATH": path}
        command = [_tool("flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        log = home / "superlink.log"
        with log.open("wb") as output, _process(command, environment, output) as process, ExitStack() as children:
            try:
                yield Simulation(environment, lambda: _await_health(process, port, log), children)
            finally:
                _end_all(home)


@contextmanager
def _process(command: list[str], environment: Mapping[str, str], output: object) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a process group of its own, which is ended with everything in it."""
    process = subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,  # type: ignore[call-overload]
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(_STOP_TIMEOUT_S)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def _end_all(home: Path) -> None:
    """End every process that was started with this FLWR_HOME: Flower and Ray put theirs into groups of their own, which
    outlive an interrupted SuperLink."""
    wanted = f"FLWR_HOME={home}".encode()
    for number, patience_s in ((signal.SIGTERM, _STOP_TIMEOUT_S), (signal.SIGKILL, 1.0)):
        deadline = time.monotonic() + patience_s
        for pid in _processes_with(wanted):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        while _processes_with(wanted) and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def _processes_with(variable: bytes) -> list[int]:
    """Processes that have this in their environment; zombies have none."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and variable in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def _await_health(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL_S)
    last = (log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"])[-1]
    raise DsvError(f"Flower's SuperLink did not start on 127.0.0.1:{port}; its last words: {last}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tool(name: str) -> str:
    """The executable beside the running Python, so that no other installation's is taken."""
    return str(Path(sys.executable).parent / name)


def _app_folder() -> Path:
    if not (ROOT / "pyproject.toml").exists():
        raise DsvError(
            "simulations run from a checkout of feddsv, which holds the Flower app; clone it and 'make install'"
        )
    return ROOT
