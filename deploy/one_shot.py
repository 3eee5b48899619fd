"""One round of long local training and one upload a client: the averaged model, and the ensemble of all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy
from torch import nn

from client.data import ImageSplit
from deploy.workers import workers
from dsv import Ensemble, estimated_counts, train
from protos.exchange import starting_model
from protos.settings import RunSettings


@dataclass(frozen=True)
class OneShot:
    """What a server can make of one upload of every client; both models are on the CPU, in eval mode."""

    average: nn.Module
    ensemble: Ensemble


def one_shot(
    settings: RunSettings, train_images: ImageSplit, parts: Sequence[Sequence[int]], note: Callable[[int, int], None]
) -> OneShot:
    """Every client trains the shared initial model alone, for as many epochs as in all rounds of the federation.

    The learning rate falls to 0 along a cosine within that one training, which is better than a constant one.

    Args:
        parts: every client's indices.
        note: called with clients done and clients in all.
    """
    start = starting_model(settings).to(settings.device)

    def trained(client: int) -> nn.Module:
        own = list(parts[client])
        long = replace(settings, rounds=1, local_epochs=settings.local_epochs * settings.rounds)
        config = long.local_training(1, len(own))
        model = copy.deepcopy(start)
        seed = int(numpy.random.SeedSequence((settings.seed, 1, client)).generate_state(1)[0])
        labels = train_images.labels[own]
        train(model, train_images.load(own), labels, settings.task(), config, seed=seed, device=settings.device)
        return model.cpu().eval()

    members = []
    with workers(settings.device) as pool:
        for done, model in enumerate(pool.map(trained, range(len(parts))), 1):
            members.append(model)
            note(done, len(parts))
    sizes = [len(part) for part in parts]
    counts = estimated_counts(members, sizes, settings.task())
    return OneShot(_averaged(members, sizes), Ensemble(members, counts).eval())


def _averaged(members: Sequence[nn.Module], examples: Sequence[int]) -> nn.Module:
    """Federated averaging's one step: the mean of all tensors, weighted by examples."""
    shares = [count / sum(examples) for count in examples]
    states = [member.state_dict() for member in members]
    average = copy.deepcopy(members[0])
    average.load_state_dict(
        {
            name: sum(share * state[name].double() for share, state in zip(shares, states, strict=True)).to(like.dtype)
            for name, like in states[0].items()
        }
    )
    return average.eval()
