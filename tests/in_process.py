"""A Flower grid without a network: nodes are functions from message to reply."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flwr.app import Message
from flwr.serverapp import Grid

Client = Callable[[Message], Message]


class InProcessGrid(Grid):
    """Hands messages straight on, to nodes 100, 101, ..."""

    def __init__(self, clients: list[Client]) -> None:
        self.clients = {100 + number: client for number, client in enumerate(clients)}

    def set_run(self, run) -> None: ...

    @property
    def run(self): ...

    def create_message(self, *args, **kwargs): ...

    def get_node_ids(self) -> Iterable[int]:
        return list(self.clients)

    def push_messages(self, messages): ...

    def pull_messages(self, message_ids): ...

    def send_and_receive(self, messages, *, timeout=None):
        return [self.clients[message.metadata.dst_node_id](message) for message in messages]
