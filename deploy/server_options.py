"""Options that every command which talks to a distribution server shares."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from client.server_link import DeviceTls, Server, Trust
from deploy.addresses import Address
from dsv import DsvError

Command = Callable[..., Any]
_FILE = click.Path(path_type=Path)


def server_options(command: Command) -> Command:
    """Adds ``--server`` and what secures it; the command gets one ``server: Server`` and ``state: Path``."""

    @wraps(command)
    def with_server(
        *,
        server: str,
        ca: Path | None,
        certificate: Path | None,
        key: Path | None,
        token_file: Path | None,
        trust: Path | None,
        state: Path | None,
        insecure: bool,
        **values: Any,
    ) -> Any:
        if ca is None and (certificate or key):
            raise DsvError("--certificate and --key are for TLS; give the server's authority too, with --ca")
        Address.parse(server)
        folder = state or _default_state()
        chosen = Server(
            server,
            tls=DeviceTls(ca, certificate, key) if ca else None,
            trust=Trust(trust, folder) if trust else None,
            token=_token(token_file),
            insecure=insecure,
        )
        return command(server=chosen, state=state, **values)

    options = (
        click.option("--server", required=True, help="Address host:port of a distribution service."),
        click.option("--ca", type=_FILE, help="PEM file of the authority that signed the server's certificate: TLS."),
        click.option("--certificate", type=_FILE, help="This device's certificate, where the server asks for one."),
        click.option("--key", type=_FILE, help="Its key."),
        click.option("--token-file", type=_FILE, help="File that holds this device's bearer token."),
        click.option("--trust", type=_FILE, help="The federation's root.json: only what it vouches for is used."),
        click.option("--state", type=_FILE, help="Folder that remembers what was seen; ~/.local/state/feddsv."),
        click.option("--insecure", is_flag=True, help="Let a server of another machine do without --ca or --trust."),
    )
    decorated: Command = with_server
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def _default_state() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "feddsv"


def _token(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise DsvError(f"cannot read a token from {path}; name the file that holds it, and nothing else")
    return token
