"""A newcomer's side of the distribution service: downloads that go on after a break and are checked before use."""

from __future__ import annotations

import fcntl
import os
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import grpc

from client.server_link import TIMEOUT_S, BreakError, PastEndError, Server, as_server
from client.slowness import Pace, Patience, SlownessGuard
from client.verification import signed_releases
from dsv import DsvError, SupportSet
from protos import artefact, release_pb2
from protos.files import flush_folder
from protos.transport import DIGEST, RELEASE_SUFFIX

_FRAME_BYTES = 5  # gRPC puts a flag and a 4-byte length before every message


class SlowServerError(DsvError):
    """The server keeps the connection but sends next to nothing."""


@dataclass(frozen=True)
class ReleaseInfo:
    """A release as the server lists it, or as the federation signed it."""

    digest: str
    size_bytes: int
    images: int
    classes: int
    teacher_architecture: str

    @property
    def images_per_class(self) -> float:
        """Mean number of images of a class."""
        return self.images / self.classes


@dataclass(frozen=True)
class Download:
    """A release that arrived whole.

    Args:
        content: the release file; its digest is the one asked for.
        support_set: what it holds.
        bytes_up, bytes_down: gRPC's length-prefixed messages of this call; HTTP/2 and TCP come on top.
    """

    content: bytes
    support_set: SupportSet
    bytes_up: int
    bytes_down: int


def list_releases(server: Server | str) -> list[ReleaseInfo]:
    """The server's releases, newest first; with ``Server.trust``, those that the federation signed and no others.

    Raises:
        DsvError: the server cannot be reached.
        TrustError: as ``signed_releases``.
    """
    server = as_server(server)
    if server.trust:
        return [
            ReleaseInfo(r.digest, r.size_bytes, r.images, r.classes, r.teacher_architecture)
            for r in signed_releases(server, server.trust)
        ]
    with server.stub() as stub:
        response = stub.ListReleases(release_pb2.ListReleasesRequest(), timeout=TIMEOUT_S, metadata=server.metadata)
    return [
        ReleaseInfo(r.digest, r.size_bytes, r.images, len(r.class_names), r.teacher_architecture)
        for r in response.releases
        if r.class_names and DIGEST.fullmatch(r.digest)
    ]


def download(
    server: Server | str,
    digest: str,
    *,
    size_bytes: int | None = None,
    folder: Path | None = None,
    patience: Patience | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Download:
    """Fetch a release and check it.

    It goes into a partial file, goes on there after any break, and gets its name once it is verified and on disk.

    Args:
        size_bytes: its size, where signed metadata tells it; a byte more or less is refused.
        folder: where it is kept; a release that is there already is not fetched again. None keeps no file.

    Raises:
        DsvError: unreachable server, unknown release, no progress for too long, a full disk, or content that is not
            what the digest names.
    """
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as chosen:
        fetched = _Fetch(
            as_server(server),
            digest=digest,
            size_bytes=size_bytes,
            folder=Path(chosen),
            patience=patience or Patience(),
            sleep=sleep,
        )
        try:
            return fetched.run()
        except OSError as error:
            raise DsvError(
                f"cannot keep release {digest} in {chosen}: {error.strerror}; free space or choose another folder"
            ) from None


def _is(opened: IO[bytes], path: Path) -> bool:
    """Whether an open file is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _message_bytes(chunk: bytes) -> int:
    """What a ``DownloadResponse`` takes; ByteSize() would encode it to find out."""
    length_digits = -(-len(chunk).bit_length() // 7)
    return _FRAME_BYTES + (1 + length_digits + len(chunk) if chunk else 0)


class _Fetch:
    """One release on its way."""

    def __init__(
        self,
        server: Server,
        *,
        digest: str,
        size_bytes: int | None,
        folder: Path,
        patience: Patience,
        sleep: Callable[[float], None],
    ) -> None:
        self._server, self._digest, self._size_bytes, self._folder = server, digest, size_bytes, folder
        self._patience, self._sleep = patience, sleep
        self._limit_bytes = artefact.MAX_SIZE_BYTES if size_bytes is None else size_bytes
        self._bytes_up = self._bytes_down = 0

    def run(self) -> Download:
        final, partial = self._folder / (self._digest + RELEASE_SUFFIX), self._folder / f".partial-{self._digest}"
        self._folder.mkdir(parents=True, exist_ok=True)
        if final.exists():
            content = final.read_bytes()
            if artefact.digest(content) == self._digest:
                return self._finished(content)
        with partial.open("a+b") as opened:
            self._lock(opened)
            if not _is(opened, partial):  # another process finished it, and this is its release now
                return self.run()
            resumed = opened.tell() > 0
            try:
                content = self._fetched(opened)
                right = artefact.digest(content) == self._digest
            except PastEndError:
                if not resumed:
                    raise
                right = False
            if resumed and not right:
                opened.truncate(0)  # the rest of an earlier try may have been damaged where it lay
                content = self._fetched(opened)
                right = artefact.digest(content) == self._digest
            done = self._verified(content, right, partial)
            os.fsync(opened.fileno())
            os.replace(partial, final)
        flush_folder(self._folder)
        return done

    def _lock(self, opened: IO[bytes]) -> None:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DsvError(
                f"another process is fetching release {self._digest} into {self._folder}; wait for it"
            ) from None

    def _fetched(self, opened: IO[bytes]) -> bytes:
        """The whole file, over as many attempts as patience allows."""
        progress_s, attempt, slow, pace = time.monotonic(), 0, 0, Pace(self._patience)
        while True:
            before = opened.seek(0, os.SEEK_END)
            pace.begins(before)
            try:
                self._attempt(opened)
                size_bytes = opened.tell()
                if self._size_bytes is None or size_bytes == self._size_bytes:
                    opened.seek(0)
                    return opened.read()
                failure: DsvError = DsvError(
                    f"server {self._server.address} ends release {self._digest} after {size_bytes} of "
                    f"{self._size_bytes} bytes; it is truncated there"
                )
            except SlowServerError as error:
                failure, slow = error, slow + 1
            except BreakError as error:
                failure = error
            if opened.tell() > before and pace.holds(opened.tell()):
                progress_s, attempt = time.monotonic(), 0
            if slow >= self._patience.slow_attempts or time.monotonic() - progress_s > self._patience.give_up_after_s:
                raise failure
            attempt += 1
            self._sleep(self._patience.backoff_s(attempt) * random.uniform(0.5, 1))

    def _attempt(self, opened: IO[bytes]) -> None:
        offset_bytes = opened.tell()
        request = release_pb2.DownloadRequest(digest=self._digest, offset_bytes=offset_bytes)
        self._bytes_up += request.ByteSize() + _FRAME_BYTES
        with self._server.stub() as stub:
            call = stub.Download(
                request, timeout=self._patience.deadline_s(self._limit_bytes), metadata=self._server.metadata
            )
            with SlownessGuard(self._patience, call.cancel) as guard:
                try:
                    for response in call:
                        chunk = response.chunk  # every access copies
                        guard.arrived(len(chunk))
                        self._bytes_down += _message_bytes(chunk)
                        self._keep(opened, chunk, call)
                except grpc.RpcError:
                    if not guard.too_slow:
                        raise
                    raise SlowServerError(
                        f"server {self._server.address} sends less than {self._patience.min_bytes_per_s:.0f} B/s; "
                        "try again later, or another server"
                    ) from None
                finally:
                    opened.flush()

    def _keep(self, opened: IO[bytes], chunk: bytes, call: grpc.Call) -> None:
        if opened.tell() + len(chunk) > self._limit_bytes:
            call.cancel()
            opened.truncate(0)
            raise DsvError(
                f"server {self._server.address} sends more than the {self._limit_bytes} bytes of release "
                f"{self._digest}; data without end is no release"
            )
        opened.write(chunk)

    def _verified(self, content: bytes, right: bool, partial: Path) -> Download:
        if not right:
            partial.unlink()
            raise DsvError(
                f"what server {self._server.address} sent is not release {self._digest}: its digest differs; "
                "download it again"
            )
        try:
            return self._finished(content)
        except DsvError:
            partial.unlink()
            raise

    def _finished(self, content: bytes) -> Download:
        return Download(content, artefact.decode(content), self._bytes_up, self._bytes_down)
