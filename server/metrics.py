"""What a server counts, for Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from dsv import DsvError
from server.log import log_event


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        of = self.registry = CollectorRegistry()
        self.calls = Counter("feddsv_calls", "Calls that ended", ["method", "code"], registry=of)
        self.seconds = Histogram("feddsv_call_seconds", "Duration of calls", ["method"], registry=of)
        self.active = Gauge("feddsv_active_calls", "Calls that run", ["method"], registry=of)
        self.waiting = Gauge("feddsv_waiting_downloads", "Downloads that wait for their turn", registry=of)
        self.sent_bytes = Counter("feddsv_release_sent_bytes", "Bytes of releases handed to gRPC", registry=of)
        self.refused = Counter("feddsv_refused_calls", "Calls refused at the door", ["reason"], registry=of)
        self.releases = Gauge("feddsv_releases", "Releases that can be downloaded", registry=of)
        self.signing_failures = Counter("feddsv_signing_failures", "Attempts to sign metadata that failed", registry=of)
        self.expires = Gauge("feddsv_metadata_expires_unix_s", "When a role's metadata ends", ["role"], registry=of)

    @contextmanager
    def served(self, address: tuple[str, int] | None) -> Iterator[int | None]:
        """Serve them over HTTP at ``/metrics`` while the context is open; yields the port.

        Raises:
            DsvError: the address cannot be bound.
        """
        if address is None:
            yield None
            return
        try:
            server, thread = start_http_server(address[1], address[0], registry=self.registry)
        except OSError as error:
            raise DsvError(
                f"cannot serve metrics on {address[0]}:{address[1]}: {error.strerror}; choose another --metrics-port"
            ) from None
        try:
            log_event(logging.INFO, "metrics", url=f"http://{address[0]}:{server.server_port}/metrics")
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
