"""The methods of ``ReleaseService``; protos/release.proto says what each promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import grpc

from protos import release_pb2, release_pb2_grpc
from protos.transport import DIGEST, MAX_LISTED_BYTES, MAX_METADATA_BYTES, METADATA_NAME
from server.catalogue import Catalogue, Entry, UnreadableReleaseError, UnusableReleaseError
from server.guard import PEER
from server.metrics import Metrics
from server.serve_options import Limits
from server.store import ReleaseStore, UnknownReleaseError
from server.turns import Turns
from server.watcher import StoreWatcher

SERVICE_NAME = release_pb2.DESCRIPTOR.services_by_name["ReleaseService"].full_name
CHUNK_SIZE_BYTES = 256 << 10
"""Large enough to cost little, small enough that many downloads fit in memory."""

_READ_CHUNKS = 4
_MIN_STALL_S = 10.0
Context = grpc.aio.ServicerContext[Any, Any]


class ReleaseService(release_pb2_grpc.ReleaseServiceServicer):
    """Reads files in threads, releases that it does not know yet in one of their own: calls that wait for one of them
    hold up no other call."""

    def __init__(
        self, store: ReleaseStore, catalogue: Catalogue, watcher: StoreWatcher, limits: Limits, metrics: Metrics
    ) -> None:
        self._store, self._catalogue, self._watcher, self._metrics = store, catalogue, watcher, metrics
        self._stall_s = max(_MIN_STALL_S, CHUNK_SIZE_BYTES / limits.min_bytes_per_s)
        self._turns = Turns(limits.active_downloads)

    async def ListReleases(
        self, request: release_pb2.ListReleasesRequest, context: Context
    ) -> release_pb2.ListReleasesResponse:
        # The watcher's list may be a second old, which matters where it is empty: a newcomer would give up.
        found = self._watcher.releases or (await self._catalogue.look_aside())[0]
        return release_pb2.ListReleasesResponse(releases=_that_fit(entry.release for entry in found))

    async def GetReleaseManifest(
        self, request: release_pb2.GetReleaseManifestRequest, context: Context
    ) -> release_pb2.GetReleaseManifestResponse:
        return (await self._entry(request.digest, context)).manifest

    async def WatchReleases(self, request: release_pb2.WatchReleasesRequest, context: Context) -> None:
        told: set[str] = set()
        while not self._watcher.stopping:
            seen = self._watcher.look
            for entry in reversed(self._watcher.releases):
                if entry.release.digest not in told:
                    told.add(entry.release.digest)
                    await context.write(release_pb2.WatchReleasesResponse(release=entry.release))
            await self._watcher.wait(seen)
        await _abort(context, grpc.StatusCode.UNAVAILABLE, "the server stops; ask again")

    async def GetMetadata(
        self, request: release_pb2.GetMetadataRequest, context: Context
    ) -> release_pb2.GetMetadataResponse:
        if not METADATA_NAME.fullmatch(request.name):
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, "name must be timestamp.json or N.role.json")
        folder = self._store.metadata_folder
        content = await asyncio.to_thread(_read_metadata, folder / request.name) if folder else None
        if content is None:
            await _abort(context, grpc.StatusCode.NOT_FOUND, f"no metadata {request.name}")
        return release_pb2.GetMetadataResponse(content=content)

    async def Download(self, request: release_pb2.DownloadRequest, context: Context) -> None:
        size_bytes = (await self._entry(request.digest, context)).release.size_bytes
        if request.offset_bytes > size_bytes:
            await _abort(context, grpc.StatusCode.OUT_OF_RANGE, f"the release has {size_bytes} bytes")
        peer = PEER.get()
        with self._metrics.waiting.track_inprogress():
            await self._turns.acquire(peer)
        try:
            with await self._opened(request.digest, context) as opened:
                stalled = await self._send(opened, request.offset_bytes, context)
        finally:
            self._turns.release(peer)
        if stalled:
            # gRPC can end a call only when its last message has left; until then it holds one chunk and no turn, and
            # the age limit of connections ends it at the latest.
            await stalled
            await _abort(context, grpc.StatusCode.ABORTED, "read too slowly; go on from the offset reached")

    async def _opened(self, digest: str, context: Context) -> BinaryIO:
        try:
            return await asyncio.to_thread(self._store.open, digest)
        except UnknownReleaseError:  # withdrawn while this call waited for its turn
            await _abort(context, grpc.StatusCode.NOT_FOUND, f"no release {digest}")
        except OSError as error:
            await _abort(context, grpc.StatusCode.UNAVAILABLE, f"release {digest} cannot be read now: {error.strerror}")

    async def _send(self, opened: BinaryIO, offset_bytes: int, context: Context) -> asyncio.Task[None] | None:
        """Send the rest of a file; returns the write that the peer does not take, if it comes to that."""
        opened.seek(offset_bytes)
        async for chunk in _chunks(opened):
            write = asyncio.ensure_future(context.write(release_pb2.DownloadResponse(chunk=chunk)))
            try:
                await asyncio.wait((write,), timeout=self._stall_s)
            except asyncio.CancelledError:
                write.cancel()
                raise
            if not write.done():
                return write
            write.result()
            self._metrics.sent_bytes.inc(len(chunk))
        return None

    async def _entry(self, digest: str, context: Context) -> Entry:
        if not DIGEST.fullmatch(digest):
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, "digest must be 64 lowercase hexadecimal digits")
        try:
            return await self._catalogue.get_aside(digest)
        except UnknownReleaseError:
            await _abort(context, grpc.StatusCode.NOT_FOUND, f"no release {digest}")
        except UnusableReleaseError as error:
            await _abort(context, grpc.StatusCode.DATA_LOSS, str(error))
        except UnreadableReleaseError as error:
            await _abort(context, grpc.StatusCode.UNAVAILABLE, str(error))


def _that_fit(releases: Iterable[release_pb2.Release]) -> Iterator[release_pb2.Release]:
    """As many of the first ones as one message may carry."""
    size_bytes = 0
    for release in releases:
        size_bytes += release.ByteSize()
        if size_bytes > MAX_LISTED_BYTES:
            return
        yield release


def _read_metadata(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return content if len(content) <= MAX_METADATA_BYTES else None


async def _chunks(opened: BinaryIO) -> AsyncIterator[bytes]:
    """The rest of a file. Several chunks are read in one go, since each trip to a thread costs as much as a read."""
    while block := await asyncio.to_thread(opened.read, _READ_CHUNKS * CHUNK_SIZE_BYTES):
        for begin in range(0, len(block), CHUNK_SIZE_BYTES):
            yield block[begin : begin + CHUNK_SIZE_BYTES]


async def _abort(context: Context, code: grpc.StatusCode, details: str) -> NoReturn:
    await context.abort(code, details)
    raise AssertionError  # abort never returns; its type says otherwise
