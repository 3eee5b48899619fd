"""One round of long local training and one upload a client: the averaged model, and the ensemble of all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy
from torch import nn

from client.data import ImageSplit
from client.local import held_apart
from deploy.workers import workers
from dsv import Ensemble, end_point_anchors, estimated_counts, synthesize, train
from protos import artefact
from protos.exchange import starting_model
from protos.settings import RunSettings
from server.labeller import Labeller
from server.start_images import starts_of
from server.view_labels import plan_of


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

    kept = [held_apart(part, settings)[0] for part in parts]

    def trained(client: int) -> nn.Module:
        own = kept[client]
        long = replace(settings, rounds=1, local_epochs=settings.local_epochs * settings.rounds)
        config = long.local_training(1, len(own))
        model = copy.deepcopy(start)
        seed = int(numpy.random.SeedSequence((settings.seed, 1, client)).generate_state(1)[0])
        labels = train_images.labels[own]
        train(
            *(model, train_images.load(own), labels, settings.task(), config),
            seed=seed,
            on_step=at_work.on_step,
        )
        return model.cpu().eval()

    members = []
    with workers(settings.device) as at_work:
        for done, model in enumerate(at_work.pool.map(trained, range(len(parts))), 1):
            members.append(model)
            note(done, len(parts))
    sizes = [len(part) for part in kept]
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


def one_shot_release(
    settings: RunSettings, model: nn.Module, count: int, *, teacher: str, on_iteration: Callable[[int, float], None]
) -> bytes:
    """A release file of DSVs of the average's end point, or of every member's own of an ensemble.

    Args:
        model: the average or the ensemble; it gives the labels.
        count: DSVs per class.
        teacher: what the provenance calls it; cut at 100 characters.
        on_iteration: called with iterations done and the loss.
    """
    task = settings.task()
    members = model if isinstance(model, Ensemble) else None
    labeller = Labeller(model, task, settings.device)
    label = labeller.probabilities
    support_set = synthesize(
        starting_model(settings) if members else model,
        task,
        settings.synthesis(count),
        seed=settings.seed,
        start=starts_of(settings.start, task, (count,), seed=settings.seed, label=label)[count],
        teacher_architecture=teacher[:100],
        anchors=end_point_anchors([m.state_dict() for m in members.members], members.counts) if members else None,
        label=label,
        compute=settings.compute(),
        on_iteration=lambda done, terms: on_iteration(done, float(terms.total.detach())),
    )
    plan = plan_of(settings.views, task, settings.seed)
    views = partial(labeller.views, plan=plan) if plan else None
    return artefact.encode(support_set, settings.image_encoding, relabel=label, label_views=views)
