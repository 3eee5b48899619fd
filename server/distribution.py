"""The distribution service: releases of a store over gRPC."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from dsv import DsvError
from protos import artefact, release_pb2, release_pb2_grpc
from server.store import ReleaseStore, UnknownReleaseError

SERVICE_NAME = release_pb2.DESCRIPTOR.services_by_name["ReleaseService"].full_name
CHUNK_SIZE_BYTES = 1 << 20
_WORKERS = 16
_GRACE_S = 5.0
_DIGEST = re.compile(r"[0-9a-f]{64}")


class _ReleaseService(release_pb2_grpc.ReleaseServiceServicer):
    def __init__(self, store: ReleaseStore) -> None:
        self._store = store

    def ListReleases(
        self, request: release_pb2.ListReleasesRequest, context: grpc.ServicerContext
    ) -> release_pb2.ListReleasesResponse:
        response = release_pb2.ListReleasesResponse()
        for stored in self._store.list():
            try:
                support_set = artefact.decode(self._store.read(stored.digest))
            except DsvError:
                continue  # altered on disk: a newcomer could not use it, and Download names the fault
            response.releases.add(
                digest=stored.digest,
                size_bytes=stored.size_bytes,
                published_unix_s=stored.published_unix_s,
                images=len(support_set),
                class_names=support_set.task.class_names,
                channels=support_set.task.channels,
                image_size_px=support_set.task.image_size_px,
                teacher_architecture=support_set.provenance.teacher_architecture,
            )
        return response

    def Download(
        self, request: release_pb2.DownloadRequest, context: grpc.ServicerContext
    ) -> Iterator[release_pb2.DownloadResponse]:
        if not _DIGEST.fullmatch(request.digest):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "digest must be 64 lowercase hexadecimal digits")
        try:
            content = self._store.read(request.digest)
        except UnknownReleaseError:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no release {request.digest}")
        if artefact.digest(content) != request.digest:
            context.abort(grpc.StatusCode.DATA_LOSS, f"release {request.digest} was altered in the store")
        if request.offset_bytes > len(content):
            context.abort(grpc.StatusCode.OUT_OF_RANGE, f"the release has {len(content)} bytes")
        for begin in range(request.offset_bytes, len(content), CHUNK_SIZE_BYTES):
            yield release_pb2.DownloadResponse(chunk=content[begin : begin + CHUNK_SIZE_BYTES])


@contextmanager
def run_server(store: ReleaseStore, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve ``store`` while the context is open; yields the address ``host:port`` that was bound.

    Args:
        port: 0 lets the operating system choose one.

    Raises:
        DsvError: the address cannot be bound.
    """
    # Without SO_REUSEPORT off, two servers would share a port silently instead of one being refused.
    server = grpc.server(ThreadPoolExecutor(_WORKERS), options=[("grpc.so_reuseport", 0)])
    release_pb2_grpc.add_ReleaseServiceServicer_to_server(_ReleaseService(store), server)  # type: ignore[no-untyped-call]
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError:
        bound = 0
    if bound == 0:
        raise DsvError(f"cannot listen on {host}:{port}: it is in use or not allowed; choose another --port")
    server.start()
    for name in ("", SERVICE_NAME):
        checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield f"{host}:{bound}"
    finally:
        server.stop(_GRACE_S).wait()
