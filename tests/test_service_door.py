"""The service's door: tokens, certificates and limits; on real ports, with exact codes."""

from __future__ import annotations

import time

import grpc
import pytest
from federation import Authority, big_release, plain, refusal, release_bytes, stub_of
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from client.download import download, list_releases
from client.server_link import DeviceTls, Server
from dsv import DsvError
from protos import artefact, release_pb2
from protos.files import write_atomically
from protos.transport import AUTHORIZATION, BEARER
from server.distribution import run_server
from server.serve_options import Limits, ServeOptions, TlsFiles
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
        with run_server(store, options=ServeOptions(tokens=TokenFile(file))) as address:
            device = Server(address, token=token)
            assert [r.digest for r in list_releases(device)] == [digest]
            assert download(device, digest).content == content
            for wrong in ("", "nonsense", token[:-1]):
                with pytest.raises(DsvError, match="refused this device: .*token.*--token-file"):
                    list_releases(Server(address, token=wrong))

    def test_every_kind_of_call_asks_for_it(self, store, file, token):
        with run_server(store, options=ServeOptions(tokens=TokenFile(file))) as address, plain(address) as channel:
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

    @pytest.mark.parametrize("line", ["just a line", "name " + "A" * 64, "name " + "\u00e9" * 64, "name " + "0" * 63])
    def test_what_is_no_file_of_tokens(self, file, line):
        file.write_text(line + "\n", encoding="utf-8")
        with pytest.raises(DsvError, match="is no file of tokens: .* 'dsv keys token'"):
            Tokens.read(file)

    def test_a_running_server_takes_new_tokens_and_forgets_old_ones(self, store, file, token):
        with run_server(store, options=ServeOptions(tokens=TokenFile(file))) as address:
            third = Tokens.add(file, "third")
            assert list_releases(Server(address, token=third))
            write_atomically(file, file.read_bytes().splitlines(keepends=True)[2])
            assert list_releases(Server(address, token=third))
            with pytest.raises(DsvError, match="refused this device"):
                list_releases(Server(address, token=token))
            file.write_text("nonsense")
            assert list_releases(Server(address, token=third)), "what was last read counts"

    @pytest.mark.parametrize("instead", ["", "  ", "gone", "second " + "0" * 63])
    def test_a_token_is_taken_away_whatever_is_left_of_its_line(self, file, token, caplog, instead):
        first = Tokens.add(file, "other")
        tokens = TokenFile(file)
        lines = file.read_text().splitlines()
        lines[1] = instead
        file.write_text("\n".join(lines) + "\n")
        assert tokens.name_of(token) is None and tokens.name_of(first) == "other"
        said = [record.fields for record in caplog.records if record.levelname == "ERROR"]
        assert said == ([{"file": str(file), "lines": [2]}] if instead.strip() else [])
        if not instead.strip():
            assert TokenFile(file).name_of(first) == "other", "and a server starts with it"
            Tokens.add(file, "third")

    def test_a_file_without_a_line_lets_nobody_in(self, file, token):
        tokens = TokenFile(file)
        file.write_text("\n")
        assert tokens.name_of(token) is None


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

    def test_calls_without_a_token_are_an_address_s(self, store, tmp_path, caplog):
        """They have the same limit, no token of the same address suffers by them, and they fill no log."""
        caplog.set_level("INFO")
        token = Tokens.add(tmp_path / "tokens", "device")
        options = ServeOptions(
            tokens=TokenFile(tmp_path / "tokens"), limits=Limits(calls_per_s=0.001, burst_calls=3, concurrent_calls=10)
        )
        with run_server(store, options=options) as address, plain(address) as channel:
            ask = lambda: stub_of(channel).ListReleases(release_pb2.ListReleasesRequest(), timeout=10)  # noqa: E731
            codes = [refusal(ask) for _ in range(20)]
            assert list_releases(Server(address, token=token))
        assert codes == [grpc.StatusCode.UNAUTHENTICATED] * 3 + [grpc.StatusCode.RESOURCE_EXHAUSTED] * 17
        told = [record.fields["code"] for record in caplog.records if record.getMessage() == "call"]
        assert told == ["UNAUTHENTICATED"] * 3 + ["RESOURCE_EXHAUSTED", "OK"]

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

    def test_a_peer_whose_calls_run_is_not_forgotten_for_others(self, store, tmp_path, monkeypatch):
        monkeypatch.setattr("server.guard._PEERS_REMEMBERED", 1)
        names = ("first", "second")
        tokens = {name: ((AUTHORIZATION, BEARER + Tokens.add(tmp_path / "tokens", name)),) for name in names}
        options = ServeOptions(tokens=TokenFile(tmp_path / "tokens"), limits=Limits(concurrent_calls=1))
        with run_server(store, options=options) as address, plain(address) as channel:
            stub = stub_of(channel)
            watching = stub.WatchReleases(release_pb2.WatchReleasesRequest(), metadata=tokens["first"])
            next(watching)
            stub.ListReleases(release_pb2.ListReleasesRequest(), metadata=tokens["second"], timeout=10)
            again = lambda: stub.ListReleases(  # noqa: E731
                release_pb2.ListReleasesRequest(), metadata=tokens["first"], timeout=10
            )
            assert refusal(again) is grpc.StatusCode.RESOURCE_EXHAUSTED, "it has a call running"
            watching.cancel()

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

    def test_a_peer_that_does_not_read_leaves_turns_to_the_others(self, tmp_path, support_set):
        big, small = big_release(support_set), release_bytes(support_set)
        store, file = DirectoryStore(tmp_path / "store"), tmp_path / "tokens"
        store.publish(big)
        store.publish(small)
        greedy, other = (Tokens.add(file, name) for name in ("greedy", "other"))
        options = ServeOptions(limits=Limits(active_downloads=2), tokens=TokenFile(file))
        with run_server(store, options=options) as address, plain(address) as channel:
            shown = ((AUTHORIZATION, BEARER + greedy),)
            request = release_pb2.DownloadRequest(digest=artefact.digest(big))
            stalled = [stub_of(channel).Download(request, metadata=shown) for _ in range(3)]
            next(stalled[0])
            began_s = time.monotonic()
            assert download(Server(address, token=other), artefact.digest(small)).content == small
            assert time.monotonic() - began_s < 8, "a turn that is not used ends after 64 s"
            for call in stalled:
                call.cancel()
