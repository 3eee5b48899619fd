"""Every store passes one suite; the service is tested on a real port with exact status codes."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import replace
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import client.download
import protos.files
from client.download import download, list_releases
from dsv import GIVEN_IMAGES, DsvError
from protos import artefact, release_pb2, release_pb2_grpc
from server.distribution import SERVICE_NAME, run_server
from server.store import DirectoryStore, MemoryStore, UnknownReleaseError


@pytest.fixture(params=["memory", "directory"])
def store(request, tmp_path):
    return MemoryStore() if request.param == "memory" else DirectoryStore(tmp_path / "store")


class TestEveryStore:
    def test_starts_empty(self, store):
        assert store.list() == []

    def test_gives_back_what_was_published(self, store, content):
        name = store.publish(content)
        assert name == artefact.digest(content)
        assert store.read(name) == content
        assert [(entry.digest, entry.size_bytes) for entry in store.list()] == [(name, len(content))]

    def test_publishing_twice_is_publishing_once(self, store, content):
        assert store.publish(content) == store.publish(content)
        assert len(store.list()) == 1

    def test_refuses_what_is_no_release(self, store, content):
        with pytest.raises(DsvError, match="not a release file"):
            store.publish(content[:-1])
        assert store.list() == []

    def test_refuses_what_was_made_of_given_pictures(self, store, support_set):
        edited = replace(support_set, provenance=replace(support_set.provenance, start=GIVEN_IMAGES))
        with pytest.raises(DsvError, match="made of given pictures .* may still show them; publish another"):
            store.publish(artefact.encode(edited))
        assert store.list() == []

    @pytest.mark.parametrize("digest", ["0" * 64, "", "../../etc/passwd", "A" * 64])
    def test_unknown(self, store, digest):
        with pytest.raises(UnknownReleaseError, match="no release"):
            store.read(digest)


def test_a_crash_while_publishing_leaves_no_release(tmp_path, content, monkeypatch):
    store = DirectoryStore(tmp_path)

    def crash(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(protos.files.os, "replace", crash)
    with pytest.raises(DsvError, match="cannot publish into .*No space left"):
        store.publish(content)
    assert store.list() == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("umask", "private", "expected"), [(0o077, False, 0o600), (0o022, False, 0o644), (0o022, True, 0o600)]
)
def test_a_file_is_as_open_as_its_user_wants_it(tmp_path, umask, private, expected):
    before = os.umask(umask)
    try:
        protos.files.write_output(tmp_path / "file", b"content", "the page", private=private)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == expected


def test_a_folder_that_cannot_be_listed_is_no_empty_store(tmp_path, content, monkeypatch):
    """Its releases would be taken from the signed list, and so from every device."""
    store = DirectoryStore(tmp_path / "store")
    store.publish(content)

    def refuse(folder):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(PermissionError):
        store.list()


def test_a_store_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DsvError, match="cannot make the store"):
        DirectoryStore(tmp_path / "file")


@pytest.fixture
def served(content):
    store = MemoryStore()
    name = store.publish(content)
    with run_server(store) as address:
        yield address, name


def test_a_newcomer_gets_the_release_and_counts_the_bytes(served, content):
    address, name = served
    [entry] = list_releases(address)
    assert (entry.digest, entry.size_bytes, entry.images_per_class) == (name, len(content), 2)
    got = download(address, name)
    assert got.content == content
    assert len(content) < got.bytes_down < len(content) + 100 and got.bytes_up < 100


@pytest.mark.parametrize(
    ("request_fields", "code"),
    [
        ({"digest": "0" * 64}, grpc.StatusCode.NOT_FOUND),
        ({"digest": "xyz"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"digest": None, "offset_bytes": 10**9}, grpc.StatusCode.OUT_OF_RANGE),
    ],
)
def test_status_codes(served, request_fields, code):
    address, name = served
    fields = {**request_fields, "digest": request_fields["digest"] or name}
    with grpc.insecure_channel(address) as channel:
        stub = release_pb2_grpc.ReleaseServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Download(release_pb2.DownloadRequest(**fields), timeout=10))
    assert caught.value.code() == code


def test_a_download_goes_on_from_an_offset(served, content):
    address, name = served
    with grpc.insecure_channel(address) as channel:
        stub = release_pb2_grpc.ReleaseServiceStub(channel)
        for offset in (0, 1, len(content) - 1, len(content)):
            request = release_pb2.DownloadRequest(digest=name, offset_bytes=offset)
            assert b"".join(r.chunk for r in stub.Download(request, timeout=10)) == content[offset:]


def test_large_releases_come_in_chunks(served, content, monkeypatch):
    monkeypatch.setattr("server.release_service.CHUNK_SIZE_BYTES", 100)
    address, name = served
    got = download(address, name)
    assert got.content == content and got.bytes_down > len(content) + 5 * (len(content) // 100)


def test_health(served):
    address, _ = served
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE_NAME):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_release_altered_on_disk_is_not_served(tmp_path, content):
    store = DirectoryStore(tmp_path)
    name = store.publish(content)
    store.path(name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with run_server(store) as address, pytest.raises(DsvError, match="DATA_LOSS.*altered"):
        download(address, name)


def test_a_server_that_sends_something_else_is_caught(served, monkeypatch):
    address, name = served
    other = SimpleNamespace(digest=lambda content: "f" * 64, MAX_SIZE_BYTES=artefact.MAX_SIZE_BYTES)
    monkeypatch.setattr(client.download, "artefact", other)
    with pytest.raises(DsvError, match="its digest differs"):
        download(address, name)


def test_a_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DsvError, match=f"127.0.0.1:{port}: it is in use"), run_server(MemoryStore(), port=port):
            pass
    elsewhere = run_server(MemoryStore(), host="192.0.2.1")
    with pytest.raises(DsvError, match="or not of this machine; choose another --host"), elsewhere:
        pass


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_address_of_ipv6(host, content):
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
    store = MemoryStore()
    name = store.publish(content)
    with run_server(store, host=host) as address:
        assert address.startswith("[::1]:") and download(address, name).content == content


def test_two_servers_do_not_share_a_port():
    with run_server(MemoryStore()) as address:
        port = int(address.rsplit(":", 1)[1])
        with pytest.raises(DsvError, match="in use"), run_server(MemoryStore(), port=port):
            pass


def test_an_unreachable_server():
    with pytest.raises(DsvError, match="127.0.0.1:1 cannot be reached; check the address"):
        list_releases("127.0.0.1:1")


def test_newest_first(tmp_path, support_set):
    import dataclasses

    store = DirectoryStore(tmp_path)
    names = []
    for seed in range(3):
        origin = dataclasses.replace(support_set.provenance, seed=seed)
        names.append(store.publish(artefact.encode(dataclasses.replace(support_set, provenance=origin))))
        os.utime(store.path(names[-1]), (seed + 1, seed + 1))
    assert [entry.digest for entry in store.list()] == names[::-1]
