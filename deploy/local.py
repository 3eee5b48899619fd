"""``dsv deploy local``: a whole deployment on this machine, each part a process of its own on loopback.

The processes are the very commands that the containers and the systemd units start.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from client.class_folders import device_classes
from deploy.addresses import Address
from deploy.certificates import NODES, SERVER, make_certificates
from deploy.certificates import OPERATOR as OPERATOR_CERTIFICATES
from deploy.control import Control, control
from deploy.deployed_ledger import NEWCOMERS, OPERATOR, DeployedLedger
from deploy.device_folders import digit_settings, write_digit_folders
from deploy.ledger import LEDGER_FILE, write_ledger
from deploy.meter import Meters, meters
from deploy.processes import await_answer, flower_process, free_port, last_words, tool
from deploy.proxy import has_nginx
from dsv import DsvError
from protos.settings import IMAGEFOLDER, RunSettings
from server.events import Event, EventReader, Failed, SynthesisDone
from server.progress import Display, show_event
from server.run_check import (
    check_clients,
    check_machine,
    check_options,
    folder_option_given,
    with_absolute_paths,
)
from server.run_folder import CERTIFICATES_FOLDER, DEPLOYED_RUN, STORE_FOLDER, new_run_dir

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 120.0
_DAYS = 30


@dataclass(frozen=True)
class LocalOptions:
    """Options of ``dsv deploy local``; its help describes them."""

    out: Path
    device_data: tuple[Path, ...]
    nodes: int | None

    def __post_init__(self) -> None:
        if self.device_data and self.nodes is not None:
            raise DsvError("--nodes is of devices with the bundled digits; leave it out beside --device-data")
        devices = len(self.device_data) or self.digits
        if devices < 2:
            raise DsvError(f"a federation needs at least 2 devices, got {devices}; give --device-data for each")

    @property
    def digits(self) -> int:
        """How many devices share the bundled digits, where there are no others."""
        return 2 if self.nodes is None else self.nodes


@dataclass(frozen=True)
class LocalDeployment:
    """A deployment that runs.

    Args:
        folder: of everything that it writes.
        control: the operator's way in.
        server: what SuperNodes are given.
        parts: every process, by name.
        settings: of the run, with data, classes and folders filled in.
        distribution: address of the distribution service, which speaks TLS.
        root: root.json of the store, which newcomers are handed.
        ledger: what crosses the sockets of every party; all of them speak through relays that count.
    """

    folder: Path
    control: Control
    server: Address
    parts: Mapping[str, subprocess.Popen[bytes]]
    settings: RunSettings
    distribution: Address
    root: Path
    ledger: DeployedLedger

    @property
    def authority(self) -> Path:
        """CA certificate of the server."""
        return self.folder / CERTIFICATES_FOLDER / SERVER / "authority.crt"

    def check_alive(self) -> None:
        """Raise DsvError where a part has ended, with its last words: rounds would wait for it for ever."""
        for name, child in self.parts.items():
            if child.poll() is not None:
                raise DsvError(f"the {name} ended; its last words: {last_words(_log_of(self.folder, name))}")

    def run(self, display: Display) -> None:
        """Rounds, synthesis, publication.

        Raises:
            DsvError: the run did not complete, or a part ended.
        """
        run_dir = Path(self.settings.run_dir)
        reader, done = EventReader(run_dir), []

        def finished() -> bool:
            for event in reader.new():
                _raise_failure(event)
                show_event(event, display)
                done.extend([event] if isinstance(event, SynthesisDone) else [])
            if not done:
                self.check_alive()
            return bool(done)

        run = self.control.start(self.settings.to_run_config())
        display.say(f"run {run} over {self.server}; its folder: {run_dir}")
        with self.ledger.following(run_dir):
            self.control.await_end(run, finished=finished, say=display.say)
        finished()  # shows what came since it was last asked

    def write_ledger(self) -> Path:
        """Write what has crossed the sockets so far into the deployment's folder."""
        write_ledger(self.folder / LEDGER_FILE, self.ledger.rows())
        return self.folder


def _raise_failure(event: Event) -> None:
    if isinstance(event, Failed):
        raise DsvError(event.reason)


@contextmanager
def local_deployment(settings: RunSettings, options: LocalOptions, display: Display) -> Iterator[LocalDeployment]:
    """Certificates, SuperLink, proxy, SuperNodes and distribution service; nothing of it is left at the end.

    Where nginx is missing, SuperNodes reach the SuperLink itself, which only loopback makes bearable.

    Raises:
        DsvError: options or the devices' data do not fit each other, or the SuperLink or a proxy does not start. (Of
            the other parts ``check_alive`` tells.)
    """
    if not options.device_data:
        _check_digits_suffice(settings)
    settings = with_absolute_paths(_of_data(settings, options))
    check_clients(settings, len(options.device_data) or options.digits)
    check_options(settings)
    check_machine(settings)
    folder = new_run_dir(options.out).absolute()
    display.say(f"deployment folder: {folder}")
    data = options.device_data or write_digit_folders(folder / "devices", options.digits)
    names = tuple(f"node{number}" for number in range(len(data)))
    make_certificates(folder / CERTIFICATES_FOLDER, hosts=(_HOST,), nodes=names, days=_DAYS)
    settings = replace(settings, run_dir=str(folder / DEPLOYED_RUN), store=str(folder / STORE_FOLDER))
    (folder / STORE_FOLDER).mkdir()
    with ExitStack() as stack:
        counted = stack.enter_context(meters())
        start = _Starter(folder, stack, counted)
        server, way = start.server(display)
        nodes = {name: way.register(folder / CERTIFICATES_FOLDER / NODES / name / "node.pub") for name in names}
        for name, root in zip(names, data, strict=True):
            start.supernode(name, root, counted.relay(name, server))
        distribution, root = start.distribution()
        display.say(f"{len(names)} SuperNodes with keys of their own; newcomers: {distribution}")
        ledger = DeployedLedger(counted, nodes)
        yield LocalDeployment(folder, way, server, start.parts, settings, distribution, root, ledger)


def _check_digits_suffice(settings: RunSettings) -> None:
    if given := folder_option_given(settings):
        raise DsvError(f"--{given} describes the devices' images; name these with --device-data")


def _of_data(settings: RunSettings, options: LocalOptions) -> RunSettings:
    """The settings with the devices' data filled in; without ``--classes``, all that devices have folders of."""
    if not options.device_data:
        return digit_settings(settings)
    known = {name for root in options.device_data for name in device_classes(root)}
    return replace(settings, data=IMAGEFOLDER, classes=settings.classes or ",".join(sorted(known)))


@dataclass(frozen=True)
class _Starter:
    folder: Path
    stack: ExitStack
    counted: Meters
    parts: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def server(self, display: Display) -> tuple[Address, Control]:
        """SuperLink and proxies: the address for SuperNodes, and the operator's way in."""
        certificates, own = self.folder / CERTIFICATES_FOLDER / SERVER, Address(_HOST, free_port())
        authority = certificates / "authority.crt"
        self._dsv("superlink", "--certs", str(certificates), "--port", str(own.port))
        self._await("superlink", f"https://{own}/health", authority)
        if not has_nginx():
            display.say("nginx is not installed: no proxy in front of the SuperLink, which listens on loopback alone")
            return own, self.stack.enter_context(control(self.counted.relay(OPERATOR, own), authority))
        gate, operator = Address(_HOST, free_port()), Address(_HOST, free_port())
        options = ("--certs", str(certificates), "--listen", str(gate), "--superlink-port", str(own.port))
        self._dsv("proxy", *options)
        self._await("proxy", f"https://{gate}/health", authority)
        options = (
            "--certs",
            str(self.folder / CERTIFICATES_FOLDER / OPERATOR_CERTIFICATES),
            "--server",
            str(self.counted.relay(OPERATOR, gate)),
            "--port",
            str(operator.port),
        )
        self._dsv("operator", *options)
        self._await("operator", f"http://{operator}/health")
        return gate, self.stack.enter_context(control(operator, None))

    def supernode(self, name: str, data: Path, server: Address) -> None:
        """A SuperNode on its own data, with its own key."""
        keys = ("--keys", str(self.folder / CERTIFICATES_FOLDER / NODES / name))
        options = (*keys, "--data", str(data), "--server", str(server), "--port", str(free_port()))
        self._dsv("supernode", *options, name=name)

    def distribution(self) -> tuple[Address, Path]:
        """The distribution service, with TLS and signed releases: its address and the root.json of its newcomers."""
        address, own = Address(_HOST, free_port()), self.folder / CERTIFICATES_FOLDER / SERVER
        store = ("--store", str(self.folder / STORE_FOLDER), "--keys", str(self.folder / "signing"))
        made = subprocess.run([tool("dsv"), "keys", "init", *store], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise DsvError(f"cannot sign the store: {made.stderr.strip()}")
        tls = ("--certificate", str(own / "server.crt"), "--key", str(own / "server.key"))
        command = [tool("dsv"), "serve", *store, *tls, "--port", str(address.port)]
        self._start("serve", command, self.folder / "serve")
        root = self.folder / "root.json"
        shutil.copyfile(made.stdout.splitlines()[0].rpartition(": ")[2], root)
        return self.counted.relay(NEWCOMERS, address), root

    def _dsv(self, part: str, *options: str, name: str = "") -> None:
        state = self.folder / (name or part)
        self._start(name or part, [tool("dsv"), "deploy", part, "--state", str(state), *options], state / "flower")

    def _start(self, name: str, command: list[str], home: Path) -> None:
        self.parts[name] = self.stack.enter_context(flower_process(command, home, _log_of(self.folder, name)))

    def _await(self, name: str, url: str, trust: Path | None = None) -> None:
        child, log = self.parts[name], _log_of(self.folder, name)
        await_answer(child, url, name=f"the {name}", log=log, timeout_s=_START_TIMEOUT_S, trust=trust)


def _log_of(folder: Path, part: str) -> Path:
    return folder / f"{part}.log"
