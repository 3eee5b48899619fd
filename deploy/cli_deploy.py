"""The commands that put a federation on real machines: ``dsv certs``, ``dsv deploy ...``, ``dsv doctor``."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from deploy.addresses import Address
from deploy.flower_nodes import GATE_PORT, OPERATOR_PORT, SUPERLINK_PORT, SUPERNODE_PORT
from deploy.options import ADDRESS, QUIET, Group, options_of
from dsv import DsvError
from protos.settings import IMAGEFOLDER, RunSettings

if TYPE_CHECKING:
    from deploy.proxy import OperatorGate, ServerGate

_SIMULATED = ("data", "data_root", "partitioner", "dirichlet_alpha", "partition_file")


class _Named(click.Path):
    """A path that is not empty, which would be the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            raise DsvError(f"{param.opts[0] if param else 'a path'} is empty; name a file or a folder")
        return super().convert(value, param, ctx)


_PATH = _Named(path_type=Path)
_PORT = click.IntRange(1, 65535)
_STATE = click.option(
    "--state", type=_PATH, default=Path("state"), show_default=True, help="Folder for what this process keeps."
)
_CERTS = click.option("--certs", required=True, type=_PATH, help="The folder server/ that 'dsv certs' made.")
_CONTROL = click.option(
    "--control",
    "address",
    type=ADDRESS,
    default=f"127.0.0.1:{OPERATOR_PORT}",
    show_default=True,
    help="Where the Control API is: an operator's proxy, or with --authority the SuperLink's own loopback port.",
)
_AUTHORITY = click.option("--authority", type=_PATH, help="authority.crt, when --control speaks TLS itself.")


@click.command()
@click.option("--out", required=True, type=_PATH, help="Folder for all certificates and keys.")
@click.option("--host", "hosts", multiple=True, help="DNS name or IP address of the server; may be repeated.")
@click.option("--nodes", default=0, show_default=True, type=click.IntRange(0, 100_000), help="SuperNodes node0, ...")
@click.option("--node", "named", multiple=True, help="A SuperNode's name; may be repeated.")
@click.option("--days", default=365, show_default=True, help="Validity of everything but the authorities, 1 to 825.")
def certs(out: Path, hosts: tuple[str, ...], nodes: int, named: tuple[str, ...], days: int) -> None:
    """Make authorities, certificates and SuperNode keys, a folder for each machine.

    What is there is never touched: the same command with more nodes adds them, and a folder that was moved away is
    made anew.
    """
    from deploy.certificates import make_certificates

    names = (*(f"node{number}" for number in range(nodes)), *named)
    made = make_certificates(out, hosts=hosts, nodes=names, days=days)
    for folder in made:
        click.echo(f"made {folder}")
    if not made:
        click.echo(f"nothing was missing in {out}")


@click.group(cls=Group)
def deploy() -> None:
    """Parts of a deployment, each in the foreground; a supervisor starts and restarts them."""


@deploy.command()
@_CERTS
@_STATE
@click.option("--port", type=_PORT, default=SUPERLINK_PORT, show_default=True, help="Port on loopback.")
def superlink(certs: Path, state: Path, port: int) -> None:
    """Flower's SuperLink with TLS and SuperNode authentication, on loopback; 'dsv deploy proxy' opens it to devices."""
    from deploy.flower_nodes import SuperLink, become

    part = SuperLink(certs, state, port)
    become(part.command(), part.home, part.listen)


@deploy.command()
@_CERTS
@_STATE
@click.option("--listen", type=ADDRESS, default=f"0.0.0.0:{GATE_PORT}", show_default=True, help="Address for devices.")
@click.option("--superlink-port", type=_PORT, default=SUPERLINK_PORT, show_default=True, help="The SuperLink's port.")
def proxy(certs: Path, state: Path, listen: Address, superlink_port: int) -> None:
    """The door for devices and operators: nginx, which asks operators for their certificate."""
    from deploy.proxy import ServerGate

    gate = ServerGate(certs, listen, Address("127.0.0.1", superlink_port))
    _become_nginx(gate, state)


@deploy.command()
@click.option("--certs", required=True, type=_PATH, help="The folder operator/ that 'dsv certs' made.")
@click.option("--server", required=True, type=ADDRESS, help="Address of 'dsv deploy proxy'.")
@_STATE
@click.option("--port", type=_PORT, default=OPERATOR_PORT, show_default=True, help="Port on loopback.")
def operator(certs: Path, server: Address, state: Path, port: int) -> None:
    """An operator's own proxy, which adds the certificate that the flwr command cannot present."""
    from deploy.proxy import OperatorGate

    gate = OperatorGate(certs, Address("127.0.0.1", port), server)
    _become_nginx(gate, state)


def _become_nginx(gate: ServerGate | OperatorGate, state: Path) -> NoReturn:
    from deploy.flower_nodes import become
    from deploy.proxy import nginx_command, write_configuration

    folder = state.absolute()
    become(nginx_command(write_configuration(gate, folder / "proxy")), folder / "flower", gate.listen)


@deploy.command()
@click.option("--keys", required=True, type=_PATH, help="This device's folder nodes/NAME that 'dsv certs' made.")
@click.option("--server", required=True, type=ADDRESS, help="Address of 'dsv deploy proxy'.")
@click.option("--data", required=True, type=_PATH, help="This device's images, <class>/* or train/<class>/*.")
@click.option("--backbone", type=_PATH, help="This device's copy of a run's backbone, safetensors.")
@_STATE
@click.option("--port", type=_PORT, default=SUPERNODE_PORT, show_default=True, help="Port on loopback.")
def supernode(*, keys: Path, server: Address, data: Path, backbone: Path | None, state: Path, port: int) -> None:
    """Flower's SuperNode on this device."""
    from deploy.flower_nodes import SuperNode, become

    part = SuperNode(keys, server, data, state, port, backbone)
    become(part.command(), part.home, part.listen)


@deploy.command()
@_CONTROL
@_AUTHORITY
@click.argument("public_keys", nargs=-1, required=True, type=_PATH)
def register(address: Address, authority: Path | None, public_keys: tuple[Path, ...]) -> None:
    """Admit the SuperNodes of PUBLIC_KEYS (nodes/NAME/node.pub); those that are admitted already stay so."""
    from deploy.control import RegisteredError, control

    with control(address, authority) as way:
        for key in public_keys:
            try:
                click.echo(f"registered {key} as node {way.register(key)}")
            except RegisteredError as known:
                click.echo(str(known))


@deploy.command()
@_CONTROL
@_AUTHORITY
def nodes(address: Address, authority: Path | None) -> None:
    """List the SuperNodes and whether they are online."""
    from deploy.control import control

    with control(address, authority) as way:
        for node in way.nodes():
            click.echo(f"{node['node-id']}  {node['status']}")


@deploy.command()
@_CONTROL
@_AUTHORITY
@click.argument("node", type=int)
def unregister(address: Address, authority: Path | None, node: int) -> None:
    """Shut a SuperNode out for good. NODE is its number in 'dsv deploy nodes'."""
    from deploy.control import control

    with control(address, authority) as way:
        way.unregister(node)
        click.echo(f"unregistered {node}")


@deploy.command()
@_CONTROL
@_AUTHORITY
@click.argument("run", type=int)
def stop(address: Address, authority: Path | None, run: int) -> None:
    """Stop a RUN. It can go on later: 'dsv deploy run' with the same --run-dir."""
    from deploy.control import control

    with control(address, authority) as way:
        way.stop(run)
        click.echo(f"stopped {run}")


@deploy.command()
@_CONTROL
@_AUTHORITY
@options_of(RunSettings, without=_SIMULATED)
def run(address: Address, authority: Path | None, **values: Any) -> None:
    """Federate, synthesise and publish over the SuperNodes that are online, and show the run's log until its end.

    --run-dir, --store and --backbone are paths of the server. The same command with the same --run-dir goes on with a
    run that was cut off.
    """
    from deploy.control import control
    from server.run_check import check_options

    settings = RunSettings(**values, data=IMAGEFOLDER)
    check_options(settings)
    door = f" --control {address}" + (f" --authority {authority}" if authority else "")
    with control(address, authority) as way:
        number = way.start(settings.to_run_config())
        click.echo(f"run {number} started; to stop it: 'dsv deploy stop {number}{door}'")
        try:
            with way.log_told(number, click.echo):
                way.await_end(number, finished=lambda: False, say=lambda told: click.echo(told, err=True))
        except (KeyboardInterrupt, SystemExit):
            click.echo(f"run {number} goes on; to stop it: 'dsv deploy stop {number}{door}'", err=True)
            raise
        click.echo(f"run {number} completed")


@deploy.command()
@click.option(
    "--device-data",
    multiple=True,
    type=_PATH,
    help="A device's images, <class>/* or train/<class>/*; repeat for each device.",
)
@click.option("--nodes", type=int, help="Devices with bundled digits, where there is no --device-data; default: 2.")
@click.option("--stay", is_flag=True, help="Keep everything up after the run, until interrupted.")
@click.option("--out", type=_PATH, default=Path("runs"), show_default=True, help="Folder for deployments.")
@options_of(RunSettings, without=(*_SIMULATED, "run_dir", "store"))
@QUIET
def local(device_data: tuple[Path, ...], nodes: int | None, stay: bool, out: Path, quiet: bool, **values: Any) -> None:
    """A whole deployment on this machine with TLS and authentication, one federation over it, and its end."""
    from deploy.ledger import print_ledger, read_ledger
    from deploy.local import LocalOptions, local_deployment
    from deploy.progress import display

    settings = RunSettings(**values)
    with (
        display(quiet=quiet) as shown,
        local_deployment(settings, LocalOptions(out, device_data, nodes), shown) as deployment,
    ):
        deployment.run(shown)
        shown.say(f"releases: {deployment.settings.store}")
        folder = deployment.write_ledger()
        if stay:
            trusted = f"--ca {deployment.authority} --trust {deployment.root}"
            deployment.check_alive()
            shown.say(f"newcomers: dsv bootstrap --server {deployment.distribution} {trusted}")
            shown.say("everything stays up; interrupt to end it")
            _await_interrupt()
            deployment.write_ledger()  # with what newcomers have fetched
    print_ledger(read_ledger(folder), folder)


def _await_interrupt() -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    try:
        stop.wait()
    except KeyboardInterrupt:
        return


@click.command()
@click.option(
    "--role", type=click.Choice(["device", "server"]), default="device", show_default=True, help="What this machine is."
)
@click.option("--certs", type=_PATH, help="The folder nodes/NAME or server/ that 'dsv certs' made.")
@click.option("--server", type=ADDRESS, help="Address of 'dsv deploy proxy'.")
@click.option("--data", type=_PATH, help="A device's images, <class>/* or train/<class>/*.")
@_STATE
def doctor(role: str, certs: Path | None, server: Address | None, data: Path | None, state: Path) -> None:
    """Look this device or server over and print what to fix; exits with 1 when something does not work."""
    from deploy.doctor import Patient, Role, examine
    from deploy.findings import Verdict

    verdicts = []
    for finding in examine(Patient(Role(role), certs, server, data, state)):
        click.echo(str(finding))
        verdicts.append(finding.verdict)
    if Verdict.BAD in verdicts:
        raise DsvError(f"{verdicts.count(Verdict.BAD)} of {len(verdicts)} findings need to be fixed")
