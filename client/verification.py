"""Which releases are this federation's: The Update Framework's client workflow over our own service."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, TargetFile, Targets
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from client.server_link import TIMEOUT_S, Server, Trust
from dsv import DsvError
from protos import artefact, release_pb2
from protos.files import locked
from protos.transport import DIGEST, MAX_METADATA_BYTES, RELEASE_SUFFIX

_MAX_COUNT = 1 << 31


class TrustError(DsvError):
    """What a server says or sends is not what the federation signed; the message names the likely cause."""


@dataclass(frozen=True)
class SignedRelease:
    """A release that the federation's keys vouch for.

    Args:
        sequence: rises with every release; the newest has the highest.
    """

    digest: str
    size_bytes: int
    images: int
    classes: int
    teacher_architecture: str
    sequence: int


def signed_releases(server: Server, trust: Trust) -> list[SignedRelease]:
    """What the federation publishes now, newest first.

    Raises:
        TrustError: metadata that is forged, altered, outdated, older than seen before, or another federation's.
        DsvError: the server cannot be reached, or a file cannot be read or written.
    """
    root = _root(trust)
    folder = state_folder(trust) / "metadata"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock"):
            config = UpdaterConfig(targets_max_length=MAX_METADATA_BYTES)
            updater = Updater(str(folder), "metadata/", fetcher=_Fetcher(server), config=config, bootstrap=root)
            updater.refresh()
            # What the updater verified is what it keeps; it has no other way to list targets.
            content = (folder / "targets.json").read_bytes()
    except (RepositoryError, DownloadError) as error:
        raise _public_error(error, server.address, trust) from None
    except OSError as error:
        raise DsvError(f"cannot keep metadata in {folder}: {error.strerror}; free space, or choose --state") from None
    return read_targets(content)


def read_targets(content: bytes) -> list[SignedRelease]:
    """The releases that a file of targets names, newest first; its signature was checked before.

    Raises:
        TrustError: it names something that is no release, or is no such file.
    """
    try:
        targets = Metadata[Targets].from_bytes(content).signed
    except DeserializationError:
        targets = None
    if not isinstance(targets, Targets):
        raise TrustError("signed metadata is not a list of releases; update this software")
    found = [_release(path, target) for path, target in targets.targets.items()]
    return sorted(found, key=lambda release: release.sequence, reverse=True)


def state_folder(trust: Trust) -> Path:
    """Where a device keeps what belongs to one federation; two federations never share any of it."""
    return trust.state / hashlib.sha256(_root(trust)).hexdigest()[:16]


class _Fetcher(FetcherInterface):
    """TUF's downloads through ``GetMetadata``."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def _fetch(self, url: str) -> Iterator[bytes]:
        request = release_pb2.GetMetadataRequest(name=url.rpartition("/")[2])
        with self._server.stub() as stub:
            try:
                answer = stub.GetMetadata(request, timeout=TIMEOUT_S, metadata=self._server.metadata)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    raise DownloadHTTPError(f"no {request.name}", 404) from None
                raise
        return iter([answer.content])

    def fetch(self, url: str) -> Iterator[bytes]:
        """As the base class, but what a person can mend keeps its own message."""
        return self._fetch(url)


def _root(trust: Trust) -> bytes:
    try:
        content = trust.root.read_bytes()
        root = Metadata[Root].from_bytes(content).signed
    except OSError as error:
        raise DsvError(f"cannot read root {trust.root}: {error.strerror}; name the federation's root.json") from None
    except DeserializationError:
        root = None
    if not isinstance(root, Root):
        raise DsvError(f"{trust.root} is no root.json; ask whoever runs the federation for theirs") from None
    return content


def _public_error(error: Exception, address: str, trust: Trust) -> TrustError:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    meanings: list[tuple[type[Exception], str]] = [
        (
            UnsignedMetadataError,
            f"is not signed by the keys that {trust.root} leads to (another federation's server, or a forger); use "
            "that federation's own root.json",
        ),
        (
            ExpiredMetadataError,
            f"is out of date by this device's clock ({now}): somebody holds newer metadata back, the server no longer "
            "signs, or the clock is wrong",
        ),
        (
            BadVersionNumberError,
            "is older than what this device has seen: a rollback, or a server restored from an old copy; whoever runs "
            "it can replace its keys with 'dsv keys rotate'",
        ),
        (LengthOrHashMismatchError, "does not fit together: altered, or mixed from several states"),
        (DownloadLengthMismatchError, "is longer than it may be: data without end"),
        (DownloadHTTPError, "is not there: serve with --keys, or check the address"),
    ]
    meaning = next((text for kind, text in meanings if isinstance(error, kind)), "is not usable")
    return TrustError(f"server {address}: signed metadata {meaning} ({error})")


def _release(path: str, target: TargetFile) -> SignedRelease:
    digest = path.removesuffix(RELEASE_SUFFIX)
    custom: Any = target.custom
    if not DIGEST.fullmatch(digest) or path == digest or target.hashes.get("sha256") != digest:
        raise TrustError(f"signed metadata names {path[:80]!r}, which is no release; update this software")
    if not isinstance(custom, dict):
        raise TrustError(f"signed metadata does not describe release {digest}; update this software")
    counts: list[Any] = [custom.get(name) for name in ("images", "classes", "sequence")]
    architecture = custom.get("teacher_architecture")
    valid = all(type(value) is int and 0 < value < _MAX_COUNT for value in counts)
    if not valid or not isinstance(architecture, str) or not architecture.isprintable():
        raise TrustError(
            f"signed metadata describes release {digest} in a way that makes no sense; update this software"
        )
    if target.length > artefact.MAX_SIZE_BYTES:
        raise TrustError(f"release {digest} has {target.length} bytes, above the limit of {artefact.MAX_SIZE_BYTES}")
    return SignedRelease(digest, target.length, counts[0], counts[1], architecture, counts[2])
