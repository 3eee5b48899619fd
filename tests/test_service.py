"""The service's door and its end: tokens, certificates, limits, watching, draining; on real ports, with exact codes."""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from federation import Federation, release_bytes
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from client.download import download, list_releases
from client.server_link import DeviceTls, Server
from client.watch import new_releases
from dsv import DsvError
from protos import artefact, release_pb2, release_pb2_grpc
from server.distribution import SERVICE_NAME, run_server
from server.metrics import LOGGER_NAME, JsonLines
from server.serve_options import Limits, ServeOptions, TlsFiles, Tokens
from server.store import DirectoryStore, MemoryStore


@pytest.fixture(scope="module")
def content(support_set):
    return release_bytes(support_set)


@pytest.fixture
def store(content):
    store = MemoryStore()
    store.publish(content)
    return store


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


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "authority")


def refusal(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()


def plain(address):
    return grpc.insecure_channel(address)


def stub_of(channel):
    return release_pb2_grpc.ReleaseServiceStub(channel)


class TestTokens:
    @pytest.fixture
    def file(self, tmp_path):
        return tmp_path / "tokens"

    @pytest.fixture
    def token(self, file):
        Tokens.add(file, "first")
        return Tokens.add(file, "second")

    def test_only_who_has_one_gets_in(self, store, file, token, content):
        digest = artefact.digest(content)
        with run_server(store, options=ServeOptions(tokens=Tokens.read(file))) as address:
            device = Server(address, token=token)
            assert [r.digest for r in list_releases(device)] == [digest]
            assert download(device, digest).content == content
            for wrong in ("", "nonsense", token[:-1]):
                with pytest.raises(DsvError, match="refused this device: .*token.*--token-file"):
                    list_releases(Server(address, token=wrong))

    def test_every_kind_of_call_asks_for_it(self, store, file, token):
        with run_server(store, options=ServeOptions(tokens=Tokens.read(file))) as address, plain(address) as channel:
            stub, digest = stub_of(channel), "0" * 64
            asks = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
            question = reflection_pb2.ServerReflectionRequest(list_services="")
            calls = (
                lambda: stub.ListReleases(release_pb2.ListReleasesRequest(), timeout=10),
                lambda: stub.GetMetadata(release_pb2.GetMetadataRequest(name="timestamp.json"), timeout=10),
                lambda: stub.GetReleaseManifest(release_pb2.GetReleaseManifestRequest(digest=digest), timeout=10),
                lambda: list(stub.Download(release_pb2.DownloadRequest(digest=digest), timeout=10)),
                lambda: list(stub.WatchReleases(release_pb2.WatchReleasesRequest(), timeout=10)),
                lambda: list(asks(iter([question]), timeout=10)),
            )
            assert {refusal(call) for call in calls} == {grpc.StatusCode.UNAUTHENTICATED}
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert health.status == health_pb2.HealthCheckResponse.SERVING, "probes hold no token"

    def test_the_file_lets_nobody_in(self, file, token):
        assert token not in file.read_text() and file.stat().st_mode & 0o777 == 0o600
        for line in file.read_text().split():
            assert Tokens.read(file).name_of(line) is None
        assert Tokens.read(file).name_of(token) == "second"

    def test_what_is_no_file_of_tokens(self, file):
        file.write_text("just a line\n")
        with pytest.raises(DsvError, match="is no file of tokens: .* 'dsv keys token'"):
            Tokens.read(file)


class TestTls:
    def test_a_server_with_a_certificate(self, store, authority, content, tmp_path):
        options = ServeOptions(tls=TlsFiles(*authority.pair("server")))
        with run_server(store, options=options) as address:
            trusted = Server(address, tls=DeviceTls(authority.ca))
            assert download(trusted, artefact.digest(content)).content == content
            other = Authority(tmp_path / "other")
            with pytest.raises(DsvError, match="cannot be reached.*--ca"):
                list_releases(Server(address, tls=DeviceTls(other.ca)))
            with pytest.raises(DsvError, match="cannot be reached.*whether it asks for TLS"):
                list_releases(address)

    def test_devices_with_certificates(self, store, authority, tmp_path):
        options = ServeOptions(tls=TlsFiles(*authority.pair("server"), client_ca=authority.ca))
        stranger = Authority(tmp_path / "stranger").pair("device")
        with run_server(store, options=options) as address:
            assert len(list_releases(Server(address, tls=DeviceTls(authority.ca, *authority.pair("device"))))) == 1
            for tls in (DeviceTls(authority.ca), DeviceTls(authority.ca, *stranger)):
                with pytest.raises(DsvError, match="cannot be reached.*device's certificate|cannot be reached"):
                    list_releases(Server(address, tls=tls))

    def test_files_that_cannot_be_used(self, store, authority, tmp_path):
        certificate, _ = authority.pair("server")
        with (
            pytest.raises(DsvError, match="cannot read TLS key"),
            run_server(store, options=ServeOptions(tls=TlsFiles(certificate, tmp_path / "none"))),
        ):
            pass
        with pytest.raises(DsvError, match="certificate and its key go together"):
            list_releases(Server("127.0.0.1:1", tls=DeviceTls(authority.ca, certificate)))


class TestLimits:
    def test_calls_a_second(self, store):
        limits = Limits(calls_per_s=1, burst_calls=3)
        with run_server(store, options=ServeOptions(limits=limits)) as address, plain(address) as channel:
            stub = stub_of(channel)
            for _ in range(3):
                stub.ListReleases(release_pb2.ListReleasesRequest(), timeout=10)
            ask = lambda: stub.ListReleases(release_pb2.ListReleasesRequest(), timeout=10)  # noqa: E731
            assert refusal(ask) is grpc.StatusCode.RESOURCE_EXHAUSTED
            time.sleep(1.1)
            ask()

    def test_calls_at_once(self, store):
        options = ServeOptions(limits=Limits(concurrent_calls=2))
        with run_server(store, options=options) as address, plain(address) as channel:
            stub = stub_of(channel)
            watching = [stub.WatchReleases(release_pb2.WatchReleasesRequest()) for _ in range(2)]
            for call in watching:
                next(call)
            again = lambda: next(stub.WatchReleases(release_pb2.WatchReleasesRequest()))  # noqa: E731
            assert refusal(again) is grpc.StatusCode.RESOURCE_EXHAUSTED
            watching[0].cancel()
            deadline = time.monotonic() + 10
            while True:  # the server hears of the cancellation a little later
                try:
                    assert again().release.images == 20
                    break
                except grpc.RpcError:
                    assert time.monotonic() < deadline

    def test_a_release_above_the_limit_is_not_served(self, store, content):
        limits = Limits(max_release_bytes=len(content) - 1)
        with run_server(store, options=ServeOptions(limits=limits)) as address:
            assert list_releases(address) == []
            with pytest.raises(DsvError, match=f"DATA_LOSS: .*above this server's limit of {len(content) - 1} bytes"):
                download(address, artefact.digest(content))

    def test_a_request_above_the_limit(self, store):
        with run_server(store) as address, plain(address) as channel:
            request = release_pb2.DownloadRequest(digest="0" * 100_000)
            code = refusal(lambda: list(stub_of(channel).Download(request, timeout=10)))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED

    def test_a_device_that_does_not_read_gives_its_turn_up(self, tmp_path, support_set, monkeypatch):
        """One that reads gets its release although another one, which does not, came first."""
        monkeypatch.setattr("server.release_service._MIN_STALL_S", 0.3)
        big, small = big_release(support_set), release_bytes(support_set)
        store = DirectoryStore(tmp_path)
        store.publish(big)
        store.publish(small)
        limits = Limits(active_downloads=1, min_bytes_per_s=1e9)
        with run_server(store, options=ServeOptions(limits=limits)) as address, plain(address) as channel:
            stalled = stub_of(channel).Download(release_pb2.DownloadRequest(digest=artefact.digest(big)))
            next(stalled)
            assert download(address, artefact.digest(small)).content == small
            assert refusal(lambda: list(stalled)) is grpc.StatusCode.ABORTED


def big_release(support_set):
    """16 MB: more than flow control lets a server send unread."""
    import dataclasses

    import torch

    count = 16_000_000 // 64
    return artefact.encode(
        dataclasses.replace(
            support_set,
            images=torch.zeros(count, 1, 8, 8, dtype=torch.uint8),
            labels=torch.zeros(count, dtype=torch.int64),
            soft_labels=torch.zeros(count, 10),
            multipliers=torch.zeros(count),
        )
    )


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


def test_a_watcher_that_is_refused_for_good_ends(store, tmp_path):
    Tokens.add(tmp_path / "tokens", "other")
    options = ServeOptions(tokens=Tokens.read(tmp_path / "tokens"))
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
