"""What the tests of the distribution service share: signed stores, a device, and servers that misbehave."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc

from client.server_link import Server, Trust
from protos import artefact, release_pb2, release_pb2_grpc
from protos.transport import RELEASE_SUFFIX
from server.catalogue import Catalogue
from server.publication import Publication
from server.signing_keys import SigningKeys
from server.store import DirectoryStore


def release_bytes(support_set, seed=0):
    """A release file; another seed, another release."""
    origin = dataclasses.replace(support_set.provenance, seed=seed)
    return artefact.encode(dataclasses.replace(support_set, provenance=origin))


@dataclass
class Federation:
    """A signed store with its keys, and the folder of a device."""

    folder: Path
    now: object = staticmethod(lambda: datetime.now(UTC))

    def __post_init__(self):
        self.store = DirectoryStore(self.folder / "store")
        self.keys = self.folder / "keys"
        self.publication = Publication(self.store.metadata_folder, SigningKeys(self.keys), now=self.now)
        self.root = self.publication.create()

    def publish(self, content):
        """Publish and sign; returns the digest."""
        digest = self.store.publish(content)
        self.sign()
        return digest

    def sign(self):
        entries = Catalogue(self.store, max_release_bytes=1 << 30).list()
        self.publication.update([entry.to_signed() for entry in reversed(entries)])

    @property
    def metadata(self):
        return self.store.metadata_folder

    def device(self, address, root=None, **kind):
        """A device's view of the server; its memory lies in one folder for all servers."""
        return Server(address, trust=Trust(root or self.root, self.folder / "device"), **kind)

    def path(self, digest):
        return self.folder / "got" / (digest + RELEASE_SUFFIX)


class Impostor(release_pb2_grpc.ReleaseServiceServicer):
    """Answers downloads with what it was told to: a function from (offset, context) to chunks."""

    def __init__(self, chunks):
        self.chunks = chunks
        self.offsets = []

    def Download(self, request, context):
        self.offsets.append(request.offset_bytes)
        for chunk in self.chunks(request.offset_bytes, context):
            yield release_pb2.DownloadResponse(chunk=chunk)

    def GetMetadata(self, request, context):
        return release_pb2.GetMetadataResponse(content=b"".join(self.chunks(request.name, context)))


@contextmanager
def impostor(chunks, compression=None):
    """Serve an impostor; yields (address, servicer)."""
    options = [("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(8), options=options, compression=compression)
    servicer = Impostor(chunks)
    release_pb2_grpc.add_ReleaseServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        server.stop(0).wait()
