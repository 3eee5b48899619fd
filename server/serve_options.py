"""How a distribution server is run: defaults fit a server on loopback, and a thousand devices at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import grpc

from protos import artefact
from protos.files import read_input
from protos.pem_check import check_authority, check_pair
from server.signed_releases import Lifetimes
from server.tokens import TokenFile


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
        pair = (read_input(self.key, "TLS key"), read_input(self.certificate, "TLS certificate"))
        authority = read_input(self.client_ca, "client CA") if self.client_ca else None
        check_pair(self.certificate, self.key)
        if self.client_ca:
            check_authority(self.client_ca)
        return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


@dataclass(frozen=True)
class Limits:
    """What one peer and all of them together may take. A peer is a token, a certificate's name, or an IP address."""

    calls_per_s: float = 200.0
    burst_calls: int = 2000
    concurrent_calls: int = 2000
    all_concurrent_calls: int = 5000
    active_downloads: int = 64
    """Downloads that send at the same time; more wait their turn, so that memory stays bounded.
    One peer has three quarters of them at most."""
    min_bytes_per_s: float = 4096.0
    """A peer that takes a chunk more slowly gives its turn up."""
    max_release_bytes: int = artefact.MAX_SIZE_BYTES


@dataclass(frozen=True)
class ServeOptions:
    """Everything about a server but the store and the address."""

    tls: TlsFiles | None = None
    tokens: TokenFile | None = None
    limits: Limits = field(default_factory=Limits)
    keys: Path | None = None
    """Folder of signing keys; without it, metadata that is there is served as it is."""
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    metrics_address: tuple[str, int] | None = None
    drain: timedelta = timedelta(seconds=30)
    """Calls that run when the server is told to stop have this long to finish."""
    look_interval_s: float = 1.0
    """How often the store is looked at for new releases."""
