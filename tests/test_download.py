"""Downloads on a bad network: they go on after a break, end when kept waiting, and show only what is verified."""

from __future__ import annotations

import errno
import threading
import time
from dataclasses import replace

import grpc
import pytest
from federation import QUICK, impostor, names

import client.download
from client.download import download
from dsv import DsvError
from protos import release_pb2
from protos.transport import RELEASE_SUFFIX
from server.distribution import run_server
from server.store import DirectoryStore, MemoryStore


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
