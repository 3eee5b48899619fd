"""What a round costs on the deployment engine before anybody trains: ours beside Flower's own numpy-only app.

    python -m benchmarks.phase [--rounds 5]

One deployment on loopback (``dsv deploy local``: TLS, authentication, two SuperNodes). Both apps run the same number of
rounds of federated averaging with two clients and no evaluation: ours trains convnet:8 for one step on 20 digits a
device, the other adds 1 to a small array. Flower starts a process for every message. The seconds of a round are the
differences of the times at which rounds end; the first round is left out. Writes docs/results/phase.json.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import click

from benchmarks.machine import this_machine
from deploy.device_folders import digit_settings, write_digit_folders
from deploy.local import LocalDeployment, LocalOptions, local_deployment
from deploy.progress import display
from protos.settings import RunSettings
from server.events import RoundDone, read_events

IMAGES = 20
PROJECT = """
[project]
name = "numpyonly"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr"]
[tool.flwr.app]
publisher = "feddsv"
[tool.flwr.app.components]
serverapp = "numpyonly.parts:server"
clientapp = "numpyonly.parts:client"
[tool.flwr.app.config]
rounds = 5
out = ""
"""
PARTS = """
import time
import numpy
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@client.train()
def train(message, context):
    grown = message.content["arrays"].to_numpy_ndarrays()[0] + 1
    content = RecordDict({"arrays": ArrayRecord([grown]), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)


class Timed(FedAvg):
    def aggregate_train(self, server_round, replies):
        found = super().aggregate_train(server_round, replies)
        with open(self.out, "a") as opened:
            opened.write(f"{time.time()}\\n")
        return found


@server.main()
def main(grid, context):
    strategy = Timed(fraction_evaluate=0.0)
    strategy.out = context.run_config["out"]
    strategy.start(grid, ArrayRecord([numpy.zeros(3000, numpy.float32)]), num_rounds=context.run_config["rounds"])
"""


def ours(deployed: LocalDeployment, rounds: int) -> list[float]:
    """Seconds of every round but the first."""
    run_dir = Path(deployed.settings.run_dir)
    settings = replace(deployed.settings, rounds=rounds)
    run = deployed.control.start(settings.to_run_config())
    return _rounds(lambda: _finished_rounds(run_dir), rounds, lambda: deployed.control.stop(run))


def numpy_only(deployed: LocalDeployment, rounds: int, folder: Path) -> list[float]:
    """The same of Flower's own app."""
    app = folder / "numpyonly"
    (app / "numpyonly").mkdir(parents=True)
    (app / "pyproject.toml").write_text(PROJECT)
    (app / "numpyonly" / "__init__.py").write_text("")
    (app / "numpyonly" / "parts.py").write_text(PARTS)
    out = folder / "times"
    out.touch()
    deployed.control.start({"rounds": rounds, "out": str(out)}, app=app)
    return _rounds(lambda: len(out.read_text().splitlines()), rounds, lambda: None)


def _finished_rounds(run_dir: Path) -> int:
    return sum(isinstance(event, RoundDone) for event in read_events(run_dir))


def _rounds(done: Callable[[], int], rounds: int, end: Callable[[], None]) -> list[float]:
    times: list[float] = []
    while len(times) < rounds:
        times += [time.perf_counter()] * (done() - len(times))
        time.sleep(0.05)
    end()
    return [later - earlier for earlier, later in pairwise(times)]


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results/phase.json"), show_default=True)
def main(rounds: int, out: Path) -> None:
    """Measure both and print the ratio."""
    with tempfile.TemporaryDirectory() as name, display(quiet=True) as shown:
        folder = Path(name)
        roots = write_digit_folders(folder / "data", 2)
        for root in roots:
            for number, path in enumerate(sorted(root.glob("train/*/*.png"))):
                if number % 40:
                    path.unlink()
        tiny = RunSettings(architecture="convnet:8", local_epochs=1, local_batch_size=IMAGES, images_per_class="1")
        options = LocalOptions(folder / "deployment", tuple(roots), None)
        with local_deployment(digit_settings(tiny), options, shown) as deployed:
            reference = numpy_only(deployed, rounds, folder)
            own = ours(deployed, rounds)
    row = {
        "ours_s": statistics.median(own),
        "numpy_only_s": statistics.median(reference),
        "ratio": statistics.median(own) / statistics.median(reference),
        "ours_rounds_s": own,
        "numpy_only_rounds_s": reference,
        "machine": this_machine(),
    }
    out.write_text(json.dumps(row, indent=1) + "\n")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
