"""What a SuperNode does not survive, and must not outlive either."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest
from server_door import nodes

from deploy.flower_nodes import SuperNode
from deploy.meter import meters
from deploy.processes import children, flower_process, free_port
from deploy.proxy import has_nginx
from deploy.supernode_process import _LOOK_S, _STARTER

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not has_nginx(), reason="nginx is not installed")]


@contextmanager
def online(server, operator, image_tree, name, gate):
    """A SuperNode of that name, whose way to its server is ``gate``, and its log."""
    keys, log = server.certs / "nodes" / name, server.folder / f"{name}.log"
    before = nodes(operator).count("online")
    operator.register(keys / "node.pub")
    node = SuperNode(keys, gate, image_tree, server.folder / name, free_port())
    with flower_process(node.command(), node.home, log) as child:
        deadline = time.monotonic() + 60
        while nodes(operator).count("online") == before and time.monotonic() < deadline:
            time.sleep(1)
        assert child.poll() is None
        yield child, log


@contextmanager
def breaking_off(address):
    """There, every connection is closed after its first bytes, as by a proxy that is ended during a TLS handshake."""

    def serve(door):
        with suppress(OSError):  # the door was closed
            while True:
                client, _ = door.accept()
                client.recv(65_536)
                client.close()

    with socket.create_server((address.host, address.port)) as door:
        threading.Thread(target=serve, args=(door,), daemon=True).start()
        yield
        door.shutdown(socket.SHUT_RDWR)


def test_a_supernode_that_gave_its_server_up_ends_so_that_it_is_started_again(server, operator, image_tree):
    with ExitStack() as stack:
        with meters() as relays:
            way = relays.relay("node0", server.gate)
            child, log = stack.enter_context(online(server, operator, image_tree, "node0", way))
        with breaking_off(way):
            assert child.wait(60) == 1
    assert "Flower gave the server up" in log.read_text()


def test_a_supernode_whose_child_that_starts_its_apps_was_killed_ends(server, operator, image_tree):
    with online(server, operator, image_tree, "node1", server.gate) as (child, log):
        deadline = time.monotonic() + 60
        while not (found := children(child.pid, _STARTER)) and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(_LOOK_S + 1)  # until it was seen
        [(starter, _)] = found
        os.kill(starter, signal.SIGKILL)
        assert child.wait(60) == 1
        assert "flower-superexec, which starts its apps, died: this SuperNode ends" in log.read_text()
