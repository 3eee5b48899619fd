"""The distribution commands as their users meet them."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from command_line import dsv, refused
from federation import Federation, release_bytes

from client.download import download
from client.server_link import BreakError, Server
from client.slowness import Patience
from deploy.newcomer import watch_releases
from protos import artefact
from protos.transport import RELEASE_SUFFIX
from server.distribution import run_server
from server.store import DirectoryStore
from server.tokens import Tokens


@pytest.fixture
def store(tmp_path, support_set):
    store = DirectoryStore(tmp_path / "store")
    store.publish(release_bytes(support_set))
    return store


def signed(tmp_path):
    return ("--store", tmp_path / "store", "--keys", tmp_path / "keys")


def fails_to_read(store, digest):
    raise OSError(errno.EIO, "Input/output error")


def test_keys(store, tmp_path, support_set):
    made = dsv("keys", "init", *signed(tmp_path))
    assert made.exit_code == 0 and "hand every device this file: " in made.output
    root = Path(made.output.splitlines()[0].split(": ")[1])
    assert root.name == "1.root.json"
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()}
    assert modes == {0o600} and (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    refused("is signed already; replace its keys with 'dsv keys rotate'", "keys", "init", *signed(tmp_path))
    store.publish(release_bytes(support_set, 1))
    assert dsv("keys", "sign", *signed(tmp_path)).output == "2 releases are signed\n"
    assert dsv("keys", "sign", *signed(tmp_path)).output == "2 releases are signed already, and their list is fresh\n"
    [key] = (tmp_path / "keys").glob("snapshot-*.pem")
    key.chmod(0o644)
    refused("can be read by others", "keys", "sign", *signed(tmp_path))
    key.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DirectoryStore, "read", fails_to_read)
        refused("cannot be read now; see to its rights or its disk", "keys", "sign", *signed(tmp_path))
    assert dsv("keys", "rotate", *signed(tmp_path), "--role", "timestamp", "--role", "root").exit_code == 0
    [offline] = (tmp_path / "keys").glob("root-*.pem")
    offline.rename(tmp_path / "safe")
    shown = dsv("keys", "show", *signed(tmp_path)).output.splitlines()
    assert len(shown) == 4 and "key elsewhere" in shown[0] and all("key at hand" in line for line in shown[1:])
    store_alone = ("--store", tmp_path / "store", "--keys", tmp_path / "none")
    refused("none do not exist; name the folder", "keys", "show", *store_alone)
    refused("the root key is not in", "keys", "rotate", *signed(tmp_path), "--role", "targets")
    [open_key] = (tmp_path / "keys").glob("targets-*.pem")
    open_key.chmod(0o644)
    store.publish(release_bytes(support_set, 2))
    refused(f"key {open_key} can be read by others: run 'chmod 600", "keys", "sign", *signed(tmp_path))


def test_a_store_without_keys(store, tmp_path):
    for command in (["show"], ["sign"], ["rotate", "--role", "root"]):
        refused("typo does not exist", "keys", *command, "--store", tmp_path / "typo", "--keys", tmp_path / "keys")
    assert not (tmp_path / "typo").exists()
    refused("begin with 'dsv keys init'", "keys", "show", *signed(tmp_path))
    refused("begin with 'dsv keys init'", "keys", "rotate", *signed(tmp_path), "--role", "root")
    refused("begin with 'dsv keys init'", "serve", *signed(tmp_path), "--port", 0)


def test_tokens(tmp_path):
    made = dsv("keys", "token", "--tokens", tmp_path / "tokens", "device-1")
    assert made.exit_code == 0 and len(made.output.strip()) > 40
    refused("cannot write tokens .: it is a folder", "keys", "token", "--tokens", "", "device-1")
    refused("a token's name is one word", "keys", "token", "--tokens", tmp_path / "tokens", "device 2")


def test_a_tokens_file_is_never_spoiled(tmp_path):
    path = tmp_path / "tokens"
    first = Tokens.add(path, "device-1")
    path.write_bytes(path.read_bytes().rstrip(b"\n"))  # as an editor may leave it
    second = Tokens.add(path, "device-2")
    assert [Tokens.read(path).name_of(token) for token in (first, second)] == ["device-1", "device-2"]
    path.write_bytes(b"something else")
    refused(f"{path} is no file of tokens", "keys", "token", "--tokens", path, "device-3")
    assert path.read_bytes() == b"something else"
    refused("cannot read tokens", "keys", "token", "--tokens", tmp_path, "device-3")


def test_two_tokens_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda name: Tokens.add(tmp_path / "tokens", name), map(str, range(8))))
    assert sorted(filter(None, map(Tokens.read(tmp_path / "tokens").name_of, tokens))) == list(map(str, range(8)))


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("other machines reach 0.0.0.0, and without TLS", ["--host", "0.0.0.0"]),
        ("TLS needs both --certificate and --key", ["--certificate", "c.pem"]),
        ("TLS needs both --certificate and --key", ["--client-ca", "c.pem"]),
        ("cannot read TLS key none.key", ["--certificate", "none.pem", "--key", "none.key"]),
        ("cannot read tokens none", ["--tokens", "none"]),
        ("are no pair in PEM", ["--certificate", __file__, "--key", __file__]),
        ("nan is not a number", ["--timestamp-hours", "nan"]),
        ("is not in the range", ["--timestamp-hours", "-5"]),
        ("is not in the range", ["--drain-s", "inf"]),
        ("is not in the range", ["--peer-calls-per-s", "0"]),
    ],
)
def test_servers_that_are_not_started(store, tmp_path, message, arguments):
    refused(message, "serve", "--store", tmp_path / "store", "--port", 0, *arguments)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("server 10.0.0.1:1 is on another machine and without TLS", ["--server", "10.0.0.1:1"]),
        ("could be anybody's; give the federation's root.json", ["--server", "10.0.0.1:1", "--ca", "ca.pem"]),
        ("--certificate and --key are for TLS", ["--server", "127.0.0.1:1", "--key", "k.pem"]),
        ("cannot read a token from none", ["--server", "127.0.0.1:1", "--token-file", "none"]),
        ("cannot read CA none.pem", ["--server", "127.0.0.1:1", "--ca", "none.pem"]),
        ("cannot read root none.json", ["--server", "127.0.0.1:1", "--trust", "none.json"]),
        ("holds no certificate in PEM", ["--server", "127.0.0.1:1", "--ca", __file__]),
        ("cannot read a token from", ["--server", "127.0.0.1:1", "--token-file", __file__]),
        ("address '127.0.0.1' is not HOST:PORT", ["--server", "127.0.0.1"]),
        ("is not HOST:PORT", ["--server", "http://127.0.0.1:1"]),
    ],
)
def test_devices_that_are_told_what_is_missing(message, arguments, tmp_path):
    refused(message, "bootstrap", *arguments)
    refused(message, "watch", "--folder", tmp_path / "got", *arguments)


def test_watch_refuses_a_state_that_nothing_is_kept_in(tmp_path):
    options = ("watch", "--server", "127.0.0.1:1", "--folder", tmp_path / "got", "--state", tmp_path / "state")
    refused("--state keeps what --trust must remember", *options)
    assert not (tmp_path / "got").exists()


def test_bootstrap_with_trust_keeps_what_it_fetched(tmp_path, support_set):
    federation = Federation(tmp_path)
    content = release_bytes(support_set)
    digest = federation.publish(content)
    with run_server(federation.store) as address:
        common = ("bootstrap", "--server", address, "--newcomer-steps", 1, "--quiet", "--state", tmp_path / "state")
        trusted = (*common, "--trust", federation.root)
        assert f"downloaded {digest}: 20 images" in dsv(*trusted).output
        assert ": 20 images, 0 B" in dsv(*trusted).output, "it is there already"
        other = Federation(tmp_path / "other")
        refused("another federation's server", *common, "--trust", other.root)
    assert [path.read_bytes() for path in (tmp_path / "state").glob(f"*/releases/*{RELEASE_SUFFIX}")] == [content]


def test_a_watch_tells_why_it_waits(tmp_path, support_set, monkeypatch):
    """A server that is away, before or in the middle of a download, ends no watch; its reason is told once."""
    content, tries, said = release_bytes(support_set), [], []

    def breaking(*arguments, **named):
        tries.append(0)
        if len(tries) < 4:
            raise BreakError("away")
        return download(*arguments, **named)

    monkeypatch.setattr("deploy.newcomer.download", breaking)
    monkeypatch.setattr("client.watch._RETRY_S", 0.1)
    store = DirectoryStore(tmp_path / "store")
    store.publish(content)
    with run_server(store) as address:
        watch_releases(Server(address), tmp_path / "got", 1, lambda name: None, said.append)
    assert said == ["away; trying on"] and len(list((tmp_path / "got").glob("*.dsv"))) == 1


def test_a_watch_goes_on_without_a_release_that_it_cannot_have(tmp_path, support_set, monkeypatch):
    store, said = DirectoryStore(tmp_path / "store"), []
    names = []
    for seed in range(3):
        names.append(store.publish(release_bytes(support_set, seed)))
        os.utime(store.path(names[-1]), (seed, seed))

    def withdrawn(server, digest, **named):
        if digest == names[0]:
            store.path(digest).unlink(missing_ok=True)  # while it is fetched
        return download(server, digest, patience=Patience(give_up_after_s=0.1), **named)

    opened = store.open

    def broken(digest):
        if digest == names[1]:
            raise OSError(errno.EIO, "Input/output error")
        return opened(digest)

    monkeypatch.setattr("deploy.newcomer.download", withdrawn)
    with run_server(store) as address:
        monkeypatch.setattr(store, "open", broken)
        watch_releases(Server(address), tmp_path / "got", 1, lambda name: None, said.append)
    assert [path.stem for path in (tmp_path / "got").glob("*.dsv")] == [names[2]]
    gone, unreadable = said
    assert gone.endswith(f"has no such release; list its releases; going on without {names[0]}")
    assert unreadable.endswith(
        f"cannot answer for now: release {names[1]} cannot be read now: Input/output error; trying on"
    )


def test_watch(tmp_path, support_set):
    federation = Federation(tmp_path)
    names = [federation.publish(release_bytes(support_set, seed)) for seed in range(2)]
    with run_server(federation.store) as address:
        place = ("--server", address, "--trust", federation.root, "--state", tmp_path / "state")
        done = dsv("watch", *place, "--folder", tmp_path / "got", "--count", 2)
    assert done.exit_code == 0
    assert done.output.splitlines() == [str(tmp_path / "got" / (name + RELEASE_SUFFIX)) for name in names]
    assert artefact.load(done.output.splitlines()[0]).images.shape == (20, 1, 8, 8)


def test_a_server_process_logs_json_signs_counts_and_stops_on_a_signal(store, tmp_path):
    dsv("keys", "init", *signed(tmp_path))
    command = [sys.executable, "-m", "deploy.cli", "serve", *map(str, signed(tmp_path)), "--port", "0"]
    served = subprocess.Popen(
        [*command, "--metrics-port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        address = served.stdout.readline().split(" on ")[1].split(";")[0]
        metrics = json.loads(served.stderr.readline())["url"]
        done = dsv("watch", "--server", address, "--folder", tmp_path / "got", "--count", 1)
        assert done.exit_code == 0, done.output
        text = urllib.request.urlopen(metrics, timeout=10).read().decode()
        assert 'feddsv_metadata_expires_unix_s{role="timestamp"}' in text and "feddsv_releases 1.0" in text
        os.kill(served.pid, signal.SIGTERM)
        _, log = served.communicate(timeout=20)
    finally:
        served.kill()
    assert served.returncode == 0
    events = [json.loads(line) for line in log.splitlines()]
    assert {"Download", "ListReleases"} <= {event.get("method") for event in events}
