"""What a store's keys sign, and what they do not: keys that are away, and lists that somebody else put there."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from federation import Federation, digests, release_bytes
from tuf.api.metadata import Metadata

from dsv import DsvError
from protos import artefact
from server.distribution import run_server
from server.serve_options import ServeOptions
from server.signed_releases import SignedRelease, named_targets


@pytest.fixture
def faulty(monkeypatch):
    """Lets reading one release of a store fail, until it is healed."""

    @contextmanager
    def broken(store, digest):
        read = store.read

        def fail(asked):
            if asked == digest:
                raise OSError(errno.EIO, "Input/output error")
            return read(asked)

        with monkeypatch.context() as patch:
            patch.setattr(store, "read", fail)
            yield

    return broken


def take_away(federation, *roles):
    for role in roles:
        [path] = federation.keys.glob(f"{role}-*.pem")
        path.unlink()


@pytest.mark.parametrize(("role", "days"), [("snapshot", 4), ("timestamp", 3.2)])
def test_what_ends_and_cannot_be_signed_anew_is_told(federation, role, days):
    take_away(federation, role)
    assert federation.publication.update([]) is False, "nothing nears its end"
    later = dataclasses.replace(federation.publication, now=lambda: datetime.now(UTC) + timedelta(days=days))
    with pytest.raises(DsvError, match=f"the {role} key is not in .*keys; bring it back, or do this where it is"):
        later.update([])
    assert later.overdue() == [role], "the others are fresh"


@pytest.mark.parametrize(
    ("days", "renewed"),
    [
        (1, set()),
        (2, {"timestamp"}),
        (4, {"snapshot", "timestamp"}),
        (44, {"snapshot", "timestamp"}),
        (46, {"targets", "snapshot", "timestamp"}),
    ],
)
def test_what_has_half_of_its_time_behind_it_is_signed_anew(federation, days, renewed):
    def versions():
        found = {}
        for role in ("targets", "snapshot", "timestamp"):
            copies = federation.metadata.glob(f"*{role}.json")
            found[role] = max(Metadata.from_file(str(path)).signed.version for path in copies)
        return found

    before = versions()
    later = dataclasses.replace(federation.publication, now=lambda: datetime.now(UTC) + timedelta(days=days))
    later.update([])
    assert {role for role, version in versions().items() if version > before[role]} == renewed


def test_what_was_signed_while_the_clock_was_ahead_is_signed_anew(federation):
    """Devices would notice a freeze in two years only."""
    ahead = dataclasses.replace(federation.publication, now=lambda: datetime.now(UTC) + timedelta(days=700))
    assert ahead.update([]) is True and federation.publication.update([]) is True
    soon = datetime.now(UTC) + timedelta(days=91)
    for role in ("targets", "snapshot", "timestamp"):
        copies = [Metadata.from_file(str(path)).signed for path in federation.metadata.glob(f"*{role}.json")]
        assert max(copies, key=lambda signed: signed.version).expires < soon
    assert federation.publication.update([]) is False


@pytest.mark.parametrize("role", ["snapshot", "timestamp"])
def test_a_server_does_not_start_without_the_keys_that_keep_metadata_fresh(federation, role):
    take_away(federation, role)
    with (
        pytest.raises(DsvError, match=f"the {role} key is not in .*keys; bring it back, or serve without --keys"),
        run_server(federation.store, options=ServeOptions(keys=federation.keys)),
    ):
        pass


def test_a_list_that_ends_and_is_signed_elsewhere_is_told_and_the_rest_kept_fresh(tmp_path, content, caplog):
    federation = Federation(tmp_path, now=lambda: datetime.now(UTC) - timedelta(days=46))
    federation.publish(content)
    take_away(federation, "targets", "root")
    options = ServeOptions(keys=federation.keys)
    with run_server(federation.store, options=options) as address:
        assert len(digests(federation.device(address))) == 1
    [said] = [record.fields for record in caplog.records if record.levelname == "ERROR"]
    assert "the targets key is not in" in said["reason"] and "; bring it back, or do this where it is" in said["reason"]


def test_a_release_that_only_an_absent_key_could_name_ends_no_trust(tmp_path, content, support_set, caplog):
    federation = Federation(tmp_path, now=lambda: datetime.now(UTC) - timedelta(days=4))
    federation.publish(content)  # timestamp and snapshot have ended since
    take_away(federation, "targets", "root")
    federation.store.publish(release_bytes(support_set, seed=1))
    options = ServeOptions(keys=federation.keys, look_interval_s=0.02)
    with run_server(federation.store, options=options) as address:
        [named] = digests(federation.device(address))
        federation.store.publish(release_bytes(support_set, seed=2))
        time.sleep(0.5)
        assert digests(federation.device(address)) == [named]
    told = [record.fields["reason"] for record in caplog.records if record.levelname == "ERROR"]
    assert 1 <= len(told) <= 4 and all("the targets key is not in" in reason for reason in told)


def drop(federation, name, source, **changes):
    """Put metadata under a name that outdoes the real one, without signing it anew."""
    metadata = Metadata.from_file(str(federation.metadata / source))
    for key, value in changes.items():
        setattr(metadata.signed, key, value)
    (federation.metadata / name).write_bytes(metadata.to_bytes())


def test_new_keys_do_not_sign_a_list_that_nobody_signed(federation, served, support_set):
    [release] = digests(served)
    other = SignedRelease(artefact.digest(release_bytes(support_set, 666)), 1000, 20, 10, "convnet:8")
    forged = named_targets([other], None)
    drop(federation, "9999.targets.json", "2.targets.json", version=9999, targets=forged)
    federation.publication.rotate("targets")
    assert digests(served) == [release]


def test_new_keys_do_not_sign_an_old_list_under_a_new_number(federation, served):
    [release] = digests(served)
    shutil.copy(federation.metadata / "1.targets.json", federation.metadata / "9999.targets.json")
    federation.publication.rotate("snapshot")
    assert digests(served) == [release]


def test_a_root_that_its_own_key_did_not_sign_is_not_followed(federation, served):
    drop(federation, "9.root.json", "1.root.json", version=9)
    with pytest.raises(DsvError, match="9.root.json is not signed by its own root key; remove it, or restore"):
        federation.publication.rotate("targets")


def test_nothing_is_replaced_where_the_list_counts_no_longer(federation, served):
    [release] = digests(served)
    for path in federation.metadata.glob("*.targets.json"):
        drop(federation, path.name, path.name, targets={}, expires=datetime.now(UTC))
    with pytest.raises(DsvError, match="holds no list of releases that its root vouches for; run 'dsv keys sign'"):
        federation.publication.rotate("timestamp")
    assert federation.publication.root().version == 1
    federation.sign()
    federation.publication.rotate("timestamp")
    assert digests(served) == [release]


def test_a_release_that_cannot_be_read_for_a_moment_stays_named_and_in_its_place(federation, support_set, faulty):
    """Also where the server starts in that moment, and has never read it."""
    older, newer = (federation.publish(release_bytes(support_set, seed)) for seed in range(2))
    os.utime(federation.store.path(older), (1, 1))
    options = ServeOptions(keys=federation.keys, look_interval_s=0.05)
    with faulty(federation.store, older), run_server(federation.store, options=options) as address:
        assert digests(federation.device(address)) == [newer, older]
        third = federation.store.publish(release_bytes(support_set, 2))
        deadline_s = time.monotonic() + 20
        while digests(federation.device(address)) != [third, newer, older]:
            assert time.monotonic() < deadline_s
    federation.sign()
    assert [release.digest for release in federation.publication.releases()] == [older, newer, third]


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(b"other")])
def test_a_release_that_is_gone_or_altered_is_named_no_longer(federation, support_set, harm):
    older, newer = (federation.publish(release_bytes(support_set, seed)) for seed in range(2))
    harm(federation.store.path(older))
    with run_server(federation.store, options=ServeOptions(keys=federation.keys)) as address:
        assert digests(federation.device(address)) == [newer]
