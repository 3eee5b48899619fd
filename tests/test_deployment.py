"""A whole deployment as separate processes with TLS and authentication, and what it withstands. Minutes long."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from deploy.control import Control
from deploy.local import LocalDeployment, LocalOptions, local_deployment
from deploy.processes import answers, flower_process
from dsv import DsvError
from protos import artefact
from protos.checkpoint import load_checkpoint
from protos.settings import RunSettings
from server.events import BytesMoved, Event, IterationDone, Published, RoundDone, read_events
from server.store import DirectoryStore
from server.synthesis_job import publish_releases

pytestmark = pytest.mark.slow
SMALL = RunSettings(
    rounds=3, local_epochs=1, architecture="convnet:8", images_per_class="1", iterations=4, local_batch_size=64
)
_PATIENCE_S = 420.0


class Silent:
    def update(self, name: str, done: int, total: int, note: str) -> None: ...

    def say(self, line: str) -> None:
        print(line)


def processes_below(folder: Path) -> list[str]:
    """Command lines of processes whose FLWR_HOME lies in a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"FLWR_HOME={folder}".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def kill_all(home: Path, *, containing: str = "") -> int:
    """kill -9, as a loss of power would, for the processes with this FLWR_HOME; returns their number."""
    count = 0
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or f"FLWR_HOME={home}".encode() not in (entry / "environ").read_bytes():
                continue
            if containing in (entry / "cmdline").read_text():
                os.kill(int(entry.name), signal.SIGKILL)
                count += 1
        except (OSError, ProcessLookupError):
            continue
    return count


@dataclass(frozen=True)
class Federation:
    """A deployment with runs in folders of their own."""

    local: LocalDeployment
    stack: ExitStack

    def settings(self, name: str, **changed) -> RunSettings:
        own = {"run_dir": str(self.local.folder / name), "store": str(self.local.folder / f"{name}-releases")}
        return replace(self.local.settings, **own, **changed)

    def events(self, settings: RunSettings) -> list[Event]:
        return read_events(Path(settings.run_dir))

    def until(self, settings: RunSettings, happened: Callable[[list[Event]], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not happened(self.events(settings)):
            assert time.monotonic() < deadline, self.events(settings)[-3:]
            time.sleep(0.2)

    def home(self, name: str) -> Path:
        return self.local.folder / name / "flower"

    def restart(self, child: subprocess.Popen[bytes], name: str) -> None:
        log = self.local.folder / f"{name}.log"
        self.stack.enter_context(flower_process(list(child.args), self.home(name), log))  # type: ignore[arg-type]

    @property
    def control(self) -> Control:
        return self.local.control


@pytest.fixture(scope="module")
def federation(tmp_path_factory) -> Iterator[Federation]:
    options = LocalOptions(tmp_path_factory.mktemp("deployment"), (), 3)
    with local_deployment(SMALL, options, Silent()) as local, ExitStack() as stack:
        yield Federation(local, stack)


def rounds_of(events: list[Event]) -> list[tuple[int, int]]:
    return [(e.round, e.averaged) for e in events if isinstance(e, RoundDone)]


def published(events: list[Event]) -> list[Published]:
    return [e for e in events if isinstance(e, Published)]


def test_one_federation_a_publication_and_a_newcomer_over_tls(federation, tmp_path):
    federation.local.run(Silent())
    events = federation.events(federation.local.settings)
    assert [r for r, averaged in rounds_of(events) if averaged >= 2] == [1, 2, 3]
    [release] = published(events)
    command = [str(Path(sys.executable).parent / "dsv"), "bootstrap", "--server", str(federation.local.distribution)]
    trusted = ["--ca", str(federation.local.authority), "--trust", str(federation.local.root)]
    command += [
        *trusted,
        "--state",
        str(tmp_path),
        "--architecture",
        "resnet18:8",
        "--newcomer-steps",
        "3",
        "--data",
        "digits",
        "--quiet",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert release.digest in done.stdout and "test accuracy on digits" in done.stdout
    rows = federation.local.ledger.rows()
    whole = max(row.bytes for row in rows if row.purpose == "weights")
    carried = [(r.round, r.client, r.direction) for r in rows if r.purpose == "weights" and r.bytes == whole]
    asked = {(e.round, e.client) for e in events if isinstance(e, BytesMoved) and e.direction == "up"}
    assert {(number, client, way) for number, client in asked for way in ("up", "down")} <= set(carried)
    assert sum(r.bytes for r in rows if r.client == "newcomers" and r.direction == "down") > release.size_bytes
    assert all(sum(r.bytes for r in rows if r.client == c and r.purpose == "transport") > 100_000 for c in range(3))


def synthesise_uncut(settings: RunSettings, folder: Path) -> None:
    teacher = load_checkpoint(Path(settings.run_dir) / "teacher.safetensors")
    publish_releases(teacher, settings, DirectoryStore(folder), on_event=lambda event: None)


def test_the_serverapp_killed_during_synthesis_goes_on(federation):
    settings = federation.settings("synthesis-killed", rounds=1, iterations=120)
    run = federation.control.start(settings.to_run_config())
    federation.until(settings, lambda events: sum(isinstance(e, IterationDone) for e in events) >= 60)
    assert kill_all(federation.home("superlink"), containing="flwr-serverapp") == 1
    with pytest.raises(DsvError, match="the run ended as 'finished:failed'"):
        federation.control.await_end(run, finished=lambda: False)
    run, log = federation.control.start(settings.to_run_config()), list[str]()
    with federation.control.log_told(run, log.append):
        federation.control.await_end(run, finished=lambda: False)
    events = federation.events(settings)
    assert [r for r, _ in rounds_of(events)] == [1]  # no round was done twice
    [release] = published(events)
    assert any(line.endswith(f": {release.path}") for line in log), log
    assert any("synthesis 1/class 120/120" in line for line in log)
    steps = [e.iteration for e in events if isinstance(e, IterationDone)]
    print("steps done", len(steps), "of", settings.iterations)
    assert len(steps) < 2 * settings.iterations - 20  # it did not begin anew
    uncut = DirectoryStore(Path(settings.run_dir) / "uncut")
    with multiprocessing.get_context("spawn").Pool(1) as fresh:  # as many threads as the ServerApp's process
        fresh.apply(synthesise_uncut, (settings, Path(settings.run_dir) / "uncut"))
    again = artefact.decode(uncut.read(uncut.list()[0].digest))
    assert (again.labels == artefact.load(Path(release.path)).labels).all()
    assert release.digest == uncut.list()[0].digest


def test_the_superlink_restarted_between_rounds(federation):
    settings = federation.settings("superlink-killed", rounds=3)
    federation.control.start(settings.to_run_config())
    federation.until(settings, lambda events: len(rounds_of(events)) == 1)
    assert kill_all(federation.home("superlink")) >= 2
    federation.restart(federation.local.parts["superlink"], "superlink")
    deadline = time.monotonic() + 120
    while not answers(f"http://{federation.control.address}/health") and time.monotonic() < deadline:
        time.sleep(0.5)
    federation.control.await_end(federation.control.start(settings.to_run_config()), finished=lambda: False)
    events = federation.events(settings)
    assert [r for r, _ in rounds_of(events)] == [1, 2, 3]  # the first was not done again
    assert len(published(events)) == 1


def test_a_supernode_killed_mid_round_and_back_later(federation):
    settings = federation.settings("supernode-killed", rounds=3)
    run = federation.control.start(settings.to_run_config())
    deadline = time.monotonic() + _PATIENCE_S
    while not any("flwr-clientapp" in line for line in processes_below(federation.home("node2"))):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert kill_all(federation.home("node2")) >= 2
    federation.until(settings, lambda events: len(rounds_of(events)) == 1)
    federation.restart(federation.local.parts["node2"], "node2")
    federation.control.await_end(run, finished=lambda: False)
    rounds = rounds_of(federation.events(settings))
    print("averaged per round", rounds)
    assert [r for r, _ in rounds] == [1, 2, 3] and rounds[0][1] == 2
    assert len(published(federation.events(settings))) == 1


def test_settings_that_changed_are_not_mixed_into_a_run(federation):
    settings = federation.settings("supernode-killed", rounds=2)
    with pytest.raises(DsvError, match="holds a run with other settings"):
        federation.control.await_end(federation.control.start(settings.to_run_config()), finished=lambda: False)
