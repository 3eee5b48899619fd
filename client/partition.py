"""Which images a simulated client owns. A real device owns what lies in its own folder and needs none of this."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from dsv import DsvError
from protos.settings import RunSettings

Parts = list[list[int]]
"""For every client, the indices of its images."""


def partition_of(settings: RunSettings, labels: Tensor, clients: int) -> Parts:
    """The split that ``settings`` describe: a file's, or one by flwr-datasets' partitioners.

    Args:
        labels: (N,) int64.
        clients: number of parts; a single client owns everything.

    Raises:
        DsvError: a file that does not fit, or more clients than the images can be split over.
    """
    if settings.partition_file:
        return _read_partition(Path(settings.partition_file), images=len(labels), clients=clients)
    return [list(range(len(labels)))] if clients == 1 else _partition(settings, labels, clients)


def write_partition(path: Path, parts: Parts) -> None:
    """Write a split for ``RunSettings.partition_file``."""
    path.write_text(json.dumps(parts))


def _read_partition(path: Path, *, images: int, clients: int) -> Parts:
    try:
        parts = json.loads(path.read_text())
        if not isinstance(parts, list) or len(parts) != clients:
            raise DsvError(f"partition file {path} must list {clients} clients; write one list of indices for each")
        for part in parts:
            if not part or not all(type(index) is int and 0 <= index < images for index in part):
                raise DsvError(f"partition file {path} must give every client indices from 0 to {images - 1}")
    except OSError as error:
        raise DsvError(f"cannot read partition file {path}: {error.strerror}; name a JSON file") from None
    except (ValueError, TypeError, RecursionError):
        raise DsvError(f"partition file {path} is no JSON list of lists of indices") from None
    return parts


def _partition(settings: RunSettings, labels: Tensor, clients: int) -> Parts:
    # Imported here: the import takes seconds, and a device never needs it.
    from datasets import Dataset
    from flwr_datasets.partitioner import DirichletPartitioner, IidPartitioner, Partitioner

    table = Dataset.from_dict({"label": labels.tolist(), "index": list(range(len(labels)))})
    chosen: Partitioner
    if settings.partitioner == "dirichlet":
        smallest = min(10, len(labels) // (clients * 4) or 1)
        chosen = DirichletPartitioner(
            clients, "label", settings.dirichlet_alpha, min_partition_size=smallest, seed=settings.seed
        )
    else:
        chosen = IidPartitioner(clients)
        table = table.shuffle(seed=settings.seed)
    chosen.dataset = table
    try:
        return [list(chosen.load_partition(client)["index"]) for client in range(clients)]
    except ValueError as error:
        raise DsvError(
            f"{len(labels)} images cannot be split over {clients} clients ({str(error).splitlines()[0][:120]}); "
            "use fewer clients or a larger dirichlet-alpha"
        ) from None
