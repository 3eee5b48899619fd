"""The distribution service: releases of a store over gRPC."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from dsv import DsvError
from protos import release_pb2_grpc
from protos.transport import SERVER_OPTIONS
from server.catalogue import Catalogue
from server.guard import Guard
from server.metrics import Metrics
from server.release_service import SERVICE_NAME, ReleaseService
from server.serve_options import ServeOptions
from server.store import ReleaseStore
from server.watcher import StoreWatcher

__all__ = ["SERVICE_NAME", "run_server"]
T = TypeVar("T")
_REFUSING_S = 0.3


class _Server:
    """The gRPC server with everything that runs beside it, on one event loop.

    One loop and no threads per call: a device that waits for news for a week costs a few kilobytes.
    """

    def __init__(self, store: ReleaseStore, options: ServeOptions, metrics: Metrics) -> None:
        self._store, self._options, self._metrics = store, options, metrics

    async def start(self, host: str, port: int) -> int:
        options, limits = self._options, self._options.limits
        self._catalogue = catalogue = Catalogue(self._store, max_release_bytes=limits.max_release_bytes)
        self._watcher = StoreWatcher(self._store, catalogue, options, self._metrics)
        await self._watcher.start()
        self._guard = Guard(limits, options.tokens, self._metrics)
        self._server = grpc.aio.server(
            interceptors=[self._guard],
            options=SERVER_OPTIONS,
            maximum_concurrent_rpcs=limits.all_concurrent_calls,
        )
        service = ReleaseService(self._store, catalogue, self._watcher, limits, self._metrics)
        release_pb2_grpc.add_ReleaseServiceServicer_to_server(service, self._server)  # type: ignore[no-untyped-call]
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        bound = self._bind(host, port)
        await self._server.start()
        for name in ("", SERVICE_NAME):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return bound

    async def stop(self) -> None:
        """Say so, take no new calls, let those that run finish, then end the rest."""
        self._guard.close()
        await self._health.enter_graceful_shutdown()
        await self._watcher.stop()
        # gRPC cancels calls that come just as it stops: those that come with the announcement get a clear answer.
        await asyncio.sleep(_REFUSING_S)
        await self._server.stop(self._options.drain.total_seconds())
        self._catalogue.close()

    def _bind(self, host: str, port: int) -> int:
        address, tls = _joined(host, port), self._options.tls
        credentials = tls.credentials() if tls else None
        try:
            bound = (
                self._server.add_secure_port(address, credentials)
                if credentials
                else self._server.add_insecure_port(address)
            )
        except RuntimeError:
            bound = 0
        if bound == 0:
            remedy = "choose another --host or --port" + (", and check that certificate and key fit" if tls else "")
            raise DsvError(f"cannot listen on {address}: it is in use, not allowed, or not of this machine; {remedy}")
        return bound


def _joined(host: str, port: int) -> str:
    """``host:port``, an address of IPv6 in brackets; without them gRPC takes its last group for a port."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


@contextmanager
def run_server(
    store: ReleaseStore, *, host: str = "127.0.0.1", port: int = 0, options: ServeOptions | None = None
) -> Iterator[str]:
    """Serve ``store`` while the context is open; yields the address ``host:port`` that was bound.

    Closing it drains: health says NOT_SERVING, new calls are refused, running ones have ``options.drain`` to finish.

    Args:
        port: 0 lets the operating system choose one.

    Raises:
        DsvError: the address cannot be bound, or a file of ``options`` cannot be used.
    """
    options, metrics = options or ServeOptions(), Metrics()
    server = _Server(store, options, metrics)
    with metrics.served(options.metrics_address), _loop_in_a_thread() as loop:
        bound = _wait(server.start(host, port), loop)
        try:
            yield _joined(host, bound)
        finally:
            _wait(server.stop(), loop)


@contextmanager
def _loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="distribution", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        _wait(_end_tasks(), loop)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end_tasks() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_default_executor()


def _wait(work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    return asyncio.run_coroutine_threadsafe(work, loop).result()
