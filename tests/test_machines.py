"""A server, two devices and a newcomer, each in a network of its own on a bad link, by docs/deploy.md's commands."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from namespaces import Network, network, permitted

from deploy.device_folders import write_digit_folders
from deploy.processes import flower_process

pytestmark = pytest.mark.slow
DSV = str(Path(sys.executable).parent / "dsv")
OPERATOR = ("--control", "127.0.0.1:9092")


@pytest.fixture(scope="module")
def machines():
    reason = permitted()
    if reason:
        pytest.skip(reason)
    with network(["server", "device0", "device1", "newcomer"]) as made:
        yield made


def patiently(machines: Network, machine: str, *command: str, wanted: str, timeout_s: float = 120) -> str:
    """Repeat a command until it prints what is wanted."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            printed = machines.run(machine, *command)
            if wanted in printed:
                return printed
        except AssertionError:
            printed = "it failed"
        assert time.monotonic() < deadline, printed
        time.sleep(2)


def test_a_federation_over_a_bad_link(machines, tmp_path):
    server = f"{machines.addresses['server']}:9093"
    certs, releases = tmp_path / "certs", tmp_path / "releases"
    data = write_digit_folders(tmp_path, 2)
    releases.mkdir()
    print(
        machines.run("server", DSV, "certs", "--out", str(certs), "--host", machines.addresses["server"], "--nodes=2")
    )
    operator = (*OPERATOR, "--authority", str(certs / "server" / "authority.crt"))

    with ExitStack() as stack:

        def start(machine: str, name: str, *command: str) -> None:
            home = tmp_path / name / "flower"
            stack.enter_context(flower_process([*machines.on(machine), DSV, *command], home, tmp_path / f"{name}.log"))

        own = ("--certs", str(certs / "server"))
        tls = ("--certificate", str(certs / "server" / "server.crt"), "--key", str(certs / "server" / "server.key"))
        start("server", "superlink", "deploy", "superlink", *own, "--state", str(tmp_path / "superlink"))
        start("server", "proxy", "deploy", "proxy", *own, "--state", str(tmp_path / "proxy"))
        signing = ("--store", str(releases), "--keys", str(tmp_path / "signing"))
        root = machines.run("server", DSV, "keys", "init", *signing).splitlines()[0].rpartition(": ")[2]
        start("server", "serve", "serve", *signing, "--host", machines.addresses["server"], *tls)
        for number in range(2):
            keys = str(certs / "nodes" / f"node{number}")
            checked = ("doctor", "--certs", keys, "--server", server, "--data", str(data[number]))
            patiently(machines, f"device{number}", DSV, *checked, wanted="closed to whoever")
            machines.run("server", DSV, "deploy", "register", *operator, f"{keys}/node.pub")
            joined = ("--keys", keys, "--server", server, "--data", str(data[number]))
            start(
                f"device{number}", f"n{number}", "deploy", "supernode", *joined, "--state", str(tmp_path / f"n{number}")
            )
        for number in range(2):
            log = tmp_path / f"n{number}.log"
            print(log.read_text()[-300:])
        patiently(machines, "server", DSV, "deploy", "nodes", *operator, wanted="online\n")
        began = time.monotonic()
        options = "--classes 0,1,2,3,4,5,6,7,8,9 --channels 1 --image-size-px 8 --rounds 2 --local-epochs 1"
        small = "--architecture convnet:8 --images-per-class 1 --iterations 4"
        run = machines.run(
            "server", DSV, "deploy", "run", *operator, "--store", str(releases), *options.split(), *small.split()
        )
        print(run, f"{time.monotonic() - began:.0f} s")
        assert "completed" in run
        trusted = ("--ca", str(certs / "nodes" / "node0" / "authority.crt"), "--trust", root)
        where = f"{machines.addresses['server']}:50061"
        got = machines.run(
            "newcomer", DSV, "bootstrap", "--server", where, "--newcomer-steps", "3", "--quiet", *trusted
        )
        print(got)
        assert "downloaded" in got
