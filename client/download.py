"""A newcomer's side of the distribution service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from dsv import DsvError, SupportSet
from protos import artefact, release_pb2, release_pb2_grpc

TIMEOUT_S = 60.0
_FRAME_BYTES = 5  # gRPC puts a flag and a 4-byte length before every message


@dataclass(frozen=True)
class ReleaseInfo:
    """A release as the server lists it."""

    digest: str
    size_bytes: int
    images: int
    class_names: tuple[str, ...]
    teacher_architecture: str

    @property
    def images_per_class(self) -> float:
        """Mean number of images of a class."""
        return self.images / len(self.class_names)


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


def list_releases(address: str) -> list[ReleaseInfo]:
    """The server's releases, newest first.

    Raises:
        DsvError: the server cannot be reached.
    """
    with _stub(address) as stub:
        response = stub.ListReleases(release_pb2.ListReleasesRequest(), timeout=TIMEOUT_S)
    return [
        ReleaseInfo(r.digest, r.size_bytes, r.images, tuple(r.class_names), r.teacher_architecture)
        for r in response.releases
        if r.class_names
    ]


def download(address: str, digest: str) -> Download:
    """Fetch a release and check it.

    Raises:
        DsvError: unreachable server, unknown release, or content that is not what the digest names.
    """
    request = release_pb2.DownloadRequest(digest=digest)
    parts: list[bytes] = []
    size_bytes = bytes_down = 0
    with _stub(address) as stub:
        for response in stub.Download(request, timeout=TIMEOUT_S):
            parts.append(response.chunk)
            size_bytes += len(response.chunk)
            bytes_down += response.ByteSize() + _FRAME_BYTES
            if size_bytes > artefact.MAX_SIZE_BYTES:
                raise DsvError(f"server {address} sends more than {artefact.MAX_SIZE_BYTES} bytes; not a release")
    content = b"".join(parts)
    if artefact.digest(content) != digest:
        raise DsvError(f"what server {address} sent is not release {digest}: its digest differs; download it again")
    return Download(content, artefact.decode(content), request.ByteSize() + _FRAME_BYTES, bytes_down)


@contextmanager
def _stub(address: str) -> Iterator[release_pb2_grpc.ReleaseServiceStub]:
    with grpc.insecure_channel(address) as channel:
        try:
            yield release_pb2_grpc.ReleaseServiceStub(channel)  # type: ignore[no-untyped-call]
        except grpc.RpcError as error:
            raise DsvError(_public_message(address, error.code(), error.details())) from None


def _public_message(address: str, code: grpc.StatusCode, details: str | None) -> str:
    messages = {
        grpc.StatusCode.UNAVAILABLE: f"server {address} cannot be reached; check the address and that it runs",
        grpc.StatusCode.DEADLINE_EXCEEDED: f"server {address} did not answer within {TIMEOUT_S:.0f} s; try again",
        grpc.StatusCode.NOT_FOUND: f"server {address} has no such release; list its releases",
        grpc.StatusCode.UNIMPLEMENTED: f"server {address} is no DSV distribution service; check the address",
    }
    return messages.get(code, f"server {address} refused: {code.name}: {details}")
