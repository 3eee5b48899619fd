"""What a server knows of its releases: faults of the moment, and those that stay."""

import errno
import threading
from dataclasses import replace

import grpc
import pytest
from federation import plain, refusal, release_bytes, stub_of

import server.catalogue
import server.release_service
from dsv import GIVEN_IMAGES
from protos import artefact, release_pb2
from server.catalogue import Catalogue, UnreadableReleaseError, UnusableReleaseError
from server.distribution import run_server
from server.serve_options import ServeOptions
from server.store import DirectoryStore, MemoryStore, UnknownReleaseError


@pytest.fixture
def store(support_set):
    store = MemoryStore()
    for number in range(3):
        store.publish(release_bytes(support_set, number))
    return store


@pytest.fixture
def digests(store):
    return [release.digest for release in store.list()]


@pytest.fixture
def catalogue(store):
    return Catalogue(store, max_release_bytes=1 << 30)


def test_a_fault_of_the_disk_is_forgotten_once_it_is_over(store, digests, catalogue, monkeypatch):
    def fail(digest):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as broken:
        broken.setattr(store, "read", fail)
        assert catalogue.list() == []
        with pytest.raises(UnreadableReleaseError, match="cannot be read now: Too many open files; try again later"):
            catalogue.get(digests[0])
    assert [entry.release.digest for entry in catalogue.list()] == digests
    assert catalogue.get(digests[0]).release.digest == digests[0]


def test_a_known_release_does_not_wait_for_the_reading_of_another(store, digests, catalogue, monkeypatch):
    catalogue.get(digests[0])
    read, began, go_on = store.read, threading.Event(), threading.Event()

    def slowly(digest):
        began.set()
        assert go_on.wait(20)
        return read(digest)

    monkeypatch.setattr(store, "read", slowly)
    reading = threading.Thread(target=catalogue.list)
    reading.start()
    try:
        assert began.wait(20)
        assert catalogue.get(digests[0]).release.digest == digests[0]
        assert reading.is_alive()
    finally:
        go_on.set()
        reading.join()


def test_a_slow_read_holds_up_no_call_that_needs_none(store, digests, support_set, monkeypatch):
    """More calls wait for an unread release than there are threads; the others are answered all the same."""
    began, go_on = threading.Event(), threading.Event()
    with run_server(store, options=ServeOptions(look_interval_s=0.05)) as address, plain(address) as channel:
        read, stub = store.read, stub_of(channel)

        def slowly(digest):
            began.set()
            assert go_on.wait(20)
            return read(digest)

        monkeypatch.setattr(store, "read", slowly)
        asked = release_pb2.GetReleaseManifestRequest(digest=store.publish(release_bytes(support_set, 9)))
        waiting = [stub.GetReleaseManifest.future(asked, timeout=20) for _ in range(40)]
        try:
            assert began.wait(20)
            listed = [stub.ListReleases.future(release_pb2.ListReleasesRequest(), timeout=5) for _ in range(40)]
            assert {tuple(r.digest for r in call.result().releases) for call in listed} == {tuple(digests)}
            known = release_pb2.GetReleaseManifestRequest(digest=digests[0])
            assert stub.GetReleaseManifest(known, timeout=5).release.digest == digests[0]
            request = release_pb2.GetMetadataRequest(name="timestamp.json")
            assert refusal(lambda: stub.GetMetadata(request, timeout=5)) is grpc.StatusCode.NOT_FOUND
            assert not any(call.done() for call in waiting)
        finally:
            go_on.set()
        assert {call.result().release.digest for call in waiting} == {asked.digest}


def test_a_file_that_nobody_can_decode_hides_no_other_release(store, digests, catalogue, monkeypatch):
    real = artefact.decode

    def failing(content):
        if artefact.digest(content) == digests[0]:
            raise TypeError("len() of a 0-d tensor")
        return real(content)

    monkeypatch.setattr(artefact, "decode", failing)
    assert {entry.release.digest for entry in catalogue.list()} == set(digests[1:])


def test_a_release_that_no_message_can_describe_is_not_listed(digests, catalogue, monkeypatch):
    monkeypatch.setattr(server.catalogue, "MAX_LISTED_BYTES", 10)
    assert catalogue.list() == []
    with pytest.raises(UnusableReleaseError, match="class names of release .* are too long"):
        catalogue.get(digests[0])


def test_a_set_of_given_pictures_that_was_copied_into_the_store_is_not_served(support_set, tmp_path):
    edited = replace(support_set, provenance=replace(support_set.provenance, start=GIVEN_IMAGES))
    content = artefact.encode(edited)
    digest = artefact.digest(content)
    (tmp_path / f"{digest}.dsv").write_bytes(content)
    assert [stored.digest for stored in DirectoryStore(tmp_path).list()] == [digest]
    catalogue = Catalogue(DirectoryStore(tmp_path), max_release_bytes=1 << 30)
    assert catalogue.list() == []
    with pytest.raises(UnusableReleaseError, match="was made of given pictures"):
        catalogue.get(digest)


def test_the_newest_are_listed_as_far_as_a_message_carries_them(store, digests, catalogue, monkeypatch):
    two = sum(entry.release.ByteSize() for entry in catalogue.list()[:2])
    monkeypatch.setattr(server.release_service, "MAX_LISTED_BYTES", two)
    with run_server(store) as address, plain(address) as channel:
        found = stub_of(channel).ListReleases(release_pb2.ListReleasesRequest(), timeout=10).releases
    assert [release.digest for release in found] == digests[:2]


def test_a_release_that_is_withdrawn_while_its_download_waits_is_not_found(store, digests, monkeypatch):
    def withdrawn(digest):
        raise UnknownReleaseError("no release")

    monkeypatch.setattr(store, "open", withdrawn)
    with run_server(store) as address, plain(address) as channel:
        request = release_pb2.DownloadRequest(digest=digests[0])
        assert refusal(lambda: list(stub_of(channel).Download(request, timeout=10))) is grpc.StatusCode.NOT_FOUND


def test_a_file_that_cannot_be_read_is_asked_for_later(store, digests, monkeypatch):
    def fail(digest):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(store, "read", fail)
    request = release_pb2.GetReleaseManifestRequest(digest=digests[0])
    with run_server(store) as address, plain(address) as channel:
        assert refusal(lambda: stub_of(channel).GetReleaseManifest(request, timeout=10)) is grpc.StatusCode.UNAVAILABLE


def test_syntheses_that_nobody_goes_on_with_are_cleared(tmp_path, support_set, monkeypatch):
    store, day_s = DirectoryStore(tmp_path), 86_400.0
    names = (".unfinished-a.state", ".unfinished-a.7.partial", ".finished-b", ".publishing-c")
    for name in names:
        (tmp_path / name).touch()
    began = (tmp_path / names[0]).stat().st_mtime
    left = {}
    for days in (0, 1, 29, 31):
        monkeypatch.setattr("server.store.time.time", lambda days=days: began + days * day_s + 1)
        store.publish(release_bytes(support_set, days))
        left[days] = [name for name in names if (tmp_path / name).exists()]
    assert left == {0: [*names], 1: [names[0], names[2]], 29: [names[0], names[2]], 31: []}
