"""How a distribution server is run: defaults fit a server on loopback, and a thousand devices at once."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import grpc

from dsv import DsvError
from protos import artefact
from protos.files import locked, write_atomically
from protos.pem_check import check_authority, check_pair
from server.signed_releases import Lifetimes


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of a server; with ``client_ca``, devices must show a certificate that it signed (mTLS)."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """What gRPC needs of them.

        Raises:
            DsvError: a file that cannot be read or is no PEM, or a key of another certificate.
        """
        pair = (read_file(self.key, "TLS key"), read_file(self.certificate, "TLS certificate"))
        authority = read_file(self.client_ca, "client CA") if self.client_ca else None
        check_pair(self.certificate, self.key)
        if self.client_ca:
            check_authority(self.client_ca)
        return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


@dataclass(frozen=True)
class Tokens:
    """Bearer tokens by SHA-256: the file that the server holds lets nobody in."""

    names: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """Lines ``name sha256`` as ``add`` writes them.

        Raises:
            DsvError: no such file, or a line of another form.
        """
        names = {}
        for line in read_file(path, "tokens").decode("utf-8", "replace").splitlines():
            name, _, digest = line.partition(" ")
            if not name or len(digest) != hashlib.sha256().digest_size * 2:
                raise DsvError(f"{path} is no file of tokens: {line[:40]!r}; make tokens with 'dsv keys token'")
            names[digest] = name
        return cls(names)

    @staticmethod
    def add(path: Path, name: str) -> str:
        """Make a token for ``name``, add it to the file and return it; nothing else ever shows it.

        Raises:
            DsvError: a name with a space, a file that cannot be written, or one of something else.
        """
        if not name.isprintable() or not name or " " in name:
            raise DsvError(f"a token's name is one word, got {name!r}")
        token = secrets.token_urlsafe(32)
        try:
            with locked(path.with_name(f".{path.name}.lock")):  # or one of two at once would be lost
                before = b""
                if path.exists():
                    Tokens.read(path)  # never write into a file that is not one
                    before = read_file(path, "tokens")
                    before += b"" if before.endswith(b"\n") or not before else b"\n"
                write_atomically(path, before + f"{name} {_sha256(token)}\n".encode(), mode=0o600)
        except OSError as error:
            raise DsvError(f"cannot write tokens {path}: {error.strerror}; choose another file") from None
        return token

    def name_of(self, token: str) -> str | None:
        """Whose token it is."""
        given = _sha256(token)
        return next((name for digest, name in self.names.items() if hmac.compare_digest(digest, given)), None)


@dataclass(frozen=True)
class Limits:
    """What one peer and all of them together may take. A peer is a token, a certificate's name, or an IP address."""

    calls_per_s: float = 200.0
    burst_calls: int = 2000
    concurrent_calls: int = 2000
    all_concurrent_calls: int = 5000
    active_downloads: int = 64
    """Downloads that send at the same time; more wait their turn, so that memory stays bounded."""
    min_bytes_per_s: float = 4096.0
    """A peer that takes a chunk more slowly gives its turn up."""
    max_release_bytes: int = artefact.MAX_SIZE_BYTES


@dataclass(frozen=True)
class ServeOptions:
    """Everything about a server but the store and the address."""

    tls: TlsFiles | None = None
    tokens: Tokens | None = None
    limits: Limits = field(default_factory=Limits)
    keys: Path | None = None
    """Folder of signing keys; without it, metadata that is there is served as it is."""
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    metrics_address: tuple[str, int] | None = None
    drain: timedelta = timedelta(seconds=30)
    """Calls that run when the server is told to stop have this long to finish."""
    look_interval_s: float = 1.0
    """How often the store is looked at for new releases."""


def read_file(path: Path, what: str) -> bytes:
    """The bytes of a file that a user named.

    Raises:
        DsvError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DsvError(f"cannot read {what} {path}: {error.strerror}; name a file that is there") from None


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
