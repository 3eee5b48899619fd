"""Several processes that share one synthesis, each with its own part of the candidates (``torchrun``)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch import distributed as group

from dsv.device import checked_device
from dsv.errors import DsvError


class Ranks:
    """This process's place among ``count`` of them; alone by default.

    Args:
        rank: 0 to ``count - 1``.
        count: number of processes, at least 1.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    def share(self, total: int) -> slice:
        """This rank's part of ``total`` things; parts are contiguous, in rank order, and differ by at most one."""
        return slice(total * self.rank // self.count, total * (self.rank + 1) // self.count)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over the ranks, in place; one message for all."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        group.all_reduce(flat)
        for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def join(self, part: Tensor, total: int) -> Tensor:
        """All ranks' parts (n, ...) of ``total`` rows as one tensor, on every rank."""
        if self.count == 1:
            return part
        whole = part.new_zeros(total, *part.shape[1:])
        whole[self.share(total)] = part
        group.all_reduce(whole)  # x + 0 is exact
        return whole


@contextmanager
def ranks_of_torchrun(device: str) -> Iterator[Ranks]:
    """The ranks that ``torchrun`` started this process among, over nccl (CUDA) or gloo; alone without torchrun.

    Of several ranks on one machine each takes its own card, which is what ``cuda`` means then.

    Raises:
        DsvError: no such device, more ranks than cards, or a device such as ``cuda:1``, which all ranks would share.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks()
        return
    # Its functions have the group of their import as a default. Imported while there is one, as torch's compiler
    # does it, they hold that group and its threads until the interpreter ends, which then now and then aborts: hence
    # before. (And not at the head of this file: some boards' builds of torch have no such module.)
    from torch.distributed import nn  # noqa: F401

    chosen = checked_device(device)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    if backend == "nccl":
        if chosen.index is not None:
            raise DsvError(f"{count} processes cannot share {device}; give --device cuda: each takes its own card")
        torch.cuda.set_device(checked_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}"))
    group.init_process_group(backend)
    try:
        if backend == "gloo":
            group.barrier()  # or a rank that ends at once may close connections that others are still opening
        yield Ranks(group.get_rank(), count)
    finally:
        group.destroy_process_group()
