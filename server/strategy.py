"""Federated averaging that averages only what the allow-list lets through."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from logging import WARNING

import numpy
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common.serde import message_to_proto
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore import log

from protos import allowlist
from server.events import BytesMoved, RoundDone

RoundCallback = Callable[[int, ArrayRecord], None]


class GuardedFedAvg(FedAvg):
    """FedAvg whose replies are checked before they are averaged.

    A reply with an error, a record, array or metric that is not on the allow-list, wrong names or shapes, NaN or
    infinity is refused and named in the log; the round goes on without that client. Flower's own FedAvg averages NaN
    silently and ends the run at a wrong shape. Replies are averaged in an order that depends on their content
    alone, so that the same replies give the same bytes.

    Args:
        initial: the global model before the first round; says what arrays must look like.
        rounds: number of rounds, for the events.
        on_event: receives ``BytesMoved`` of every message and ``RoundDone`` after every round.
        on_round: receives the round's number and its global model, 0 for the initial one.
    """

    def __init__(
        self,
        initial: ArrayRecord,
        *,
        rounds: int,
        on_event: Callable[[BytesMoved | RoundDone], None],
        on_round: RoundCallback,
    ) -> None:
        super().__init__(
            fraction_evaluate=0.0,
            arrayrecord_key=allowlist.ARRAYS,
            configrecord_key=allowlist.CONFIG,
            weighted_by_key=allowlist.EXAMPLES,
        )
        self._layout = allowlist.layout_of(initial)
        self._rounds = rounds
        self._on_event = on_event
        self._on_round = on_round
        self._numbers: dict[int, int] = {}
        on_round(0, initial)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The round's messages, checked and counted."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for node in sorted(message.metadata.dst_node_id for message in messages):
            self._numbers.setdefault(node, len(self._numbers))
        for message in messages:
            allowlist.check_instruction(message.content, self._layout)
            self._count(server_round, message.metadata.dst_node_id, "down", message)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average what passes; (None, None), which keeps the global model as it is, when nothing does."""
        accepted: list[Message] = []
        refused = 0
        for reply in replies:
            reason = self._reason_to_refuse(reply)
            self._count(server_round, reply.metadata.src_node_id, "up", reply)
            if reason is None:
                accepted.append(reply)
            else:
                refused += 1
                number = self._numbers.get(reply.metadata.src_node_id)
                log(WARNING, "round %d: refused the reply of client %s: %s", server_round, number, reason)
        accepted.sort(key=_content_key)
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

    def _reason_to_refuse(self, reply: Message) -> str | None:
        if reply.has_error():
            return f"error {reply.error.code}: {(reply.error.reason or '').strip()[:200]}"
        try:
            allowlist.check_reply(reply.content, self._layout)
        except allowlist.RefusedError as refusal:
            return str(refusal)
        return None

    def _count(self, server_round: int, node: int, direction: str, message: Message) -> None:
        size_bytes = message_to_proto(message).ByteSize()
        number = self._numbers.get(node, -1)
        self._on_event(BytesMoved(server_round, number, "weights", direction, size_bytes))

    def _with_original_dtypes(self, arrays: ArrayRecord) -> ArrayRecord:
        """Averaging turns integers (batch norm's counters) into floats; turn them back."""
        return ArrayRecord(
            {
                name: Array(numpy.asarray(array.numpy()).astype(self._layout[name].dtype))
                for name, array in arrays.items()
            }
        )


def _content_key(reply: Message) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(reply.content.array_records[allowlist.ARRAYS].items()):
        digest.update(name.encode() + array.data)
    return digest.hexdigest()
