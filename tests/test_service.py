"""What the service answers, and how it ends: metadata, watching, draining, metrics; on real ports, with exact codes."""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.request

import grpc
import pytest
from federation import Authority, Federation, big_release, plain, refusal, release_bytes, serving, stub_of
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from client.download import download
from client.server_link import Server
from client.watch import new_releases
from dsv import DsvError
from protos import artefact, release_pb2, release_pb2_grpc
from server.distribution import SERVICE_NAME, run_server
from server.log import LOGGER_NAME, JsonLines
from server.serve_options import ServeOptions
from server.store import DirectoryStore, MemoryStore
from server.tokens import TokenFile, Tokens


@pytest.fixture
def store(content):
    store = MemoryStore()
    store.publish(content)
    return store


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "authority")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("timestamp.json", grpc.StatusCode.NOT_FOUND),
        ("7.root.json", grpc.StatusCode.NOT_FOUND),
        ("../keys/root.pem", grpc.StatusCode.INVALID_ARGUMENT),
        ("1.delegated.json", grpc.StatusCode.INVALID_ARGUMENT),
        ("", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_metadata_codes(tmp_path, name, code):
    with run_server(DirectoryStore(tmp_path)) as address, plain(address) as channel:
        request = release_pb2.GetMetadataRequest(name=name)
        assert refusal(lambda: stub_of(channel).GetMetadata(request, timeout=10)) is code


def test_manifest(store, content, support_set):
    with run_server(store) as address, plain(address) as channel:
        digest, stub = artefact.digest(content), stub_of(channel)
        found = stub.GetReleaseManifest(release_pb2.GetReleaseManifestRequest(digest=digest), timeout=10)
        assert (found.release.digest, found.release.size_bytes) == (digest, len(content))
        assert found.teacher_sha256 == support_set.provenance.teacher_sha256 and found.start == "noise"
        assert dict(found.versions) == dict(support_set.provenance.versions)
        for wrong, code in (("0" * 64, grpc.StatusCode.NOT_FOUND), ("x", grpc.StatusCode.INVALID_ARGUMENT)):
            request = release_pb2.GetReleaseManifestRequest(digest=wrong)
            assert refusal(lambda asked=request: stub.GetReleaseManifest(asked, timeout=10)) is code


def test_reflection(store):
    with run_server(store) as address, plain(address) as channel:
        ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        [answer] = ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10)
        assert SERVICE_NAME in {service.name for service in answer.list_services_response.service}


def test_watching(tmp_path, support_set):
    """A device hears of each release when it is published and signed, also over a restart of the server."""
    federation = Federation(tmp_path)
    options = ServeOptions(keys=federation.keys, look_interval_s=0.05)
    with run_server(federation.store, options=options) as address:
        port = int(address.rsplit(":", 1)[1])
        news = new_releases(federation.device(address), set(), sleep=lambda s: time.sleep(0.05))
        for seed in range(3):
            digest = federation.store.publish(release_bytes(support_set, seed))
            assert next(news).digest == digest
    digest = federation.store.publish(release_bytes(support_set, 3))
    with run_server(federation.store, port=port, options=options):
        assert next(news).digest == digest


@pytest.mark.parametrize("way", ["ends", "repeats"])
def test_a_server_that_ends_every_call_or_repeats_itself_keeps_no_device_busy(way):
    class Hasty(release_pb2_grpc.ReleaseServiceServicer):
        asked = 0

        def ListReleases(self, request, context):
            self.asked += 1
            return release_pb2.ListReleasesResponse()

        def WatchReleases(self, request, context):
            self.asked += 1
            while way == "repeats" and context.is_active():
                yield release_pb2.WatchReleasesResponse(release=release_pb2.Release(digest="a" * 64))

    class Enough(Exception): ...

    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 5:
            raise Enough

    servicer = Hasty()
    with serving(servicer) as address, pytest.raises(Enough):
        next(new_releases(Server(address), {"a" * 64}, sleep=sleep))
    assert pauses == [1.0] * 5 and servicer.asked <= 10


def test_a_watcher_that_is_refused_for_good_ends(store, tmp_path):
    Tokens.add(tmp_path / "tokens", "other")
    options = ServeOptions(tokens=TokenFile(tmp_path / "tokens"))
    with run_server(store, options=options) as address, pytest.raises(DsvError, match="refused this device"):
        next(new_releases(Server(address), set()))


def test_stopping_lets_downloads_finish_and_takes_no_new_calls(tmp_path, support_set):
    store, content = DirectoryStore(tmp_path), big_release(support_set)
    digest = store.publish(content)
    stopped = threading.Event()
    server = run_server(store)
    address = server.__enter__()
    with plain(address) as channel:
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        running = stub_of(channel).Download(release_pb2.DownloadRequest(digest=digest))
        received = len(next(running).chunk)
        thread = threading.Thread(target=lambda: (server.__exit__(None, None, None), stopped.set()))
        thread.start()
        assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING, "health says so first"
        health.cancel()
        with plain(address) as late:
            code = refusal(lambda: stub_of(late).ListReleases(release_pb2.ListReleasesRequest(), timeout=5))
            assert code is grpc.StatusCode.UNAVAILABLE
        assert not stopped.is_set()
        received += sum(len(response.chunk) for response in running)
        assert received == len(content)
        thread.join(10)
        assert stopped.is_set()


def test_stopping_does_not_wait_for_watchers(store):
    with run_server(store) as address:
        channel = plain(address)
        watching = stub_of(channel).WatchReleases(release_pb2.WatchReleasesRequest())
        next(watching)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert refusal(lambda: next(watching)) is grpc.StatusCode.UNAVAILABLE
    channel.close()


def test_metrics_and_log(store, content, capsys):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logger = logging.getLogger(LOGGER_NAME)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with run_server(store, options=ServeOptions(metrics_address=("127.0.0.1", port))) as address:
            download(address, artefact.digest(content))
            text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
            with (
                pytest.raises(DsvError, match="cannot serve metrics on .*--metrics-port"),
                run_server(store, options=ServeOptions(metrics_address=("127.0.0.1", port))),
            ):
                pass
    finally:
        logger.removeHandler(handler)
    assert 'feddsv_calls_total{code="OK",method="Download"} 1.0' in text
    assert f"feddsv_release_sent_bytes_total {float(len(content))}" in text and "feddsv_releases 1.0" in text
    [line] = [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"Download"' in line]
    assert line["event"] == "call" and line["code"] == "OK" and line["peer"] == "ipv4:127.0.0.1"


def test_a_fault_in_the_server_tells_the_peer_nothing(content, monkeypatch):
    store = MemoryStore()
    store.publish(content)
    with run_server(store) as address, plain(address) as channel:
        monkeypatch.setattr(store, "open", lambda digest: 1 / 0)
        request = release_pb2.DownloadRequest(digest=artefact.digest(content))
        with pytest.raises(grpc.RpcError) as caught:
            list(stub_of(channel).Download(request, timeout=10))
    assert caught.value.code() is grpc.StatusCode.INTERNAL and "division" not in caught.value.details()


def test_a_fault_while_looking_at_the_store_ends_no_watching(tmp_path, support_set, monkeypatch):
    store, digests = DirectoryStore(tmp_path / "store"), []
    digests.append(store.publish(release_bytes(support_set)))
    found = store.list
    with run_server(store, options=ServeOptions(look_interval_s=0.05)) as address:
        news = new_releases(Server(address), set(), sleep=lambda s: time.sleep(0.05))
        assert next(news).digest == digests[0]
        monkeypatch.setattr(store, "list", lambda: 1 / 0)
        time.sleep(0.3)
        monkeypatch.setattr(store, "list", found)
        digests.append(store.publish(release_bytes(support_set, 1)))
        assert next(news).digest == digests[1]
