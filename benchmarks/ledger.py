"""What Flower's messages say against what crosses sockets and interfaces, for the same federation.

    python -m benchmarks.ledger [--models convnet:8,convnet:64,resnet18:32]

For every model, two SuperNodes with the bundled digits, TLS, keys and the proxy of ``docs/deploy.md``, and one newcomer
that fetches a signed release. Twice: as ``dsv deploy local``, whose relays count what crosses the sockets (HTTP, TLS,
polling, the app's bundle), and, as root, on machines in network namespaces whose links lose 1 % of packets, where the
interfaces count IP packets (TCP's headers, acknowledgements, what was sent again). What the messages say is the
server's own count. Writes docs/results/ledger.json and prints Markdown.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import this_machine
from deploy.deployed_ledger import NEWCOMERS, OPERATOR, DeployedLedger
from deploy.device_folders import write_digit_folders
from deploy.ledger import TRANSPORT
from deploy.local import LocalOptions, local_deployment
from deploy.meter import Count
from deploy.processes import flower_process
from deploy.progress import display
from deploy.result import LedgerRow
from protos.settings import RunSettings
from server.events import EventReader, FederationDone
from tests.namespaces import Network, network, permitted

NODES, ROUNDS, IDLE_S = 2, 2, 30.0
DSV = str(Path(sys.executable).parent / "dsv")
SETTINGS = RunSettings(rounds=ROUNDS, local_epochs=1, images_per_class="10", iterations=4)
_PATIENCE_S = 600.0


@dataclass(frozen=True)
class Measured:
    """One federation: its ledger, and what a joined SuperNode moves in a second of idleness."""

    rows: list[LedgerRow]
    idle_up_bytes_per_s: float
    idle_down_bytes_per_s: float
    seconds: float


def sockets(settings: RunSettings, folder: Path) -> Measured:
    """``dsv deploy local``, whose relays count."""
    with (
        display(quiet=True) as shown,
        local_deployment(settings, LocalOptions(folder, (), NODES), shown) as deployment,
    ):
        _online(lambda: sum(node["status"] == "online" for node in deployment.control.nodes()))
        idle = _idle(deployment.ledger.meters.read)
        began = time.monotonic()
        deployment.run(shown)
        seconds = time.monotonic() - began
        trust = ("--ca", str(deployment.authority), "--trust", str(deployment.root))
        _patiently([DSV, "bootstrap", "--server", str(deployment.distribution), *trust, *_newcomer(folder)])
        return Measured(deployment.ledger.rows(), *idle, seconds)


def _newcomer(folder: Path) -> tuple[str, ...]:
    return ("--state", str(folder / "newcomer"), "--architecture", "convnet:8", "--newcomer-steps", "3", "--quiet")


@dataclass(frozen=True)
class Interfaces:
    """Counters of the machines' interfaces: IP packets."""

    machines: Network
    parties: dict[str, str]

    def read(self) -> dict[str, Count]:
        """Bytes by party."""
        found = {}
        for party, machine in self.parties.items():
            lines = self.machines.run(machine, "cat", "/proc/net/dev").splitlines()[2:]
            cells = [line.split(":")[1].split() for line in lines if line.split(":")[0].strip() != "lo"]
            found[party] = Count(sum(int(c[8]) for c in cells), sum(int(c[0]) for c in cells))
        return found

    def sent_again(self) -> int:
        """TCP segments that the devices sent again."""
        total = 0
        for machine in self.parties.values():
            lines = [line.split() for line in self.machines.run(machine, "cat", "/proc/net/snmp").splitlines()]
            names, values = [line for line in lines if line[0] == "Tcp:"]
            total += int(values[names.index("RetransSegs")])
        return total


def interfaces(settings: RunSettings, folder: Path) -> tuple[Measured, int, str]:
    """The same on machines of their own: what it measured, segments sent again, what shapes the links."""
    machines = [f"device{number}" for number in range(NODES)]
    with network(["server", *machines, "newcomer"]) as made, ExitStack() as stack:
        bench = _Bench(made, stack, folder, folder / "certs")
        nodes = bench.start()
        counters = Interfaces(made, {f"node{n}": m for n, m in enumerate(machines)} | {NEWCOMERS: "newcomer"})
        ledger = DeployedLedger(counters, nodes)
        idle = _idle(counters.read)
        began = time.monotonic()
        bench.federate(settings, ledger)
        seconds = time.monotonic() - began
        bench.bootstrap()
        return Measured(ledger.rows(), *idle, seconds), counters.sent_again(), made.links


@dataclass(frozen=True)
class _Bench:
    """docs/deploy.md's commands, each on its machine."""

    machines: Network
    stack: ExitStack
    folder: Path
    certs: Path

    @property
    def root(self) -> Path:
        """What newcomers trust."""
        return self.folder / "root.json"

    def start(self) -> dict[str, int]:
        """Everything up; Flower's ids by node."""
        server = self.machines.addresses["server"]
        (self.folder / "releases").mkdir(parents=True)
        self.machines.run("server", DSV, "certs", "--out", str(self.certs), "--host", server, f"--nodes={NODES}")
        own = ("--certs", str(self.certs / "server"))
        self._start("server", "superlink", "deploy", "superlink", *own, "--state", str(self.folder / "superlink"))
        self._start("server", "proxy", "deploy", "proxy", *own, "--state", str(self.folder / "proxy"))
        signing = ("--store", str(self.folder / "releases"), "--keys", str(self.folder / "signing"))
        made = self.machines.run("server", DSV, "keys", "init", *signing).splitlines()[0].rpartition(": ")[2]
        shutil.copyfile(made, self.root)
        tls = [str(self.certs / "server" / f"server.{kind}") for kind in ("crt", "key")]
        where = ("--host", server, "--certificate", tls[0], "--key", tls[1])
        self._start("server", "serve", "serve", *signing, *where)
        data, nodes = write_digit_folders(self.folder, NODES), {}
        for number in range(NODES):
            keys = self.certs / "nodes" / f"node{number}"
            command = ("deploy", "register", *self._operator(), str(keys / "node.pub"))
            nodes[f"node{number}"] = int(_patiently([*self.machines.on("server"), DSV, *command]).split()[-1])
            joined = ("--keys", str(keys), "--server", f"{server}:9093", "--data", str(data[number]))
            state = ("--state", str(self.folder / f"n{number}"))
            self._start(f"device{number}", f"n{number}", "deploy", "supernode", *joined, *state)
        _online(lambda: self.machines.run("server", DSV, "deploy", "nodes", *self._operator()).count("online"))
        return nodes

    def federate(self, settings: RunSettings, ledger: DeployedLedger) -> None:
        """One run, whose events close the ledger's rounds."""
        run_dir = self.folder / "run"
        settings = replace(settings, run_dir=str(run_dir), store=str(self.folder / "releases"))
        command = [*self.machines.on("server"), DSV, "deploy", "run", *self._operator(), *_options(settings)]
        reader = EventReader(run_dir)
        with (self.folder / "run.log").open("wb") as log:
            running = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            ended = False
            while not ended and running.poll() is None:
                for event in reader.new():
                    ledger.add(event)
                    ended = ended or isinstance(event, FederationDone)
                time.sleep(0.1)
            if running.wait(_PATIENCE_S) != 0:
                raise SystemExit((self.folder / "run.log").read_text())

    def bootstrap(self) -> None:
        """A newcomer on its own machine."""
        server = self.machines.addresses["server"]
        authority = self.certs / "nodes" / "node0" / "authority.crt"
        where = ("--server", f"{server}:50061", "--ca", str(authority), "--trust", str(self.root))
        _patiently([*self.machines.on("newcomer"), DSV, "bootstrap", *where, *_newcomer(self.folder)])

    def _operator(self) -> tuple[str, ...]:
        return ("--control", "127.0.0.1:9092", "--authority", str(self.certs / "server" / "authority.crt"))

    def _start(self, machine: str, name: str, *command: str) -> None:
        home, log = self.folder / name / "flower", self.folder / f"{name}.log"
        self.stack.enter_context(flower_process([*self.machines.on(machine), DSV, *command], home, log))


def _options(settings: RunSettings) -> list[str]:
    wanted = ("rounds", "local-epochs", "architecture", "images-per-class", "iterations", "run-dir", "store")
    config = settings.to_run_config()
    own = ["--classes", "0,1,2,3,4,5,6,7,8,9", "--channels", "1", "--image-size-px", "8"]
    return own + [word for name in wanted for word in (f"--{name}", str(config[name]))]


def _online(count: Callable[[], int]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while count() < NODES:
        if time.monotonic() > deadline:
            raise SystemExit("the SuperNodes do not come online")
        time.sleep(2)


def _idle(read: Callable[[], dict[str, Count]]) -> tuple[float, float]:
    """Bytes a second, up and down, of a SuperNode that waits."""
    before, began = read(), time.monotonic()
    time.sleep(IDLE_S)
    after, seconds = read(), time.monotonic() - began
    nodes = [name for name in after if name.startswith("node")]
    up = sum(after[name].up_bytes - before[name].up_bytes for name in nodes)
    down = sum(after[name].down_bytes - before[name].down_bytes for name in nodes)
    return up / seconds / len(nodes), down / seconds / len(nodes)


def _patiently(command: list[str]) -> str:
    """Repeat a command until it succeeds, and return what it printed."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout
        if time.monotonic() > deadline:
            raise SystemExit(f"{command}: {done.stdout}{done.stderr}")
        time.sleep(2)


def of_measured(measured: Measured) -> dict[str, Any]:
    """For the file."""
    return {**asdict(measured), "rows": [asdict(row) for row in measured.rows]}


@click.command()
@click.option("--models", default="convnet:8,convnet:64,resnet18:32", show_default=True)
@click.option(
    "--how", default="sockets,interfaces", show_default=True, help="What to measure; the file keeps the rest."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results/ledger.json"), show_default=True)
def main(models: str, how: str, out: Path) -> None:
    """Measure every model both ways."""
    content = json.loads(out.read_text()) if out.exists() else {"models": []}
    content["machine"] = this_machine()
    found = {row["model"]: row for row in content["models"]}
    for model in models.split(","):
        settings = replace(SETTINGS, architecture=model)
        row = found.setdefault(model, {"model": model})
        with tempfile.TemporaryDirectory(prefix="dsv-ledger-") as folder:
            if "sockets" in how:
                row["sockets"] = of_measured(sockets(settings, Path(folder) / "local"))
            if "interfaces" in how and (reason := permitted()):
                print(f"interfaces not measured: {reason}")
            elif "interfaces" in how:
                (Path(folder) / "machines").mkdir()
                measured, again, links = interfaces(settings, Path(folder) / "machines")
                row["interfaces"] = {**of_measured(measured), "segments_sent_again": again, "links": links}
        content["models"] = list(found.values())
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(content, indent=1) + "\n")
    print(as_markdown(content["models"]))


def as_markdown(found: list[dict[str, Any]]) -> str:
    """Of one device in the whole run, and of one newcomer: what the messages say, and what crossed."""
    lines = ["| model | bytes of | messages | sockets | over | interfaces | over |", "|---|---|" + "---:|" * 5]
    for row in found:
        for party, way in ((p, w) for p in ("a device", "a newcomer") for w in ("up", "down")):
            told = _bytes(row["sockets"], way, party, messages=True)
            cells = [f"{told:,.0f}"] if told else ["-"]
            for how in ("sockets", "interfaces"):
                size = _bytes(row[how], way, party, messages=False) if how in row else 0
                cells += [f"{size:,.0f}" if size else "-", f"{size / told - 1:+.1%}" if size and told else "-"]
            lines.append(f"| {row['model']} | {party}, {way} | " + " | ".join(cells) + " |")
    for row in found:
        for how in ("sockets", "interfaces"):
            if how in row:
                idle = f"{row[how]['idle_up_bytes_per_s']:.0f} up, {row[how]['idle_down_bytes_per_s']:.0f} down"
                lines.append(
                    f"\n{row['model']}, {how}: waiting moves {idle} B/s; the run took {row[how]['seconds']:.0f} s"
                )
    return "\n".join(lines)


def _bytes(measured: dict[str, Any], way: str, party: str, *, messages: bool) -> float:
    """Of one device on average, or of the newcomer, whose messages the ledger of a deployment does not know."""
    rows = [row for row in measured["rows"] if row["direction"] == way]
    if party == "a newcomer":
        return 0.0 if messages else float(sum(row["bytes"] for row in rows if row["client"] == NEWCOMERS))
    own = [row for row in rows if row["client"] not in (OPERATOR, NEWCOMERS)]
    total: int = sum(row["bytes"] for row in own if not (messages and row["purpose"] == TRANSPORT))
    return total / NODES


if __name__ == "__main__":
    main()
