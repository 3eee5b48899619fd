"""A way between a client and a server that breaks when a test says so."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from deploy.addresses import Address

_CHUNK_BYTES = 65_536


class Relay:
    """Carries TCP connections from a loopback port to ``target``.

    Once ``broken``, it cuts those that it carries, and closes every new one after the first bytes, as a proxy that is
    being ended does in the middle of a TLS handshake.
    """

    def __init__(self, target: Address) -> None:
        self._target = target
        self._door = socket.create_server((target.host, 0))
        self.address = Address(target.host, self._door.getsockname()[1])
        self._broken = threading.Event()
        self._carried: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self._door.close()
        self.break_off()

    def break_off(self) -> None:
        """See the class."""
        self._broken.set()
        for one in self._carried:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):  # the door was closed
            while True:
                self._serve(self._door.accept()[0])

    def _serve(self, client: socket.socket) -> None:
        if self._broken.is_set():
            client.recv(_CHUNK_BYTES)
            client.close()
            return
        server = socket.create_connection((self._target.host, self._target.port))
        self._carried += [client, server]
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(_CHUNK_BYTES):
            sink.sendall(content)
    for one in (source, sink):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
