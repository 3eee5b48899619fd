"""What a SuperNode does not survive, and must not outlive either."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager

import pytest
from relay import Relay
from server_door import nodes

from deploy.flower_nodes import SuperNode
from deploy.processes import children, flower_process, free_port
from deploy.proxy import has_nginx

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not has_nginx(), reason="nginx is not installed")]


@contextmanager
def online(server, operator, image_tree, name):
    """A SuperNode of that name, the way to its server, and its log."""
    keys, log = server.certs / "nodes" / name, server.folder / f"{name}.log"
    before = nodes(operator).count("online")
    operator.register(keys / "node.pub")
    with Relay(server.gate) as relay:
        node = SuperNode(keys, relay.address, image_tree, server.folder / name, free_port())
        with flower_process(node.command(), node.home, log) as child:
            deadline = time.monotonic() + 60
            while nodes(operator).count("online") == before and time.monotonic() < deadline:
                time.sleep(1)
            assert child.poll() is None
            yield child, relay, log


def test_a_supernode_that_gave_its_server_up_ends_so_that_it_is_started_again(server, operator, image_tree):
    with online(server, operator, image_tree, "node0") as (child, relay, log):
        relay.break_off()
        assert child.wait(60) == 1
        assert "Flower gave the server up" in log.read_text()


def test_a_supernode_whose_child_that_starts_its_apps_was_killed_ends(server, operator, image_tree):
    with online(server, operator, image_tree, "node1") as (child, _, log):
        deadline = time.monotonic() + 60
        while not (found := children(child.pid, "flower-superexec")) and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(6)  # until it was seen
        [(starter, _)] = found
        os.kill(starter, signal.SIGKILL)
        assert child.wait(60) == 1
        assert "flower-superexec, which starts its apps, died: this SuperNode ends" in log.read_text()
