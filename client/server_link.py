"""How a device reaches a distribution server, and what it demands before it believes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from dsv import DsvError
from protos import release_pb2_grpc
from protos.files import read_input
from protos.pem_check import check_authority, check_pair
from protos.transport import AUTHORIZATION, BEARER, CLIENT_OPTIONS, host_of, is_loopback

TIMEOUT_S = 60.0
_MOST_DETAILS = 400
_PEM = "PEM file"
_BREAKS = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}


class BreakError(DsvError):
    """The same call may succeed a little later."""


class GoneError(DsvError):
    """The server has no such release, or cannot offer it: another one may still be had."""


class PastEndError(DsvError):
    """What was asked for begins behind the end of the release."""


_KINDS: dict[grpc.StatusCode, type[DsvError]] = {
    grpc.StatusCode.OUT_OF_RANGE: PastEndError,
    grpc.StatusCode.NOT_FOUND: GoneError,
    grpc.StatusCode.DATA_LOSS: GoneError,
}


@dataclass(frozen=True)
class DeviceTls:
    """PEM files: the authority that signed the server's certificate, and a device's own pair where one is asked for."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC needs of them.

        Raises:
            DsvError: a file that cannot be read or is no PEM, half a pair, or two halves that do not fit.
        """
        if (self.certificate is None) != (self.key is None):
            raise DsvError("a device's certificate and its key go together: give both, or none")
        authority = read_input(self.ca, "CA", _PEM)
        named = ((self.key, "key"), (self.certificate, "certificate"))
        own = [read_input(path, what, _PEM) for path, what in named if path]
        check_authority(self.ca)
        if self.certificate and self.key:
            check_pair(self.certificate, self.key)
        return grpc.ssl_channel_credentials(authority, *own)


@dataclass(frozen=True)
class Trust:
    """What makes a release this federation's.

    Args:
        root: the federation's root.json, as a person handed it to this device; it is the federation's identity.
        state: folder in which this device remembers the newest metadata that it saw.
    """

    root: Path
    state: Path


@dataclass(frozen=True)
class Server:
    """A distribution server as a device sees it.

    Args:
        address: ``host:port``.
        token: bearer token, where the server asks for one.
        insecure: whether a server of another machine may do without TLS or trust.

    Raises:
        DsvError: a server of another machine without TLS and trust.
    """

    address: str
    tls: DeviceTls | None = None
    trust: Trust | None = None
    token: str = ""
    insecure: bool = False

    def __post_init__(self) -> None:
        if self.insecure or is_loopback(host_of(self.address)):
            return
        if self.tls is None:
            raise DsvError(
                f"server {self.address} is on another machine and without TLS anybody between could read and change "
                "what it sends; give its authority with --ca, or --insecure if that is meant"
            )
        if self.trust is None:
            raise DsvError(
                f"releases of server {self.address} could be anybody's; give the federation's root.json with --trust, "
                "or --insecure if that is meant"
            )

    @contextmanager
    def stub(self) -> Iterator[release_pb2_grpc.ReleaseServiceStub]:
        """The service's methods while the context is open; a call that fails leaves it as ``DsvError``."""
        with self._channel() as channel:
            try:
                yield release_pb2_grpc.ReleaseServiceStub(channel)  # type: ignore[no-untyped-call]
            except grpc.RpcError as error:
                raise self.public_error(error) from None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return ((AUTHORIZATION, BEARER + self.token),) if self.token else ()

    def public_error(self, error: grpc.RpcError) -> DsvError:
        """What a person is told about a failed call."""
        told = (error.details() or "")[:_MOST_DETAILS]  # a server's words, for this device's terminal
        code, details = error.code(), "".join(c if c.isprintable() else "?" for c in told)
        if "larger than max" in details:
            return DsvError(f"server {self.address} sends a message without end; it is no DSV distribution service")
        away = "cannot be reached; check the address and that it runs" + self._tls_hint(details)
        if details.startswith(("release ", "the server ")):  # the service's own words, where the rest is gRPC's
            away = f"cannot answer for now: {details}"
        messages = {
            grpc.StatusCode.UNAVAILABLE: away,
            grpc.StatusCode.DEADLINE_EXCEEDED: f"did not answer within {TIMEOUT_S:.0f} s; try again",
            grpc.StatusCode.NOT_FOUND: "has no such release; list its releases",
            grpc.StatusCode.UNIMPLEMENTED: "is no DSV distribution service; check the address",
            grpc.StatusCode.UNAUTHENTICATED: f"refused this device: {details}; give its token with --token-file",
        }
        kind = BreakError if code in _BREAKS else _KINDS.get(code, DsvError)
        return kind(f"server {self.address} {messages.get(code, f'refused: {code.name}: {details}')}")

    def _channel(self) -> grpc.Channel:
        # What goes to this machine itself takes no proxy of the network's.
        options = CLIENT_OPTIONS + [("grpc.enable_http_proxy", 0)] * is_loopback(host_of(self.address))
        if self.tls:
            return grpc.secure_channel(self.address, self.tls.credentials(), options=options)
        return grpc.insecure_channel(self.address, options=options)

    def _tls_hint(self, details: str) -> str:
        if "ssl" not in details.lower() and "handshake" not in details.lower() and "certificate" not in details.lower():
            if self.tls is None:
                return ", and whether it asks for TLS (--ca)"
            return ", and whether it asks for a device's certificate, and of which authority (--certificate, --key)"
        return f", --ca, and whether it asks for a device's certificate ({details.splitlines()[0][-160:]})"


def as_server(server: Server | str) -> Server:
    """A server of this machine may be given by its address alone."""
    return server if isinstance(server, Server) else Server(server)
