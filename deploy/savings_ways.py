"""The ways that a finished run itself tells of: their bytes from its ledger, their accuracies from its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from client.data import ImageSplit
from deploy.finished_run import FinishedRun
from deploy.result import LedgerRow, NewcomerRow, RivalRow
from deploy.rivals import random_per_class
from deploy.savings import Kind, Way
from protos.encodings import ImageEncoding
from server.message_bytes import CONTROL, WEIGHTS

_LABEL_BYTES = 2  # a class as uint16


@dataclass(frozen=True)
class Moved:
    """Bytes up and down."""

    up: int
    down: int


def federated(ledger: Iterable[LedgerRow], rounds: int) -> Moved:
    """What all clients moved for the first rounds: weights and control."""
    sums = {"up": 0, "down": 0}
    for row in ledger:
        if row.purpose in (WEIGHTS, CONTROL) and row.round <= rounds:
            sums[row.direction] += row.bytes
    return Moved(sums["up"], sums["down"])


def one_upload(run: FinishedRun) -> Moved:
    """What all clients move for one round, if each of them takes part, as the first round's messages were."""
    asked = {"up": set[int | str](), "down": set[int | str]()}
    for row in run.result.ledger:
        if row.purpose == WEIGHTS and row.round == 1:
            asked[row.direction].add(row.client)
    first, clients = federated(run.result.ledger, 1), run.harness.clients
    return Moved(
        first.up * clients // max(1, len(asked["up"])),
        first.down * clients // max(1, len(asked["down"])),
    )


def request_bytes(ledger: Iterable[LedgerRow]) -> int:
    """What a newcomer sends to fetch one release."""
    return max((row.bytes for row in ledger if (row.purpose, row.direction) == ("dsv_download", "up")), default=0)


def fedavg(run: FinishedRun, rounds: int, accuracy: float) -> Way:
    """Newcomers take part in a federation of so many rounds, as each of its clients did."""
    clients, moved = run.harness.clients, federated(run.result.ledger, rounds)
    return Way(
        kind=Kind.FEDAVG,
        variant=f"{rounds} rounds" if rounds != 1 else "1 round",
        architecture=run.result.teacher.architecture,
        accuracy_mean=accuracy,
        accuracy_std=0.0,
        clients=clients,
        clients_up_bytes=moved.up,
        clients_down_bytes=moved.down,
        client_exchanges=rounds,
        newcomer_up_bytes=moved.up // clients,
        newcomer_down_bytes=moved.down // clients,
        newcomer_exchanges=rounds,
    )


def weights(run: FinishedRun, kind: Kind, rounds: int, size_bytes: int, accuracy: float) -> Way:
    """After so many rounds, newcomers are sent the global model."""
    moved = federated(run.result.ledger, rounds)
    return Way(
        kind=kind,
        variant=f"after {rounds} rounds" if rounds != 1 else "after 1 round",
        architecture=run.result.teacher.architecture,
        accuracy_mean=accuracy,
        accuracy_std=0.0,
        clients=run.harness.clients,
        clients_up_bytes=moved.up,
        clients_down_bytes=moved.down,
        client_exchanges=rounds,
        newcomer_up_bytes=request_bytes(run.result.ledger),
        newcomer_down_bytes=size_bytes,
    )


def raw_images(run: FinishedRun, bits: str, size_bytes: int, accuracy: float) -> Way:
    """Every client uploads its images as they are stored; a model trained on all of them is sent to newcomers.

    Their classes are not counted: a folder's name may tell them, and they can but make this way longer.
    """
    ledger = run.result.ledger
    return Way(
        kind=Kind.RAW_IMAGES,
        variant=f"all, then weights {bits}",
        architecture=run.result.teacher.architecture,
        accuracy_mean=accuracy,
        accuracy_std=0.0,
        clients=run.harness.clients,
        clients_up_bytes=sum(row.bytes for row in ledger if row.purpose == "raw_images_instead"),
        clients_down_bytes=0,
        client_exchanges=1,
        newcomer_up_bytes=request_bytes(ledger),
        newcomer_down_bytes=size_bytes,
        any_architecture=True,
        images_leave=True,
    )


def fedavg_dsv(run: FinishedRun, training_s: Callable[[str], float]) -> list[Way]:
    """After the federation, newcomers are sent DSVs: the run's releases, each with its better kind of labels.

    Args:
        training_s: of a newcomer, by the kind of its labels.
    """
    moved = federated(run.result.ledger, run.settings.rounds)
    own = [row for row in run.result.newcomers if row.architecture == run.harness.architectures[0]]
    chosen: dict[int, NewcomerRow] = {}
    for row in sorted(own, key=lambda row: row.accuracy_mean):
        chosen[row.images_per_class] = row
    return [
        Way(
            kind=Kind.FEDAVG_DSV,
            variant=f"{row.images_per_class}/class, {row.labels}",
            architecture=row.architecture,
            accuracy_mean=row.accuracy_mean,
            accuracy_std=row.accuracy_std,
            clients=run.harness.clients,
            clients_up_bytes=moved.up,
            clients_down_bytes=moved.down,
            client_exchanges=run.settings.rounds,
            newcomer_up_bytes=request_bytes(run.result.ledger),
            newcomer_down_bytes=row.downloaded_bytes,
            training_s=training_s(row.labels),
            any_architecture=True,
        )
        for _, row in sorted(chosen.items())
    ]


def random_real(run: FinishedRun, row: RivalRow, images: ImageSplit, training_s: float) -> Way:
    """Clients upload some of their images, as they are stored; newcomers are sent those with their classes, encoded as
    the run's releases are where that is smaller.

    There is no teacher in this way, so nobody has soft labels.
    """
    task = run.settings.task()
    drawn = random_per_class(images.labels, task, row.images_per_class, run.settings.seed + 1)
    encoding = ImageEncoding(run.settings.image_encoding)
    encoded_bytes = len(encoding.encode(images.load(drawn))) + encoding.label_bytes(task, soft=False) * len(drawn)
    stored_bytes = images.stored_bytes(drawn) + _LABEL_BYTES * len(drawn)
    return Way(
        kind=Kind.RANDOM_REAL,
        variant=f"{row.images_per_class}/class",
        architecture=row.architecture,
        accuracy_mean=row.accuracy_mean,
        accuracy_std=row.accuracy_std,
        clients=run.harness.clients,
        clients_up_bytes=stored_bytes,
        clients_down_bytes=0,
        client_exchanges=1,
        newcomer_up_bytes=request_bytes(run.result.ledger),
        newcomer_down_bytes=min(stored_bytes, encoded_bytes),
        training_s=training_s,
        any_architecture=True,
        images_leave=True,
    )


def one_shot_dsv(
    run: FinishedRun, variant: str, accuracy: tuple[float, float], *, downloaded_bytes: int, training_s: float
) -> Way:
    """One round: the initial model to every client, its trained model back; newcomers are sent DSVs of what came.

    Args:
        accuracy: mean and standard deviation.
    """
    moved = one_upload(run)
    return Way(
        kind=Kind.ONE_SHOT_DSV,
        variant=variant,
        architecture=run.harness.architectures[0],
        accuracy_mean=accuracy[0],
        accuracy_std=accuracy[1],
        clients=run.harness.clients,
        clients_up_bytes=moved.up,
        clients_down_bytes=moved.down,
        client_exchanges=1,
        newcomer_up_bytes=request_bytes(run.result.ledger),
        newcomer_down_bytes=downloaded_bytes,
        training_s=training_s,
        any_architecture=True,
    )


def one_shot_weights(run: FinishedRun, variant: str, size_bytes: int, accuracy: float) -> Way:
    """One round as for ``one_shot_dsv``; newcomers are sent what came of it, which for an ensemble is every model."""
    moved = one_upload(run)
    return Way(
        kind=Kind.ONE_SHOT_WEIGHTS,
        variant=variant,
        architecture=run.result.teacher.architecture,
        accuracy_mean=accuracy,
        accuracy_std=0.0,
        clients=run.harness.clients,
        clients_up_bytes=moved.up,
        clients_down_bytes=moved.down,
        client_exchanges=1,
        newcomer_up_bytes=request_bytes(run.result.ledger),
        newcomer_down_bytes=size_bytes,
    )
