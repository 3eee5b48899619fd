"""Flower's own door, used from outside: a private SuperLink for one simulation, ``flwr run``, and its end."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import tomli_w
import torch

from deploy.processes import (
    POLL_S,
    app_folder,
    await_answer,
    end_all,
    flower_environment,
    flwr,
    free_port,
    process,
    tool,
)
from dsv import DsvError

CONNECTION = "dsv-local"
START_TIMEOUT_S = 60.0
_STATUS_TIMEOUT_S = 60.0
CLIENTS_ON_A_CARD = 4
"""Simulated clients that train at once on a card: each is a process with CUDA's half a gigabyte of its own."""


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

    def run(
        self,
        run_config: Mapping[str, object],
        *,
        clients: int,
        device: str,
        log: Path,
        finished: Callable[[], bool],
    ) -> None:
        """``flwr run`` the app of this checkout.

        Args:
            run_config: Flower's run configuration.
            clients: simulated SuperNodes.
            device: where they train: one for each core on a CPU, ``CLIENTS_ON_A_CARD`` at a time on a card.
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
        if torch.device(device).type != "cpu":  # what Ray takes for cores is how many clients it runs at once
            federation += f" init-args-num-cpus={min(CLIENTS_ON_A_CARD, len(os.sched_getaffinity(0)))}"
        command = [tool("flwr"), "run", str(app_folder()), CONNECTION, "--stream"]
        command += ["-c", str(overrides), "--federation-config", federation]
        output = self.children.enter_context(log.open("wb"))
        child = self.children.enter_context(process(command, self.environment, output))
        while not finished():
            if child.poll() is not None and not finished():
                # 'flwr run' itself exits with 0 whatever happened.
                raise DsvError(f"the Flower run ended as {self._status() or 'not started'!r}; {log} says why")
            time.sleep(POLL_S)

    def _status(self) -> str:
        """Status of the latest run, such as ``finished:completed``; empty when there is none."""
        arguments = ("list", CONNECTION, "--format", "json")
        try:
            listed = flwr(*arguments, environment=self.environment, timeout_s=_STATUS_TIMEOUT_S)
            return str(json.loads(listed.stdout)["runs"][0]["status"])
        except (ValueError, KeyError, IndexError, subprocess.TimeoutExpired):
            return ""


def ray_environment(folder: Path) -> dict[str, str]:
    """Of Ray, which runs Flower's simulated clients and listens on every address of the machine: whoever is to be let
    in, and could run code as this user, has to show a token, drawn anew for each run."""
    return {"RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@contextmanager
def simulation() -> Iterator[Simulation]:
    """A SuperLink on a free loopback port with a home of its own; nothing of it is left at the end.

    It starts while the caller goes on; ``Simulation.run`` waits for it.
    """
    # A short path: Ray puts Unix sockets below it, whose paths may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="dsv-", ignore_cleanup_errors=True) as folder:
        port = free_port()
        home = Path(folder) / "flwr"
        home.mkdir()
        connections = {
            "superlink": {"default": CONNECTION, CONNECTION: {"address": f"127.0.0.1:{port}", "insecure": True}}
        }
        (home / "config.toml").write_text(tomli_w.dumps(connections))
        environment = flower_environment(home) | ray_environment(Path(folder))
        command = [tool("flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        log = home / "superlink.log"
        with log.open("wb") as output, process(command, environment, output) as child, ExitStack() as children:

            def await_ready() -> None:
                url = f"http://127.0.0.1:{port}/health"
                await_answer(child, url, name="Flower's SuperLink", log=log, timeout_s=START_TIMEOUT_S)

            try:
                yield Simulation(environment, await_ready, children)
            finally:
                end_all(home)
