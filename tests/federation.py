"""What the tests of the distribution service share: signed stores, a device, and servers that misbehave."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import grpc
import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from client.download import list_releases
from client.server_link import Server, Trust
from client.slowness import Patience
from protos import artefact, release_pb2, release_pb2_grpc
from protos.transport import RELEASE_SUFFIX
from server.catalogue import Catalogue
from server.publication import Publication
from server.signing_keys import SigningKeys
from server.store import DirectoryStore

QUICK = Patience(give_up_after_s=1.0, first_byte_s=0.4, window_s=0.4, max_backoff_s=0.05)
"""Of a device that a test waits for."""


def names(folder):
    """Of what lies in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


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
    servicer = Impostor(chunks)
    with serving(servicer, compression) as address:
        yield address, servicer


@contextmanager
def serving(servicer, compression=None):
    """Serve any servicer on loopback; yields the address."""
    options = [("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(8), options=options, compression=compression)
    release_pb2_grpc.add_ReleaseServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


class Authority:
    """A certificate authority of a test."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.key, self.name = ec.generate_private_key(ec.SECP256R1()), folder.name
        self.certificate = self._signed(self.name, self.key.public_key(), x509.BasicConstraints(True, None))
        self.ca = self._write("ca.pem", self.certificate.public_bytes(Encoding.PEM))

    def pair(self, name):
        """Files (certificate, key) of a server or device."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
        certificate = self._signed(name, key.public_key(), names)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return (
            self._write(f"{name}.pem", certificate.public_bytes(Encoding.PEM)),
            self._write(f"{name}.key", private),
        )

    def _signed(self, name, public, extension):
        def named(text):
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(named(self.name), named(name), public, x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        return builder.add_extension(extension, critical=False).sign(self.key, SHA256())

    def _write(self, name, content):
        path = self.folder / name
        path.write_bytes(content)
        return path


def refusal(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()


def digests(device):
    return [release.digest for release in list_releases(device)]


def plain(address):
    return grpc.insecure_channel(address)


def stub_of(channel):
    return release_pb2_grpc.ReleaseServiceStub(channel)


def big_release(support_set):
    """16 MB: more than flow control lets a server send unread."""
    count = 16_000_000 // 64
    return artefact.encode(
        dataclasses.replace(
            support_set,
            images=torch.zeros(count, 1, 8, 8, dtype=torch.uint8),
            labels=torch.zeros(count, dtype=torch.int64),
            soft_labels=torch.full((count, 10), 0.1),
            multipliers=torch.zeros(count),
        )
    )
