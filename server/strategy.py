"""Federated averaging that averages only what the allow-list lets through."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from logging import WARNING

import numpy
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore import log

from protos import allowlist
from protos.exchange import reply_layout
from server.events import BytesMoved, ClientNumbered, RoundDone, RoundEvaluated
from server.message_bytes import MessageBytes
from server.uploads import Upload

RoundCallback = Callable[[int, ArrayRecord], None]
ClientsCallback = Callable[[list[Upload]], None]


@dataclass(frozen=True)
class Participation:
    """Which clients take part in a round; the defaults and the meaning are Flower's own.

    Args:
        fraction_train: share of the connected clients that a round asks, above 0, up to 1.
        min_train_nodes: fewest clients that it asks.
        min_available_nodes: fewest connected clients that it starts with; it waits for them without a limit.
        evaluate: whether the clients test the model after every round.
    """

    fraction_train: float = 1.0
    min_train_nodes: int = 2
    min_available_nodes: int = 2
    evaluate: bool = False


class GuardedFedAvg(FedAvg):
    """FedAvg whose replies are checked before they are averaged.

    A reply with an error, a record, array or metric that is not on the allow-list, wrong names or shapes, NaN or
    infinity is refused and named in the log; the round goes on without that client. Flower's own FedAvg averages NaN
    silently and ends the run at a wrong shape. Replies are averaged in an order that depends on their content
    alone, so that the same replies give the same bytes.

    Args:
        initial: what travels of the global model before the first round; says what arrays must look like.
        rounds: number of rounds, for the events.
        participation: which clients take part.
        upload_dtype: what clients send floats as; they are averaged in their original dtype.
        numbers: of clients that were numbered before this run was cut off, by their nodes' ids.
        on_event: receives ``ClientNumbered`` of every client that is asked for the first time, ``BytesMoved`` of every
            message, ``RoundDone`` and, with an evaluation, ``RoundEvaluated``.
        on_round: receives the round's number and its global model, 0 for the initial one.
        on_clients: receives what each client sent in the last round, before ``on_round`` is told of it; in an order
            that depends on the content alone.
    """

    def __init__(
        self,
        initial: ArrayRecord,
        *,
        rounds: int,
        on_event: Callable[[BytesMoved | ClientNumbered | RoundDone | RoundEvaluated], None],
        on_round: RoundCallback,
        on_clients: ClientsCallback | None = None,
        participation: Participation = Participation(),
        upload_dtype: str = "float32",
        numbers: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__(
            fraction_train=participation.fraction_train,
            fraction_evaluate=1.0 if participation.evaluate else 0.0,
            min_train_nodes=participation.min_train_nodes,
            min_evaluate_nodes=participation.min_train_nodes,
            min_available_nodes=participation.min_available_nodes,
            arrayrecord_key=allowlist.ARRAYS,
            configrecord_key=allowlist.CONFIG,
            weighted_by_key=allowlist.EXAMPLES,
        )
        self._layout = allowlist.layout_of(initial)
        self._reply_layout = reply_layout(self._layout, upload_dtype)
        self._rounds = rounds
        self._on_event = on_event
        self._on_round = on_round
        self._on_clients = on_clients
        self._numbers: dict[int, int] = dict(numbers or {})
        on_round(0, initial)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The round's messages, checked and counted."""
        return self._checked(server_round, super().configure_train(server_round, arrays, config, grid))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The messages of the round's evaluation, checked and counted; none where it is off."""
        return self._checked(server_round, super().configure_evaluate(server_round, arrays, config, grid))

    def _checked(self, server_round: int, configured: Iterable[Message]) -> list[Message]:
        messages = list(configured)
        for node in sorted(message.metadata.dst_node_id for message in messages):
            if node not in self._numbers:
                self._numbers[node] = max(self._numbers.values(), default=-1) + 1
                self._on_event(ClientNumbered(self._numbers[node], node))
        for message in messages:
            allowlist.check_instruction(message.content, self._layout)
            self._count(server_round, message.metadata.dst_node_id, "down", message)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average what passes; (None, None), which keeps the global model as it is, when nothing does."""
        accepted, refused = self._sifted(
            server_round, replies, lambda content: allowlist.check_reply(content, self._reply_layout)
        )
        for reply in accepted:
            arrays_sent = reply.content.array_records[allowlist.ARRAYS]
            reply.content[allowlist.ARRAYS] = self._with_original_dtypes(arrays_sent)
        accepted.sort(key=_content_key)
        if self._on_clients is not None and accepted and server_round == self._rounds:
            self._on_clients([_upload(reply) for reply in accepted])
        arrays, metrics = super().aggregate_train(server_round, accepted) if accepted else (None, None)
        if arrays is not None:
            arrays = self._with_original_dtypes(arrays)
            self._on_round(server_round, arrays)
        loss = metrics.get(allowlist.LOSS) if metrics is not None else None
        self._on_event(
            RoundDone(
                round=server_round,
                rounds=self._rounds,
                averaged=len(accepted),
                refused=refused,
                train_loss=float(loss) if isinstance(loss, (int, float)) else None,
            )
        )
        return arrays, metrics

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Mean accuracy of what passes, weighted by examples."""
        accepted, refused = self._sifted(server_round, replies, allowlist.check_evaluation)
        metrics = super().aggregate_evaluate(server_round, accepted) if accepted else None
        accuracy = metrics.get(allowlist.ACCURACY) if metrics is not None else None
        if isinstance(accuracy, (int, float)):
            self._on_event(RoundEvaluated(server_round, len(accepted), refused, float(accuracy)))
        return metrics

    def _sifted(
        self, server_round: int, replies: Iterable[Message], check: Callable[[RecordDict], None]
    ) -> tuple[list[Message], int]:
        """The replies that pass, and the number of the others, each of which the log names; all are counted."""
        accepted: list[Message] = []
        refused = 0
        for reply in replies:
            self._count(server_round, reply.metadata.src_node_id, "up", reply)
            reason = _reason_to_refuse(reply, check)
            if reason is None:
                accepted.append(reply)
            else:
                refused += 1
                number = self._numbers.get(reply.metadata.src_node_id)
                log(WARNING, "round %d: refused the reply of client %s: %s", server_round, number, reason)
        return accepted, refused

    def _count(self, server_round: int, node: int, direction: str, message: Message) -> None:
        number = self._numbers.get(node, -1)
        for purpose, size_bytes in MessageBytes.of(message).by_purpose().items():
            self._on_event(BytesMoved(server_round, number, purpose, direction, size_bytes))

    def _with_original_dtypes(self, arrays: ArrayRecord) -> ArrayRecord:
        """Clients may send float16, and averaging turns integers (batch norm's counters) into floats."""
        return ArrayRecord(
            {
                name: array
                if array.dtype == self._layout[name].dtype
                else Array(numpy.asarray(array.numpy()).astype(self._layout[name].dtype))
                for name, array in arrays.items()
            }
        )


def _reason_to_refuse(reply: Message, check: Callable[[RecordDict], None]) -> str | None:
    if reply.has_error():
        return f"error {reply.error.code}: {(reply.error.reason or '').strip()[:200]!r}"  # the other side's words
    try:
        check(reply.content)
    except allowlist.RefusedError as refusal:
        return str(refusal)
    return None


def _upload(reply: Message) -> Upload:
    content = reply.content
    examples = content.metric_records[allowlist.METRICS][allowlist.EXAMPLES]
    assert isinstance(examples, int), "the allow-list lets nothing else through"
    return Upload(content.array_records[allowlist.ARRAYS], examples)


def _content_key(reply: Message) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(reply.content.array_records[allowlist.ARRAYS].items()):
        digest.update(name.encode() + array.data)
    return digest.hexdigest()
