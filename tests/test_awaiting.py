"""An operator who awaits a run: what ends the waiting, and what does not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy.addresses import Address
from deploy.control import Control
from deploy.local import LocalDeployment
from deploy.processes import answers, flower_environment, flower_process
from dsv import DsvError


@dataclass(frozen=True)
class Answering(Control):
    """Statuses one after the other; an empty one is no answer."""

    statuses: list[str] = field(default_factory=list)

    def status(self, run: int) -> str:
        status = self.statuses.pop(0)
        if not status:
            raise DsvError("'flwr list' over here was refused: away")
        return status


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("deploy.control._STATUS_EVERY_S", 0.0)


def control(tmp_path: Path, *statuses: str, patience_s: float = 60.0) -> Answering:
    return Answering(Address("localhost", 1), None, tmp_path, patience_s, list(statuses))


def test_a_control_api_that_is_away_for_a_while_ends_no_waiting(tmp_path):
    said: list[str] = []
    way = control(tmp_path, "running", "", "", "running", "finished:completed")
    way.await_end(7, finished=lambda: False, say=said.append)
    assert [told.split(";")[0] for told in said] == [
        "the status of run 7 is not known, it may go on",
        "run 7 is running",
    ]


def test_one_that_stays_away_does(tmp_path):
    with pytest.raises(DsvError, match="was refused: away"):
        control(tmp_path, "running", "", "", patience_s=-1.0).await_end(7, finished=lambda: False)


def test_a_log_that_does_not_come_hides_no_failure(tmp_path, monkeypatch):
    def hang(command, **named):
        raise subprocess.TimeoutExpired(command, named["timeout"])

    monkeypatch.setattr("deploy.control.subprocess.run", hang)
    with pytest.raises(DsvError, match="ended as 'finished:failed'; its last words: its log could not be read within"):
        control(tmp_path, "finished:failed").await_end(7, finished=lambda: False)


def test_a_part_that_ended_is_named_with_its_last_words(tmp_path):
    with flower_process(
        [sys.executable, "-c", "print('no such folder')"], tmp_path / "home", tmp_path / "node1.log"
    ) as c:
        c.wait(20)
        deployment = SimpleNamespace(parts={"node1": c}, folder=tmp_path)
        with pytest.raises(DsvError, match="the node1 ended; its last words: no such folder"):
            LocalDeployment.check_alive(deployment)  # type: ignore[arg-type]


def test_what_goes_to_this_machine_takes_no_proxy(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "example.org")
    assert flower_environment(tmp_path)["NO_PROXY"] == "example.org,127.0.0.1,localhost,::1"
    code = "import http.server as s; h = s.ThreadingHTTPServer(('127.0.0.1', 0), s.SimpleHTTPRequestHandler); "
    code += "print(h.server_port, flush=True); h.serve_forever()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as served:
        assert served.stdout is not None
        try:
            port = int(served.stdout.readline())
            monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
            assert any(answers(f"http://127.0.0.1:{port}/") for _ in range(10))
        finally:
            served.kill()
