"""Downloads from a server that means harm: each ends, fills no disk and shows nothing."""

from __future__ import annotations

import time
from dataclasses import replace

import grpc
import pytest
from federation import QUICK, Federation, impostor, names, serving

import client.download
from client.download import download
from dsv import DsvError
from protos import artefact, release_pb2, release_pb2_grpc


def test_a_server_that_breaks_off_after_every_byte_is_given_up(content, digest):
    def drip(offset, context):
        yield content[offset : offset + 1]
        context.abort(grpc.StatusCode.UNAVAILABLE, "lost")

    began = time.monotonic()
    with impostor(drip) as (address, _), pytest.raises(DsvError):
        download(address, digest, patience=QUICK)
    assert QUICK.give_up_after_s <= time.monotonic() - began < 5


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


def test_a_message_that_is_a_decompression_bomb(digest):
    with (
        impostor(lambda offset, context: [b"\0" * (64 << 20)], grpc.Compression.Gzip) as (address, _),
        pytest.raises(DsvError, match="message without end"),
    ):
        download(address, digest)


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
