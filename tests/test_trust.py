"""The attacks that The Update Framework names, each against a real server, each with its clear error."""

from __future__ import annotations

import errno
import shutil
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from federation import Federation, digests, impostor, release_bytes
from tuf.api.metadata import Metadata

from client.download import download, list_releases
from client.server_link import Server, Trust
from client.verification import TrustError, signed_releases, state_folder
from dsv import DsvError
from protos.transport import MAX_MESSAGE_BYTES
from server.distribution import run_server
from server.serve_options import ServeOptions
from server.signed_releases import Lifetimes
from server.signing_keys import SigningKeys


def test_a_device_gets_what_was_signed_and_nothing_else(federation, served, support_set):
    [first] = digests(served)
    unsigned = federation.store.publish(release_bytes(support_set, 1))
    assert digests(served) == [first], "a release that nobody signed is not seen"
    federation.sign()
    assert digests(served) == [unsigned, first], "newest first"
    [newest, _] = list_releases(served)
    assert (newest.images_per_class, newest.teacher_architecture) == (2, "convnet:8")


def test_arbitrary_release_signed_with_another_key(federation, served, support_set, tmp_path):
    """Who holds the server, but not the keys, replaces all metadata by their own."""
    forger = Federation(tmp_path / "forger")
    forger.publish(release_bytes(support_set, 666))
    for path in forger.metadata.glob("*.json"):
        if not path.name.endswith("root.json"):
            shutil.copy(path, federation.metadata)
    with pytest.raises(TrustError, match="not signed by the keys .*root.json leads to .*forger"):
        digests(served)


def test_a_root_that_the_old_root_did_not_sign(federation, served, tmp_path):
    forger = Federation(tmp_path / "forger")
    forger.publication.rotate("timestamp")
    shutil.copy(forger.metadata / "2.root.json", federation.metadata)
    with pytest.raises(TrustError, match="not signed by the keys"):
        digests(served)


def test_replay_from_another_federation(federation, served, content, tmp_path):
    other = Federation(tmp_path / "other")
    other.publish(content)
    with run_server(other.store) as address:
        assert digests(other.device(address))
        with pytest.raises(TrustError, match="another federation's server"):
            digests(federation.device(address))
    assert digests(served), "and the device is none the worse for it"


def test_two_federations_share_no_memory(federation, tmp_path):
    other = Federation(tmp_path / "other")
    state = tmp_path / "device"
    assert state_folder(Trust(federation.root, state)) != state_folder(Trust(other.root, state))


@pytest.mark.parametrize("name", ["1.snapshot.json", "timestamp.json", "1.targets.json"])
def test_altered_metadata(tmp_path, name):
    federation = Federation(tmp_path)
    path = federation.metadata / name
    path.write_bytes(
        path.read_bytes().replace(b'"version": 1', b'"version": 7').replace(b'"version":1', b'"version":7')
    )
    with run_server(federation.store) as address, pytest.raises(TrustError, match="not signed|does not fit together"):
        digests(federation.device(address))


def test_truncated_metadata(federation, served):
    path = federation.metadata / "timestamp.json"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(TrustError, match="signed metadata is not usable"):
        digests(served)


def test_endless_metadata(federation):
    with (
        impostor(lambda name, context: [b" " * (MAX_MESSAGE_BYTES + 1)]) as (address, _),
        pytest.raises(DsvError, match="message without end"),
    ):
        digests(federation.device(address))
    with (
        impostor(lambda name, context: [b" " * 600_000]) as (address, _),
        pytest.raises(TrustError, match="longer than it may be: data without end"),
    ):
        digests(federation.device(address))


def test_metadata_as_a_decompression_bomb(federation):
    """64 MiB of blanks are 64 KiB on the wire."""
    with (
        impostor(lambda name, context: [b" " * (64 << 20)], grpc.Compression.Gzip) as (address, _),
        pytest.raises(DsvError, match="message without end"),
    ):
        digests(federation.device(address))


def test_rollback(federation, served, support_set, tmp_path):
    shutil.copytree(federation.metadata, tmp_path / "old")
    federation.publish(release_bytes(support_set, 1))
    assert len(digests(served)) == 2
    shutil.copytree(tmp_path / "old", federation.metadata, dirs_exist_ok=True)
    with pytest.raises(TrustError, match="older than what this device has seen: a rollback"):
        digests(served)


def test_freeze(tmp_path, content):
    """Metadata that was signed properly, four days ago, and that somebody keeps serving."""
    federation = Federation(tmp_path, now=lambda: datetime.now(UTC) - timedelta(days=4))
    federation.publish(content)
    with (
        run_server(federation.store) as address,
        pytest.raises(TrustError, match="out of date by this device's clock .*or the clock is"),
    ):
        digests(federation.device(address))


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_is_wrong_by_a_day(tmp_path, content, days):
    """Ahead or behind: metadata that is kept fresh, and so has half of its life left at least, is believed."""
    half = Lifetimes().timestamp / 2
    federation = Federation(tmp_path, now=lambda: datetime.now(UTC) + timedelta(days=days))
    federation.publish(content)
    with run_server(federation.store) as address:
        assert len(digests(federation.device(address))) == 1
    assert half > timedelta(days=1)


def test_mix_and_match(federation, served, support_set):
    """The newest timestamp with an older list of releases under the newer name."""
    federation.publish(release_bytes(support_set, 1))
    numbers = sorted(int(path.name.split(".")[0]) for path in federation.metadata.glob("*.targets.json"))
    old, new = (federation.metadata / f"{number}.targets.json" for number in numbers[-2:])
    shutil.copy(old, new)
    with pytest.raises(TrustError, match="does not fit together: altered, or mixed"):
        digests(served)


def test_data_of_one_release_under_the_name_of_another(served, support_set, tmp_path):
    [release] = list_releases(served)
    other = release_bytes(support_set, 1)
    with impostor(lambda offset, context: [other[offset:]]) as (address, _):
        liar = Server(address, trust=served.trust)
        with pytest.raises(DsvError, match="its digest differs"):
            download(liar, release.digest, size_bytes=len(other), folder=tmp_path / "got")
    assert list((tmp_path / "got").iterdir()) == [], "nothing of it is kept"


def test_fast_forward_and_recovery(federation, served, content, tmp_path):
    """Stolen keys drive the version up; new keys let devices forget it."""
    assert digests(served)
    shutil.copytree(federation.metadata, tmp_path / "honest")
    path = federation.metadata / "timestamp.json"
    metadata = Metadata.from_file(str(path))
    metadata.signed.version = 2**30
    root = federation.publication.root()
    metadata.sign(SigningKeys(federation.keys).load("timestamp", root.keys[root.roles["timestamp"].keyids[0]]))
    path.write_bytes(metadata.to_bytes())
    assert digests(served), "the thief's version counts"
    shutil.copytree(tmp_path / "honest", federation.metadata, dirs_exist_ok=True)
    with pytest.raises(TrustError, match="older than what this device has seen"):
        digests(served)
    for role in ("snapshot", "timestamp"):
        federation.publication.rotate(role)
    assert len(digests(served)) == 1


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_key_rotation_in_mid_life(federation, served, support_set, role):
    assert len(digests(served)) == 1
    root = federation.publication.root()
    old = root.roles[role].keyids[0]
    stolen = SigningKeys(federation.keys).load(role, root.keys[old])
    federation.publication.rotate(role)
    federation.publish(release_bytes(support_set, 1))
    assert len(digests(served)) == 2, "devices follow"
    current = federation.publication.root()
    assert current.version == 2 and current.roles[role].keyids != [old]
    if role == "timestamp":
        path = federation.metadata / "timestamp.json"
        metadata = Metadata.from_file(str(path))
        metadata.signed.version += 1
        metadata.sign(stolen)
        path.write_bytes(metadata.to_bytes())
        with pytest.raises(TrustError, match="not signed"):
            digests(served)


def test_many_rotations_are_followed_by_a_device_that_slept(federation, served):
    for role in ("root", "timestamp", "root", "snapshot", "targets"):
        federation.publication.rotate(role)
    assert len(digests(served)) == 1


def test_a_server_that_signs_keeps_metadata_fresh(federation, content, support_set):
    """Half of its life over, the timestamp is signed anew; new releases are signed when they are seen."""
    options = ServeOptions(
        keys=federation.keys, lifetimes=Lifetimes(timestamp=timedelta(seconds=8)), look_interval_s=0.05
    )
    with run_server(federation.store, options=options) as address:
        device = federation.device(address)
        before = Metadata.from_file(str(federation.metadata / "timestamp.json")).signed.version
        federation.store.publish(content)
        deadline = datetime.now(UTC) + timedelta(seconds=20)
        while Metadata.from_file(str(federation.metadata / "timestamp.json")).signed.version < before + 2:
            assert datetime.now(UTC) < deadline
        assert len(digests(device)) == 1


def test_a_folder_of_metadata_that_cannot_be_written(federation, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("server.publication.locked", refuse)
    with pytest.raises(DsvError, match="cannot write into .*metadata: Permission denied; see to its rights"):
        federation.publication.update([])


def test_a_server_without_metadata(federation, content, tmp_path):
    from server.store import MemoryStore

    store = MemoryStore()
    store.publish(content)
    with run_server(store) as address, pytest.raises(TrustError, match="is not there: serve with --keys"):
        digests(federation.device(address))


@pytest.mark.parametrize("text", ["", "{}", "not json", None])
def test_a_root_that_is_none(tmp_path, text):
    path = tmp_path / "root.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DsvError, match="is no root.json|cannot read root"):
        signed_releases(Server("127.0.0.1:1"), Trust(path, tmp_path))


def test_other_machines_need_tls_and_trust(federation, tmp_path):
    from client.server_link import DeviceTls

    with pytest.raises(DsvError, match="on another machine .* --ca, or --insecure"):
        Server("10.1.2.3:50061")
    with pytest.raises(DsvError, match="could be anybody's; give .* with --trust, or --insecure"):
        Server("example.org:50061", tls=DeviceTls(tmp_path / "ca.pem"))
    Server("10.1.2.3:50061", insecure=True)
    Server("[::1]:50061")
