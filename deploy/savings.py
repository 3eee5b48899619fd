"""What each way of bringing a model to newcomers costs: the arithmetic, on figures that others measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from deploy.links import Link

NEWCOMERS = (10, 1_000, 1_000_000)
ROUND_TRIPS = 5
"""Of one exchange over a new connection: TCP, TLS 1.3, what there is, which one, its end."""


class Kind(StrEnum):
    """A way to bring a model to newcomers."""

    RAW_IMAGES = "raw_images"
    FEDAVG = "fedavg"
    WEIGHTS_FLOAT32 = "weights_float32"
    WEIGHTS_FLOAT16 = "weights_float16"
    WEIGHTS_INT8 = "weights_int8"
    ONE_SHOT_WEIGHTS = "one_shot_weights"
    ONE_SHOT_DSV = "one_shot_dsv"
    FEDAVG_DSV = "fedavg_dsv"
    RANDOM_REAL = "random_real"

    @property
    def has_dsv(self) -> bool:
        """Whether newcomers get DSVs."""
        return self in (Kind.ONE_SHOT_DSV, Kind.FEDAVG_DSV)


@dataclass(frozen=True)
class Way:
    """One way, measured.

    Args:
        kind: which one.
        variant: what sets it apart from others of its kind, for people.
        architecture: what a newcomer runs in the end.
        accuracy_mean, accuracy_std: share of the test images that a newcomer's model gets right.
        clients: number of devices that the model comes from.
        clients_up_bytes, clients_down_bytes: what all of them move together before the first newcomer comes.
        client_exchanges: how often each of them speaks to the server.
        newcomer_up_bytes, newcomer_down_bytes: what every newcomer moves.
        newcomer_exchanges: how often it speaks to the server.
        training_s: what it then computes, in seconds of the machine that measured.
        any_architecture: whether a newcomer chooses its own.
        images_leave: whether private images leave their device.
    """

    kind: Kind
    variant: str
    architecture: str
    accuracy_mean: float
    accuracy_std: float
    clients: int
    clients_up_bytes: int
    clients_down_bytes: int
    client_exchanges: int
    newcomer_up_bytes: int
    newcomer_down_bytes: int
    newcomer_exchanges: int = 1
    training_s: float = 0.0
    any_architecture: bool = False
    images_leave: bool = False

    @property
    def client_up_bytes(self) -> float:
        """Of one device, on average."""
        return self.clients_up_bytes / self.clients

    @property
    def client_down_bytes(self) -> float:
        """Of one device, on average."""
        return self.clients_down_bytes / self.clients

    @property
    def fixed_bytes(self) -> int:
        """What has moved, both directions, before the first newcomer comes."""
        return self.clients_up_bytes + self.clients_down_bytes

    @property
    def newcomer_bytes(self) -> int:
        """What a newcomer moves, both directions."""
        return self.newcomer_up_bytes + self.newcomer_down_bytes

    def up_bytes(self, newcomers: int) -> int:
        """All bytes to the server."""
        return self.clients_up_bytes + newcomers * self.newcomer_up_bytes

    def down_bytes(self, newcomers: int) -> int:
        """All bytes from the server."""
        return self.clients_down_bytes + newcomers * self.newcomer_down_bytes

    def total_bytes(self, newcomers: int) -> int:
        """All bytes, both directions."""
        return self.fixed_bytes + newcomers * self.newcomer_bytes

    def client_s(self, link: Link) -> float:
        """Time that one device's part takes on a link."""
        return link.seconds(self.client_up_bytes, self.client_down_bytes, self.client_exchanges * ROUND_TRIPS)

    def newcomer_s(self, link: Link) -> float:
        """Time until a newcomer has its model: transfer and training."""
        trips = self.newcomer_exchanges * ROUND_TRIPS
        return link.seconds(self.newcomer_up_bytes, self.newcomer_down_bytes, trips) + self.training_s


@dataclass(frozen=True)
class Range:
    """Numbers of newcomers for which one way moves fewer bytes in all than another; ``last`` None has no end."""

    first: int
    last: int | None


def cheaper(one: Way, other: Way) -> Range | None:
    """For how many newcomers, from 1 on, ``one`` moves fewer bytes in all than ``other``; None for no number."""
    fixed, each = one.fixed_bytes - other.fixed_bytes, one.newcomer_bytes - other.newcomer_bytes
    # fewer when fixed + n * each < 0
    if each == 0:
        return Range(1, None) if fixed < 0 else None
    if each < 0:
        return Range(max(1, fixed // -each + 1), None)
    last = -(fixed // each) - 1
    return Range(1, last) if last >= 1 else None


def sooner_below_bits_per_s(one: Way, other: Way) -> float:
    """The download rate below which a newcomer has ``one``'s model before ``other``'s.

    0 where it never has, infinity where it always has. Uploads are left out, and round trips, which are the same.
    """
    fewer, longer = other.newcomer_down_bytes - one.newcomer_down_bytes, one.training_s - other.training_s
    if longer <= 0:
        return math.inf if fewer >= 0 else 0.0
    return max(0.0, 8 * fewer / longer)


def parameters_of_equal_size(release_bytes: int, weights_bytes: int, parameters: int) -> int:
    """How many parameters a model has whose weights take as many bytes as a release, at so many bytes each.

    Args:
        weights_bytes, parameters: of a model that was measured in the same format.
    """
    return round(release_bytes * parameters / weights_bytes)


def cheapest(ways: Sequence[Way], accuracy: float, newcomers: int) -> list[Way]:
    """Of every kind, the way that reaches an accuracy with the fewest bytes in all; kinds that do not are left out."""
    chosen = []
    for kind in Kind:
        reaching = [way for way in ways if way.kind is kind and way.accuracy_mean >= accuracy]
        if reaching:
            chosen.append(min(reaching, key=lambda way: (way.total_bytes(newcomers), -way.accuracy_mean)))
    return chosen


def best(ways: Sequence[Way]) -> list[Way]:
    """Of every kind, the way with the highest accuracy; of equals, that with the fewest bytes."""
    kinds = [kind for kind in Kind if any(way.kind is kind for way in ways)]
    return [
        max((w for w in ways if w.kind is kind), key=lambda w: (w.accuracy_mean, -w.fixed_bytes, -w.newcomer_bytes))
        for kind in kinds
    ]
