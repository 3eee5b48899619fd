"""Downloads on a bad network: they go on after a break, end when kept waiting, and show only what is verified."""

from __future__ import annotations

import errno
import threading
import time
from dataclasses import replace

import grpc
import pytest
from federation import Federation, impostor, serving

import client.download
from client.download import download
from client.slowness import Patience
from dsv import DsvError
from protos import artefact, release_pb2, release_pb2_grpc
from protos.transport import RELEASE_SUFFIX
from server.distribution import run_server
from server.store import DirectoryStore, MemoryStore

QUICK = Patience(give_up_after_s=1.0, first_byte_s=0.4, window_s=0.4, max_backoff_s=0.05)


@pytest.fixture(scope="module")
def digest(content):
    return artefact.digest(content)


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_release_is_kept_and_not_fetched_again(content, digest, tmp_path):
    store = MemoryStore()
    store.publish(content)
    with run_server(store) as address:
        assert download(address, digest, folder=tmp_path).bytes_down > len(content)
        assert names(tmp_path) == [digest + RELEASE_SUFFIX]
        assert download(address, digest, folder=tmp_path).bytes_down == 0
        (tmp_path / (digest + RELEASE_SUFFIX)).write_bytes(content[:-1] + b"x")
        assert download(address, digest, folder=tmp_path).content == content, "a damaged file is fetched anew"


def test_every_break_is_mended_from_where_it_was(content, digest, tmp_path):
    def breaking(offset, context):
        yield content[offset : offset + 500]
        if offset + 500 < len(content):
            context.abort(grpc.StatusCode.UNAVAILABLE, "lost")

    with impostor(breaking) as (address, servicer):
        got = download(address, digest, folder=tmp_path, patience=QUICK)
    assert got.content == content
    assert servicer.offsets == list(range(0, len(content), 500))
    assert got.bytes_down < len(content) * 1.1, "nothing is fetched twice"


def test_a_long_download_with_many_breaks_is_not_given_up_while_it_goes_on(content, digest):
    """Longer in all than patience is for a single byte."""

    def breaking(offset, context):
        time.sleep(0.2)
        yield content[offset : offset + len(content) // 8 + 1]
        if offset + len(content) // 8 + 1 < len(content):
            context.abort(grpc.StatusCode.UNAVAILABLE, "lost")

    began = time.monotonic()
    with impostor(breaking) as (address, _):
        got = download(address, digest, patience=replace(QUICK, give_up_after_s=0.8))
    assert got.content == content and time.monotonic() - began > 0.8


def test_a_server_that_breaks_off_after_every_byte_is_given_up(content, digest):
    def drip(offset, context):
        yield content[offset : offset + 1]
        context.abort(grpc.StatusCode.UNAVAILABLE, "lost")

    began = time.monotonic()
    with impostor(drip) as (address, _), pytest.raises(DsvError):
        download(address, digest, patience=QUICK)
    assert QUICK.give_up_after_s <= time.monotonic() - began < 5


def test_a_file_that_another_process_finished_in_between_is_taken(content, digest, tmp_path, monkeypatch):
    real, done = client.download._Fetch._lock, []

    def slowly(fetch, opened):
        if not done:
            done.append(True)  # the other process renames the file that this one has opened
            (tmp_path / f".partial-{digest}").write_bytes(content)
            (tmp_path / f".partial-{digest}").rename(tmp_path / (digest + RELEASE_SUFFIX))
        real(fetch, opened)

    monkeypatch.setattr(client.download._Fetch, "_lock", slowly)
    with impostor(lambda offset, context: [b"y" * 10**6]) as (address, servicer):
        assert download(address, digest, folder=tmp_path, patience=QUICK).content == content
    assert servicer.offsets == [] and (tmp_path / (digest + RELEASE_SUFFIX)).read_bytes() == content


def test_a_servers_words_are_no_commands_of_a_terminal(digest):
    def swearing(offset, context):
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "\x1b[2J\x1b]0;owned\x07" + "x" * 5000)
        yield b""

    with impostor(swearing) as (address, _), pytest.raises(DsvError) as told:
        download(address, digest, patience=QUICK)
    assert str(told.value).isprintable() and len(str(told.value)) < 600


def test_a_call_that_no_guard_ends_has_a_deadline(content, digest, monkeypatch):
    """It is reckoned from the release's size at the slowest rate."""
    monkeypatch.setattr(client.download, "SlownessGuard", Unwatched)

    def silent(offset, context):
        while context.is_active():
            time.sleep(0.05)
        yield b""

    patience = replace(QUICK, give_up_after_s=0.1, min_bytes_per_s=1e6)
    began = time.monotonic()
    with impostor(silent) as (address, _), pytest.raises(DsvError):
        download(address, digest, size_bytes=len(content), patience=patience)
    assert patience.deadline_s(len(content)) <= time.monotonic() - began < 5


class Unwatched:
    """A guard that sleeps."""

    too_slow = False

    def __init__(self, patience, cancel):
        self.arrived = lambda size_bytes: None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "a" * 63])
def test_what_a_server_lists_under_no_digest_is_not_offered(name, digest):
    class Listing(release_pb2_grpc.ReleaseServiceServicer):
        def ListReleases(self, request, context):
            listed = [release_pb2.Release(digest=d, size_bytes=1, images=2, class_names=["a"]) for d in (name, digest)]
            return release_pb2.ListReleasesResponse(releases=listed)

    with serving(Listing()) as address:
        assert [release.digest for release in client.download.list_releases(address)] == [digest]


def test_another_process_goes_on_where_the_first_was_ended(content, digest, tmp_path):
    (tmp_path / f".partial-{digest}").write_bytes(content[:1000])
    with impostor(lambda offset, context: [content[offset:]]) as (address, servicer):
        assert download(address, digest, folder=tmp_path).content == content
    assert servicer.offsets == [1000] and names(tmp_path) == [digest + RELEASE_SUFFIX]


def test_a_partial_file_that_was_damaged_is_fetched_anew(content, digest, tmp_path):
    (tmp_path / f".partial-{digest}").write_bytes(b"x" * 1000)
    with impostor(lambda offset, context: [content[offset:]]) as (address, servicer):
        assert download(address, digest, folder=tmp_path).content == content
    assert servicer.offsets == [1000, 0]


def test_altered_bytes(content, digest, tmp_path):
    altered = content[:-1] + bytes([content[-1] ^ 1])
    with (
        impostor(lambda offset, context: [altered[offset:]]) as (address, _),
        pytest.raises(DsvError, match="its digest differs; download it again"),
    ):
        download(address, digest, folder=tmp_path)
    assert names(tmp_path) == []


def test_truncation(content, digest, tmp_path):
    """A server that says the release ends early, again and again."""
    short = content[:-10]
    with impostor(lambda offset, context: [short[offset:]]) as (address, _):
        with pytest.raises(DsvError, match=f"after {len(short)} of {len(content)} bytes; it is truncated"):
            download(address, digest, size_bytes=len(content), folder=tmp_path, patience=QUICK)
        with pytest.raises(DsvError, match="its digest differs"):
            download(address, digest, patience=QUICK)
    assert names(tmp_path) == [f".partial-{digest}"], "what came is kept for another server, unseen"


@pytest.mark.parametrize("signed", [True, False])
def test_endless_data(content, digest, tmp_path, monkeypatch, signed):
    monkeypatch.setattr(artefact, "MAX_SIZE_BYTES", 1 << 20)

    def endless(offset, context):
        while context.is_active():
            yield b"x" * 65536

    with impostor(endless) as (address, _), pytest.raises(DsvError, match="sends more than the .*data without end"):
        download(address, digest, size_bytes=len(content) if signed else None, folder=tmp_path)
    assert all((tmp_path / name).stat().st_size == 0 for name in names(tmp_path)), "no disk is filled"


@pytest.mark.parametrize("first", [b"", b"x"])
def test_slow_retrieval(content, digest, tmp_path, first):
    """A server that holds the connection and sends nothing, or a byte now and then."""

    def slow(offset, context):
        if first:
            yield content[offset : offset + 1]
        while context.is_active():
            time.sleep(0.05)

    began = time.monotonic()
    with impostor(slow) as (address, _), pytest.raises(DsvError, match="sends less than 1024 B/s; try again later"):
        download(address, digest, folder=tmp_path, patience=QUICK)
    assert time.monotonic() - began < 10
    assert names(tmp_path) == [f".partial-{digest}"]


def test_a_busy_server_is_waited_for(content, digest):
    refusals = iter(range(3))

    def busy(offset, context):
        if next(refusals, None) is not None:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls at once from this peer; wait")
        yield content[offset:]

    with impostor(busy) as (address, servicer):
        assert download(address, digest, patience=QUICK).content == content
    assert servicer.offsets == [0] * 4


def test_a_server_that_stays_away_is_given_up(digest):
    with pytest.raises(DsvError, match="127.0.0.1:1 cannot be reached"):
        download("127.0.0.1:1", digest, patience=QUICK)


def test_a_message_that_is_a_decompression_bomb(digest):
    with (
        impostor(lambda offset, context: [b"\0" * (64 << 20)], grpc.Compression.Gzip) as (address, _),
        pytest.raises(DsvError, match="message without end"),
    ):
        download(address, digest)


def test_a_server_restarted_in_the_middle(content, digest, tmp_path):
    store = DirectoryStore(tmp_path / "store")
    store.publish(content)
    with run_server(store) as address:
        port = int(address.rsplit(":", 1)[1])
    done = []
    patience = replace(QUICK, give_up_after_s=20.0)
    thread = threading.Thread(target=lambda: done.append(download(address, digest, patience=patience)))
    thread.start()
    time.sleep(0.3)
    with run_server(store, port=port):
        thread.join(20)
    assert done[0].content == content


def test_a_full_disk_on_the_device(content, digest, tmp_path, monkeypatch):
    """tests/test_full_disk.py does it on a real one."""
    real, calls = client.download.os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        raise OSError(errno.ENOSPC, "No space left on device")

    with impostor(lambda offset, context: [content[offset:]]) as (address, servicer):
        monkeypatch.setattr(client.download.os, "fsync", full)
        with pytest.raises(DsvError, match="cannot keep release .*No space left on device; free space"):
            download(address, digest, folder=tmp_path)
        assert calls and names(tmp_path) == [f".partial-{digest}"]
        monkeypatch.setattr(client.download.os, "fsync", real)
        assert download(address, digest, folder=tmp_path).content == content
    assert servicer.offsets == [0, len(content)], "what came before the disk was full counts"


def test_two_processes_do_not_write_one_file(content, digest, tmp_path):
    entered, leave = threading.Event(), threading.Event()

    def waiting(offset, context):
        entered.set()
        leave.wait(10)
        yield content[offset:]

    with impostor(waiting) as (address, _):
        first = threading.Thread(target=download, args=(address, digest), kwargs={"folder": tmp_path})
        first.start()
        assert entered.wait(10)
        with pytest.raises(DsvError, match="another process is fetching"):
            download(address, digest, folder=tmp_path)
        leave.set()
        first.join()
    assert names(tmp_path) == [digest + RELEASE_SUFFIX]


def test_a_release_that_is_not_what_it_should_be_is_not_kept(tmp_path):
    """Signed, of the right size and digest, and no release: the keys were given to a fool."""
    garbage = b"\xff" * 5000
    federation = Federation(tmp_path)
    with (
        impostor(lambda offset, context: [garbage[offset:]]) as (address, _),
        pytest.raises(DsvError, match="not a release file"),
    ):
        download(federation.device(address), artefact.digest(garbage), folder=tmp_path / "got")
    assert names(tmp_path / "got") == []


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 1 << 18])
def test_bytes_are_counted_as_protobuf_encodes_them(size):
    response = release_pb2.DownloadResponse(chunk=b"x" * size)
    assert client.download._message_bytes(response.chunk) == response.ByteSize() + 5


@pytest.mark.parametrize("extra", [b"x", b"x" * 5000])
def test_a_partial_file_that_is_too_long_is_fetched_anew(content, digest, tmp_path, extra):
    """A server may have sent too much before it broke off; an honest one has nothing behind the release's end."""
    store = MemoryStore()
    store.publish(content)
    (tmp_path / f".partial-{digest}").write_bytes(content + extra)
    with run_server(store) as address:
        assert download(address, digest, folder=tmp_path, size_bytes=len(content)).content == content
        assert names(tmp_path) == [digest + RELEASE_SUFFIX]
