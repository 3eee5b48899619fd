"""A SuperLink behind its proxy, and the operator's way to it, which tests share."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.addresses import Address
from deploy.certificates import make_certificates
from deploy.control import Control
from deploy.flower_nodes import SuperLink
from deploy.processes import await_answer, flower_process, free_port
from deploy.proxy import OperatorGate, ServerGate, nginx_command, write_configuration


@dataclass(frozen=True)
class Server:
    folder: Path
    superlink: Address
    gate: Address
    operator: Address

    @property
    def certs(self) -> Path:
        return self.folder / "certs"

    def post(self, path: str, content: bytes = b"", *, certificate: str = "", extra: dict | None = None) -> int:
        """Status of a request that is sent as it stands here, with the CA certificate and maybe a client's."""
        context = ssl.create_default_context(cafile=str(self.certs / "nodes" / "node0" / "authority.crt"))
        if certificate:
            pair = self.certs / certificate
            context.load_cert_chain(pair.with_suffix(".crt"), pair.with_suffix(".key"))
        connection = http.client.HTTPSConnection("127.0.0.1", self.gate.port, context=context, timeout=20)
        headers = {"content-type": "application/protobuf", "accept": "application/protobuf", **(extra or {})}
        connection.request("POST", path, content, headers)
        return connection.getresponse().status


@contextmanager
def running_server(folder: Path) -> Iterator[Server]:
    """A SuperLink, its proxy and the operator's, with certificates for two devices and a stranger's."""
    server = Server(folder, *(Address("127.0.0.1", free_port()) for _ in range(3)))
    make_certificates(server.certs, hosts=("127.0.0.1",), nodes=("node0", "node1"), days=30)
    make_certificates(folder / "strangers", hosts=("127.0.0.1",), nodes=(), days=1)
    link = SuperLink(server.certs / "server", folder / "superlink", server.superlink.port)
    gates = {
        "gate": ServerGate(server.certs / "server", server.gate, server.superlink),
        "operator": OperatorGate(server.certs / "operator", server.operator, server.gate),
    }
    trust = server.certs / "operator" / "authority.crt"
    with ExitStack() as stack:
        child = stack.enter_context(flower_process(link.command(), link.home, folder / "superlink.log"))
        await_answer(
            child,
            f"https://{server.superlink}/health",
            name="it",
            log=folder / "superlink.log",
            timeout_s=60,
            trust=trust,
        )
        for name, gate in gates.items():
            command = nginx_command(write_configuration(gate, folder / name))
            stack.enter_context(flower_process(command, folder / f"{name}-home", folder / f"{name}.log"))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                if server.post("/nothing") == 404:
                    http.client.HTTPConnection(server.operator.host, server.operator.port, timeout=20).connect()
                    break
            except OSError:
                time.sleep(0.1)
        yield server


def nodes(operator: Control) -> list[str]:
    """What is said of each SuperNode."""
    return [node["status"] for node in operator.nodes()]
