"""Commands of the distribution service: serve, keys; bootstrap and watch on a device."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click

from deploy.options import LABELS, QUIET, Group, HarnessSettings, Within, options_of
from deploy.server_options import Command, server_options
from dsv import DsvError
from protos.settings import RunSettings
from protos.transport import is_loopback
from server.serve_options import Limits, ServeOptions, TlsFiles
from server.signed_releases import Lifetimes
from server.tokens import TokenFile, Tokens

_FILE = click.Path(path_type=Path)
_STORE = click.option("--store", required=True, type=_FILE, help="Folder of releases.")
_KEYS = click.option("--keys", required=True, type=_FILE, help="Folder of signing keys.")


def _limit(
    name: str, default: float, text: str, *, most: float = 1e9, least: float = 0.0
) -> Callable[[Command], Command]:
    kind = click.IntRange(int(least), int(most)) if isinstance(default, int) else Within(least, most)
    return click.option(name, default=default, show_default=True, type=kind, help=text)


@click.command()
@_STORE
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=50061, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free one.")
@click.option("--keys", type=_FILE, help="Folder of signing keys: new releases are signed, metadata is kept fresh.")
@click.option("--certificate", type=_FILE, help="TLS certificate of this server, PEM.")
@click.option("--key", type=_FILE, help="Its key.")
@click.option("--client-ca", type=_FILE, help="Only devices with a certificate of this authority are let in.")
@click.option("--tokens", type=_FILE, help="Only devices with a token of this file are let in; 'dsv keys token'.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Prometheus metrics over HTTP on this port.")
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Address of the metrics.")
@_limit(
    "--timestamp-hours",
    Lifetimes.timestamp / timedelta(hours=1),
    "How long devices believe the newest state.",
    least=0.01,
    most=87600,
)
@_limit("--peer-calls-per-s", Limits.calls_per_s, "Calls that one peer may make a second.", least=0.01)
@_limit("--peer-calls-at-once", Limits.concurrent_calls, "Calls that one peer may have running.", least=1)
@_limit("--active-downloads", Limits.active_downloads, "Downloads that send at the same time.", least=1)
@_limit("--drain-s", ServeOptions.drain.total_seconds(), "Time that running calls have when it is stopped.", most=86400)
@click.option("--insecure", is_flag=True, help="Listen to other machines without TLS.")
def serve(store: Path, host: str, port: int, **values: Any) -> None:
    """Serve a store's releases over gRPC until interrupted."""
    from server.distribution import run_server
    from server.store import DirectoryStore

    _check_store(store)
    options = _serve_options(host, **values)
    _log_to_stderr()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    with run_server(DirectoryStore(store), host=host, port=port, options=options) as address:
        click.echo(f"serving {store} on {address}; interrupt to stop")
        try:
            stop.wait()
        except KeyboardInterrupt:
            click.echo("stopping")


def _serve_options(
    host: str,
    *,
    keys: Path | None,
    certificate: Path | None,
    key: Path | None,
    client_ca: Path | None,
    tokens: Path | None,
    metrics_port: int | None,
    metrics_host: str,
    timestamp_hours: float,
    peer_calls_per_s: float,
    peer_calls_at_once: int,
    active_downloads: int,
    drain_s: float,
    insecure: bool,
) -> ServeOptions:
    if (certificate is None) != (key is None) or (client_ca and not certificate):
        raise DsvError("TLS needs both --certificate and --key; --client-ca comes on top of them")
    if not (certificate or insecure or is_loopback(host)):
        raise DsvError(
            f"other machines reach {host}, and without TLS anybody between could read tokens and change what is sent; "
            "give --certificate and --key, or --insecure if that is meant"
        )
    limits = Limits(
        calls_per_s=peer_calls_per_s,
        burst_calls=max(1, int(10 * peer_calls_per_s)),
        concurrent_calls=peer_calls_at_once,
        active_downloads=active_downloads,
    )
    return ServeOptions(
        tls=TlsFiles(certificate, key, client_ca) if certificate and key else None,
        tokens=TokenFile(tokens) if tokens else None,
        limits=limits,
        keys=keys,
        lifetimes=replace(Lifetimes(), timestamp=timedelta(hours=timestamp_hours)),
        metrics_address=None if metrics_port is None else (metrics_host, metrics_port),
        drain=timedelta(seconds=drain_s),
    )


def _log_to_stderr() -> None:
    from server.log import LOGGER_NAME, JsonLines

    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logger = logging.getLogger(LOGGER_NAME)
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


@click.command()
@server_options
@click.option("--release", default="", help="Digest of the release, or its first digits; the newest when left out.")
@click.option(
    "--architecture", default="convnet:64", show_default=True, help="Model to train, name[:width[:norm[:pooling]]]."
)
@LABELS
@options_of(HarnessSettings, only=("newcomer_steps",))
@options_of(RunSettings, only=("device", "seed"))
@click.option("--save-release", type=_FILE, help="Keep the release's file.")
@click.option("--save-model", type=_FILE, help="Keep the trained model.")
@click.option("--data", default="", help="Data set of one's own to test on: a name as in 'dsv simulate'.")
@click.option("--data-root", default="", help="Its folder.")
@QUIET
def bootstrap(**values: Any) -> None:
    """Download a release and train a model of any architecture from it."""
    from deploy.newcomer import NewcomerOptions, bootstrap_newcomer

    bootstrap_newcomer(NewcomerOptions(**values))


@click.command()
@server_options
@click.option("--folder", required=True, type=_FILE, help="Where releases are kept, as <digest>.dsv.")
@click.option(
    "--count", default=0, show_default=True, type=click.IntRange(0), help="Stop after so many releases; 0: never."
)
def watch(server: Any, state: Path | None, folder: Path, count: int) -> None:
    """Fetch every release into a folder, and each new one as it is published; prints the files' names."""
    from deploy.newcomer import watch_releases

    if state and not server.trust:
        raise DsvError("--state keeps what --trust must remember; give the federation's root.json too, or leave it out")
    watch_releases(server, folder, count, click.echo, partial(click.echo, err=True))


@click.group(cls=Group)
def keys() -> None:
    """The keys that sign a store's releases, and the tokens of its devices."""


@keys.command("init")
@_STORE
@_KEYS
def init(store: Path, keys: Path) -> None:
    """Make keys, sign the STORE, and print the root.json that every device is handed."""
    root = _publication(store, keys).create()
    _sign(store, keys)
    click.echo(f"hand every device this file: {root}")
    click.echo(f"keys are in {keys}; move root-*.pem to a safe place, it is needed to replace keys only")


@keys.command("sign")
@_STORE
@_KEYS
def sign(store: Path, keys: Path) -> None:
    """Sign what is in the STORE now, for a server that holds no keys."""
    _check_store(store)
    count, wrote = _sign(store, keys)
    click.echo(f"{count} releases are signed" + ("" if wrote else " already, and their list is fresh"))


@keys.command("rotate")
@_STORE
@_KEYS
@click.option("--role", required=True, type=click.Choice(["root", "targets", "snapshot", "timestamp"]), multiple=True)
def rotate(store: Path, keys: Path, role: tuple[str, ...]) -> None:
    """Replace keys; devices follow by themselves. The root's key must be in the folder.

    Also prolongs the root, and with the roles snapshot and timestamp undoes a fast-forward: devices forget version
    numbers that a thief of the old keys drove up.
    """
    _check_store(store)
    for name in role:
        _publication(store, keys).rotate(name)
        click.echo(f"the {name} key is new")


@keys.command("show")
@_STORE
@_KEYS
def show(store: Path, keys: Path) -> None:
    """Print when each role's metadata ends and whose key is at hand."""
    _check_store(store)
    publication = _publication(store, keys)
    at_hand, expiries = publication.signing_roles(), publication.expiries()
    if not keys.is_dir():
        raise DsvError(f"keys {keys} do not exist; name the folder that 'dsv keys init' made, or what is left of it")
    for role in ("root", "targets", "snapshot", "timestamp"):
        end = expiries[role].isoformat() if role in expiries else "not validly signed: run 'dsv keys sign'"
        click.echo(f"{role:<10} until {end}   key {'at hand' if role in at_hand else 'elsewhere'}")


@keys.command("token")
@click.option("--tokens", required=True, type=_FILE, help="File of the server's tokens; made when it is not there.")
@click.argument("name")
def token(tokens: Path, name: str) -> None:
    """Make a bearer token for the device NAME and print it; the file keeps its SHA-256 alone."""
    click.echo(Tokens.add(tokens, name))


def _publication(store: Path, keys: Path) -> Any:
    from server.publication import Publication
    from server.signing_keys import SigningKeys
    from server.store import DirectoryStore

    return Publication(DirectoryStore(store).metadata_folder, SigningKeys(keys))


def _check_store(store: Path) -> None:
    if not store.is_dir():
        raise DsvError(f"store {store} does not exist; name a folder of releases, such as runs/latest/releases")


def _sign(store: Path, keys: Path) -> tuple[int, bool]:
    """How many releases there are, and whether anything had to be written."""
    from protos.artefact import MAX_SIZE_BYTES
    from server.catalogue import Catalogue
    from server.store import DirectoryStore

    entries, unreadable = Catalogue(DirectoryStore(store), max_release_bytes=MAX_SIZE_BYTES).look()
    if unreadable:  # signing the others alone would withdraw it
        raise DsvError(f"release {min(unreadable)} in {store} cannot be read now; see to its rights or its disk")
    publication = _publication(store, keys)
    publication.signing_roles()  # of keys that others can read no signature is made, wanted or not
    return len(entries), publication.update([entry.to_signed() for entry in reversed(entries)])
