"""What a Flower message takes on the wire before HTTP, and how much of that is weights."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import Message
from flwr.common.serde import message_to_proto

WEIGHTS = "weights"
CONTROL = "control"


@dataclass(frozen=True)
class MessageBytes:
    """Bytes of one serialised message: its records of arrays, and all else (addresses, configuration, metrics, errors).

    Together they are the message: the length that stands before the content counts where the arrays do.
    """

    weights: int
    control: int

    @classmethod
    def of(cls, message: Message) -> MessageBytes:
        """Count a message as Flower serialises it."""
        serialised = message_to_proto(message)
        whole = serialised.ByteSize()
        kept = [item for item in serialised.content.items if not item.HasField("array_record")]
        if len(kept) == len(serialised.content.items):
            return cls(0, whole)
        del serialised.content.items[:]
        serialised.content.items.extend(kept)
        control = serialised.ByteSize()
        return cls(whole - control, control)

    def by_purpose(self) -> dict[str, int]:
        """Bytes by the ledger's name of their purpose, those that are not 0."""
        return {name: size for name, size in ((WEIGHTS, self.weights), (CONTROL, self.control)) if size}
