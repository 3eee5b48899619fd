"""A device whose server breaks off in the middle of a TLS handshake."""

from __future__ import annotations

import time

import pytest
from relay import Relay
from server_door import nodes

from deploy.flower_nodes import SuperNode
from deploy.processes import flower_process, free_port
from deploy.proxy import has_nginx

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not has_nginx(), reason="nginx is not installed")]


def test_a_supernode_that_gave_its_server_up_ends_so_that_it_is_started_again(server, operator, image_tree):
    keys, log = server.certs / "nodes" / "node0", server.folder / "node0.log"
    operator.register(keys / "node.pub")
    with Relay(server.gate) as relay:
        node = SuperNode(keys, relay.address, image_tree, server.folder / "node0", free_port())
        with flower_process(node.command(), node.home, log) as child:
            deadline = time.monotonic() + 60
            while "online" not in nodes(operator) and time.monotonic() < deadline:
                time.sleep(1)
            assert child.poll() is None
            relay.break_off()
            assert child.wait(60) == 1
    assert "this SuperNode ends, to be started again" in log.read_text()
