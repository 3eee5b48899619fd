"""Kills at random instants and full disks. The long ones are marked slow; docs/reliability.md has their counts."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from federation import Federation, big_release, release_bytes

from client.download import download, list_releases
from client.slowness import Patience
from dsv import DsvError
from protos import artefact
from protos.transport import RELEASE_SUFFIX
from server.catalogue import Catalogue
from server.distribution import run_server
from server.publication import Publication
from server.signing_keys import SigningKeys
from server.store import DirectoryStore

KILLS = 200
DOWNLOADS = 100


PUBLISHER = """
import os, random, sys
from pathlib import Path
from federation import release_bytes
from protos import artefact
from server.catalogue import Catalogue
from server.publication import Publication
from server.signing_keys import SigningKeys
from server.store import DirectoryStore

store = DirectoryStore(Path(sys.argv[1]))
publication = Publication(store.metadata_folder, SigningKeys(Path(sys.argv[2])))
support_set = artefact.decode(store.read(sys.argv[3]))
for line in sys.stdin:
    child = os.fork()
    if child:
        print(child, flush=True)
        os.waitpid(child, 0)
        print("dead", flush=True)
        continue
    catalogue = Catalogue(store, max_release_bytes=1 << 30)
    while True:
        store.publish(release_bytes(support_set, random.getrandbits(60)))
        entries = catalogue.list()
        for entry in entries[4:]:
            store.path(entry.release.digest).unlink(missing_ok=True)
        publication.update([entry.to_signed() for entry in reversed(entries[:4])])
"""
"""Forks what is killed: a process that publishes a new release, signs, and withdraws old ones, again and again."""


@pytest.mark.slow
def test_a_store_that_is_killed_200_times_always_opens_and_every_release_verifies(tmp_path, support_set):
    federation, listed = Federation(tmp_path), 0
    digest = federation.publish(release_bytes(support_set))
    folder = federation.folder / "store"
    publisher = subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, str(folder), str(federation.keys), digest],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        for kill in range(KILLS):
            publisher.stdin.write("go\n")
            publisher.stdin.flush()
            child = int(publisher.stdout.readline())
            time.sleep(random.uniform(0, 0.1))
            os.kill(child, signal.SIGKILL)
            assert publisher.stdout.readline() == "dead\n"
            listed += check_store(federation, through_a_server=kill % 20 == 0)
    finally:
        publisher.kill()
        publisher.communicate()
    print(f"{KILLS} kills, {listed} releases verified")
    assert listed > KILLS


def check_store(federation, through_a_server):
    """The store opens, every release in it is whole, and all four roles are validly signed; returns their number."""
    store = DirectoryStore(federation.folder / "store")
    releases = store.list()
    for release in releases:
        content = store.read(release.digest)
        assert artefact.digest(content) == release.digest
        artefact.decode(content)
    assert set(federation.publication.expiries()) == {"root", "targets", "snapshot", "timestamp"}
    if through_a_server:
        federation.sign()
        with run_server(store) as address:
            assert len(list_releases(federation.device(address))) == len(releases)
    return len(releases)


def serve(store, port):
    command = [sys.executable, "-m", "deploy.cli", "serve", "--store", str(store), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert "interrupt to stop" in process.stdout.readline()
    return process


@pytest.mark.slow
def test_a_server_killed_during_100_downloads_all_of_which_finish_after_its_restart(tmp_path, support_set):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = DirectoryStore(tmp_path / "store")
    digest = store.publish(big_release(support_set))
    size_bytes = store.list()[0].size_bytes
    results = []

    def newcomer(number):
        patience = Patience(give_up_after_s=300)
        got = download(f"127.0.0.1:{port}", digest, folder=tmp_path / "got" / str(number), patience=patience)
        results.append(got.bytes_down)

    process = serve(tmp_path / "store", port)
    threads = [threading.Thread(target=newcomer, args=(number,)) for number in range(DOWNLOADS)]
    for thread in threads:
        thread.start()
    try:
        while sum(path.stat().st_size for path in (tmp_path / "got").glob("*/.partial-*")) < 10 * size_bytes:
            time.sleep(0.01)
        process.kill()
        process.wait()
        unfinished = DOWNLOADS - len(results)
        process = serve(tmp_path / "store", port)
        for thread in threads:
            thread.join(300)
    finally:
        process.kill()
        process.wait()
    found = [path.read_bytes() for path in (tmp_path / "got").glob(f"*/{digest}{RELEASE_SUFFIX}")]
    assert len(found) == len(results) == DOWNLOADS and unfinished > 0
    assert all(artefact.digest(content) == digest for content in found)
    fetched = sum(results) / (size_bytes * DOWNLOADS)
    print(
        f"{unfinished} of {DOWNLOADS} were on their way when the server was killed; {fetched:.3f} times the bytes came"
    )
    assert fetched < 1.1, "they went on where they were"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_while_publishing(small_disk, support_set, tmp_path):
    store = DirectoryStore(small_disk)
    publication = Publication(store.metadata_folder, SigningKeys(tmp_path / "keys"))
    publication.create()
    small = [store.publish(release_bytes(support_set, seed)) for seed in range(2)]
    publication.update([entry.to_signed() for entry in Catalogue(store, max_release_bytes=1 << 30).list()])
    filler = small_disk / "filler"
    with pytest.raises(OSError), filler.open("wb", buffering=0) as opened:
        while True:
            opened.write(b"x" * 4096)
    with pytest.raises(DsvError, match="cannot publish into .*No space left on device; free space"):
        store.publish(release_bytes(support_set, 2))
    with pytest.raises(DsvError, match="cannot sign into .*No space left on device; free space"):
        publication.update([])
    assert {release.digest for release in store.list()} == set(small), "what was there is there"
    assert {release.digest for release in publication.releases()} == set(small) and len(publication.expiries()) == 4
    filler.unlink()
    store.publish(release_bytes(support_set, 2))
    assert len(store.list()) == 3
    assert not [path for path in small_disk.rglob(".publishing-*")], "and nothing was left behind"


def test_a_full_disk_while_downloading(small_disk, support_set, tmp_path):
    content = big_release(support_set)
    store = DirectoryStore(tmp_path / "store")
    digest = store.publish(content)
    with run_server(store) as address:
        with pytest.raises(DsvError, match=f"cannot keep release {digest} in .*No space left on device; free space"):
            download(address, digest, folder=small_disk)
        partial = small_disk / f".partial-{digest}"
        assert content.startswith(partial.read_bytes()) and partial.stat().st_size > 0
        subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
        got = download(address, digest, folder=small_disk)
    assert got.content == content and got.bytes_down < len(content), "space was freed, and it went on"
