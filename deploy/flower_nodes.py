"""Flower's SuperLink and SuperNode, with TLS and authentication and no way to leave them out."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from client.class_folders import device_folder
from deploy.addresses import Address
from deploy.pem import existing
from deploy.processes import flower_environment, tool
from dsv import DsvError

SUPERLINK_PORT = 9092
GATE_PORT = 9093
SUPERNODE_PORT = 9094
OPERATOR_PORT = 9095
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class SuperLink:
    """A SuperLink. It listens on loopback: its Control API asks nobody who they are, deploy/proxy.py does.

    Args:
        certificates: the folder ``server/`` of ``dsv certs``.
        state: folder of its database, of Flower's files and of the runs.
        port: TCP port on loopback.
    """

    certificates: Path
    state: Path
    port: int

    @property
    def listen(self) -> Address:
        """Where it listens."""
        return Address(_LOOPBACK, self.port)

    @property
    def home(self) -> Path:
        """FLWR_HOME of its processes."""
        return self.state.absolute() / "flower"

    def command(self) -> list[str]:
        """What to execute."""
        files = {"ca-cert": "authority.crt", "cert": "server.crt", "key": "server.key"}
        command = [tool("flower-superlink"), "--host", _LOOPBACK, "--port", str(self.port), "--enable-supernode-auth"]
        for option, name in files.items():
            command += [f"--ssl-{option}file", str(existing(self.certificates / name))]
        return [*command, "--database", str(self.state.absolute() / "superlink.db"), "--isolation", "subprocess"]


@dataclass(frozen=True)
class SuperNode:
    """A SuperNode: this device's part of the federation.

    Args:
        keys: the folder ``nodes/NAME/`` of ``dsv certs``.
        server: public address of the server.
        data: this device's own images, <class>/* or train/<class>/*.
        state: folder of Flower's files.
        port: TCP port on loopback over which its own processes speak to it.
        backbone: this device's copy of the weights that training starts from, where a run has some.
    """

    keys: Path
    server: Address
    data: Path
    state: Path
    port: int
    backbone: Path | None = None

    @property
    def listen(self) -> Address:
        """Where it listens."""
        return Address(_LOOPBACK, self.port)

    @property
    def home(self) -> Path:
        """FLWR_HOME of its processes."""
        return self.state.absolute() / "flower"

    def command(self) -> list[str]:
        """What to execute.

        Raises:
            DsvError: a key, the data or the backbone is missing.
        """
        device_folder(self.data)
        config = f"data-root={_quoted(self.data)}"
        if self.backbone is not None:
            if not self.backbone.is_file():
                raise DsvError(f"backbone {self.backbone} does not exist; name this device's copy of it")
            config += f" backbone={_quoted(self.backbone)}"
        return [
            *(sys.executable, "-P", "-m", "deploy.supernode_process", "--superlink", str(self.server)),
            *("--root-certificates", str(existing(self.keys / "authority.crt"))),
            *("--auth-supernode-private-key", str(existing(self.keys / "node"))),
            *("--host", _LOOPBACK, "--port", str(self.port)),
            *("--node-config", config),
        ]


def _quoted(path: Path) -> str:
    """A path as Flower's node config takes it.

    Raises:
        DsvError: it cannot.
    """
    text = str(path.absolute())
    if any(c in text for c in "\"'\\\n"):
        raise DsvError(f"Flower cannot take the path {text!r}; move it to one without quotes or backslashes")
    return json.dumps(text, ensure_ascii=False)


def become(command: list[str], home: Path, listen: Address) -> NoReturn:
    """Replace this process by ``command``, so that whoever supervises it, supervises Flower itself.

    Args:
        home: FLWR_HOME.
        listen: what ``command`` will listen on.

    Raises:
        DsvError: the state folder cannot be made, or nothing can listen there.
    """
    _check_free(listen)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chdir(home.parent)
    except OSError as error:
        raise DsvError(f"cannot use the state folder {home.parent}: {error.strerror}; name another") from None
    os.execve(command[0], command, flower_environment(home))


def _check_free(address: Address) -> None:
    try:
        family, kind, *_, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what was ended a moment ago is free
            probe.bind(place)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise DsvError(f"{address} is in use; end what listens there, or choose another port") from None
        raise DsvError(f"cannot listen on {address}: {error.strerror}; name an address of this machine") from None
