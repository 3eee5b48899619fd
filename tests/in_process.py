"""Flower without a network: nodes are functions from message to reply, and a grid calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

import client.app
from protos.exchange import as_record, exchanged_tensors, load_record, starting_model
from server.strategy import GuardedFedAvg, Participation

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


def node(settings, **node_config) -> Client:
    """A device of this configuration."""
    context = Context(1, 1, node_config, RecordDict(), settings.to_run_config())
    return lambda message: client.app.app(message, context)


def federate(settings, clients, rounds=1):
    """Events and the global model of a federation in this process."""
    events, model = [], starting_model(settings)
    strategy = GuardedFedAvg(
        as_record(exchanged_tensors(model, settings.trainable)),
        rounds=rounds,
        participation=Participation(
            settings.fraction_train,
            settings.min_train_nodes,
            settings.min_available_nodes,
            settings.validation_share > 0,
        ),
        upload_dtype=settings.upload_dtype,
        on_event=events.append,
        on_round=lambda number, arrays: load_record(model, arrays),
    )
    initial = as_record(exchanged_tensors(model, settings.trainable))
    strategy.start(InProcessGrid(clients), initial, num_rounds=rounds)
    return events, model
