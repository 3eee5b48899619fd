"""Waiting for new releases."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import grpc

from client.download import ReleaseInfo, list_releases
from client.server_link import BreakError, Server
from client.slowness import Patience
from dsv import DsvError
from protos import release_pb2

_PAUSE_S = 1.0
_RETRY_S = 60.0


def new_releases(
    server: Server,
    known: set[str],
    *,
    look_interval_s: float = 3600.0,
    sleep: Callable[[float], None] = time.sleep,
    on_break: Callable[[DsvError], None] = lambda error: None,
) -> Iterator[ReleaseInfo]:
    """Yield every release that is not in ``known`` (digests, which grows), oldest first, and never end.

    Who cannot fetch one now takes its digest out of ``known`` again: it comes once more within about a minute.

    The server's word that there is something new only makes this look; what is yielded comes from ``list_releases``,
    and so from signed metadata where there is trust. It looks once in ``look_interval_s`` in any case, so that a
    server that keeps silent is noticed by its metadata's expiry.

    Args:
        on_break: told why the server cannot be asked for now, at every try.

    Raises:
        DsvError: the server refuses this device for good.
        TrustError: as ``signed_releases``.
    """
    patience, failures, yielded = Patience(), 0, set[str]()
    while True:
        try:
            yield from _unknown(server, known, yielded)
            failures, began_s, told = 0, time.monotonic(), set[str]()
            for digest in _told(server, look_interval_s if yielded <= known else min(_RETRY_S, look_interval_s)):
                if digest not in known | yielded:
                    yield from _unknown(server, known, yielded)
                if digest in told or digest not in known | yielded:
                    sleep(_PAUSE_S)  # a server that repeats digests, or makes them up, must not keep a device busy
                told.add(digest)
            if time.monotonic() - began_s < _PAUSE_S:
                sleep(_PAUSE_S)  # nor one that ends every call at once
        except BreakError as error:
            failures += 1
            on_break(error)
            sleep(patience.backoff_s(failures) * random.uniform(0.5, 1))


def _told(server: Server, look_interval_s: float) -> Iterator[str]:
    """Digests that the server names, until it is time to look for oneself."""
    with server.stub() as stub:
        call = stub.WatchReleases(release_pb2.WatchReleasesRequest(), timeout=look_interval_s, metadata=server.metadata)
        try:
            for response in call:
                yield response.release.digest
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
        finally:
            call.cancel()


def _unknown(server: Server, known: set[str], yielded: set[str]) -> Iterator[ReleaseInfo]:
    for release in reversed(list_releases(server)):
        if release.digest not in known:
            known.add(release.digest)
            yielded.add(release.digest)
            yield release
