"""Which images a simulated client owns. A real device owns what lies in its own folder and needs none of this."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from dsv import DsvError


def partition(labels: Tensor, *, clients: int, partitioner: str, alpha: float, seed: int) -> list[list[int]]:
    """Indices of every client's images, by flwr-datasets' partitioners.

    Args:
        labels: (N,) int64.
        clients: number of partitions, 1 to N.
        partitioner: ``dirichlet`` or ``iid``.
        alpha: of the Dirichlet distribution over clients that each class is dealt by.
        seed: the same gives the same split.

    Raises:
        DsvError: more clients than the images can be split over.
    """
    if clients == 1:
        return [list(range(len(labels)))]
    return _partition(tuple(labels.tolist()), clients, partitioner, alpha, seed)


@lru_cache(maxsize=4)  # simulated clients of one process ask for the same split in every round
def _partition(labels: tuple[int, ...], clients: int, partitioner: str, alpha: float, seed: int) -> list[list[int]]:
    # Imported here: the import takes seconds, and a device never needs it.
    from datasets import Dataset
    from flwr_datasets.partitioner import DirichletPartitioner, IidPartitioner, Partitioner

    smallest = min(10, len(labels) // (clients * 4) or 1)
    chosen: Partitioner
    if partitioner == "dirichlet":
        chosen = DirichletPartitioner(clients, "label", alpha, min_partition_size=smallest, seed=seed)
    else:
        chosen = IidPartitioner(clients)
    table = Dataset.from_dict({"label": list(labels), "index": list(range(len(labels)))})
    chosen.dataset = table if partitioner == "dirichlet" else table.shuffle(seed=seed)
    try:
        return [list(chosen.load_partition(client)["index"]) for client in range(clients)]
    except ValueError as error:
        raise DsvError(
            f"{len(labels)} images cannot be split over {clients} clients ({str(error).splitlines()[0][:120]}); "
            "use fewer clients or a larger alpha"
        ) from None
