"""The methods of ``zero_shot.py``: from a federation (or, for rivals, its images) to a small set of images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import click
import torch

from benchmarks.zero_shot_bench import Bench, Made, Method, class_labels
from benchmarks.zero_shot_federations import State
from benchmarks.zero_shot_rivals import batch_norm_inversion, distribution_matching, gradient_matching
from benchmarks.zero_shot_starts import best_crops, best_leaves, leaves_start, public_start, random_crops, random_leaves
from dsv import (
    PRESETS,
    Anchors,
    Ensemble,
    SelectionConfig,
    Start,
    SynthesisConfig,
    end_point_anchors,
    noise_pixels,
    select,
    sheet,
    states_digest,
    synthesize,
    to_uint8,
    write_picture,
)

_DEFAULT = SynthesisConfig()


def _noise(bench: Bench, per_class: int, seed: int) -> Made:
    labels = class_labels(bench, per_class)
    drawn = noise_pixels(bench.trajectory.task, len(labels), torch.Generator().manual_seed(seed))
    return Made(to_uint8(drawn), labels, "noise", 0)


def _random_real(bench: Bench, per_class: int, seed: int) -> Made:
    pixels = bench.real.start(per_class, torch.Generator().manual_seed(seed))
    return Made(to_uint8(pixels), class_labels(bench, per_class), "real", len(pixels))


def _selected_real(bench: Bench, per_class: int, seed: int) -> Made:
    """Images with the largest multipliers, of as many random training images as the bench lets a selection look at."""
    order = torch.randperm(len(bench.images.train_labels), generator=torch.Generator().manual_seed(seed))
    looked_at = order[: bench.selection_images or None]
    images, labels = bench.images.train[looked_at], bench.images.train_labels[looked_at]
    found = select(
        bench.teacher.model,
        lambda indices: images[list(indices)],
        labels,
        bench.trajectory.task,
        SelectionConfig(),
        compute=replace(bench.compute, micro_batch=100),
    )
    chosen = found.coreset(per_class)
    return Made(images[chosen], labels[chosen], "real", len(labels))


def _update_anchors(before: Sequence[State], after: Sequence[Sequence[State]]) -> Anchors:
    """Every client's update of every round.

    Args:
        before: the global state before each round.
        after: for each of the rounds, the state of every client's model after its local training.
    """
    pairs = [(number, client) for number, states in enumerate(after) for client in range(len(states))]

    def update(index: int) -> State:
        number, client = pairs[index]
        start, end = before[number], after[number][client]
        return {name: end[name] - value for name, value in start.items() if value.is_floating_point()}

    digest = states_digest([*before, *(state for states in after for state in states)])
    clients = tuple(client for _, client in pairs)
    return Anchors(clients, lambda index: before[pairs[index][0]], digest, targets=update)


def _client_end_points(bench: Bench) -> Anchors:
    labelling = bench.labeller.model
    assert isinstance(labelling, Ensemble)
    return end_point_anchors(bench.trajectory.clients[-1], labelling.counts)


def _client_updates(bench: Bench) -> Anchors:
    return _update_anchors(bench.trajectory.rounds[:-1], bench.trajectory.clients)


def _round_updates(bench: Bench) -> Anchors:
    """As if one client had held everything: of the rounds' averages."""
    rounds = bench.trajectory.rounds
    return _update_anchors(rounds[:-1], [[state] for state in rounds[1:]])


def _dsv(
    config: SynthesisConfig,
    *,
    start: Callable[[Bench, int, int], Start] | None = None,
    anchors: Callable[[Bench], Anchors] | None = None,
) -> Method:
    def make(bench: Bench, per_class: int, seed: int) -> Made:
        wanted = replace(config, images_per_class=per_class, iterations=bench.iterations)
        found = synthesize(
            bench.teacher.model,
            bench.trajectory.task,
            wanted,
            seed=seed,
            start=start(bench, per_class, seed) if start else None,
            anchors=anchors(bench) if anchors else None,
            compute=bench.compute,
        )
        return Made(found.images, found.labels, "public" if start is public_start else "noise", 0)

    return make


def _ensemble(bench: Bench, per_class: int, seed: int) -> Made:
    """The end point of the clients' ensemble as one network, at as many times the cost as there are clients."""
    found = synthesize(
        Ensemble([client.model for client in bench.clients]),
        bench.trajectory.task,
        replace(_DEFAULT, images_per_class=per_class, iterations=bench.iterations),
        seed=seed,
        compute=bench.compute,
    )
    return Made(found.images, found.labels, "noise", 0)


def _chosen(bench: Bench, per_class: int, seed: int) -> Made:
    """The largest multipliers of a synthesis of three times as many."""
    made = synthesize(
        bench.teacher.model,
        bench.trajectory.task,
        replace(_DEFAULT, images_per_class=3 * per_class, iterations=bench.iterations),
        seed=seed,
        compute=bench.compute,
    )
    order = torch.argsort(made.multipliers.view(-1, 3 * per_class), dim=1, descending=True)[:, :per_class]
    chosen = (order + 3 * per_class * torch.arange(bench.trajectory.task.classes)[:, None]).flatten()
    return Made(made.images[chosen], made.labels[chosen], "noise", 0)


def _dm(bench: Bench, per_class: int, seed: int) -> Made:
    found = distribution_matching(
        bench.trajectory.spec, bench.real, per_class, iterations=bench.rival_iterations, seed=seed
    )
    return Made(found, class_labels(bench, per_class), "real", len(bench.images.train))


def _dc(bench: Bench, per_class: int, seed: int) -> Made:
    found = gradient_matching(
        bench.trajectory.spec, bench.real, per_class, iterations=bench.rival_iterations, seed=seed
    )
    return Made(found, class_labels(bench, per_class), "real", len(bench.images.train))


def _batch_norm(bench: Bench, per_class: int, seed: int) -> Made:
    teacher = bench.teacher
    found = batch_norm_inversion(
        teacher.model, teacher.task, per_class, iterations=bench.iterations, seed=seed, device=bench.device
    )
    return Made(found, class_labels(bench, per_class), "noise", 0)


METHODS: dict[str, Method] = {
    "noise": _noise,
    "public crops, random": random_crops,
    "public crops, best": best_crops,
    "dead leaves, random": random_leaves,
    "dead leaves, best": best_leaves,
    "random real": _random_real,
    "selected real": _selected_real,
    "DM": _dm,
    "DC": _dc,
    "batch-norm inversion": _batch_norm,
    "DSV, paper": _dsv(PRESETS["paper-cifar"]),
    "DSV, end point": _dsv(_DEFAULT),
    "DSV, from dead leaves": _dsv(_DEFAULT, start=leaves_start),
    "DSV, coarse to fine": _dsv(replace(_DEFAULT, coarse_stages=2)),
    "DSV, total variation": _dsv(replace(_DEFAULT, total_variation_weight=0.05)),
    "DSV, from public crops": _dsv(_DEFAULT, start=public_start),
    "DSV, rounds' updates": _dsv(_DEFAULT, anchors=_round_updates),
    "DSV, clients' updates": _dsv(_DEFAULT, anchors=_client_updates),
    "DSV, clients' end points": _dsv(_DEFAULT, anchors=_client_end_points),
    "DSV, clients' end points, from dead leaves": _dsv(_DEFAULT, start=leaves_start, anchors=_client_end_points),
    "DSV, clients' ensemble": _ensemble,
    "DSV, chosen of three times as many": _chosen,
}
"""By the name in the table. Every one is evaluated with every kind of labels that is asked for."""


def permitted(bench: Bench) -> list[str]:
    """Methods that this bench has what they need for."""
    norm = bench.trajectory.spec.norm
    without = {name for name in METHODS if "public crops" in name} if bench.crops_folder is None else set()
    if not bench.trajectory.one_shot:
        without |= {name for name in METHODS if name.startswith("DSV, clients' e")}
    return [name for name in METHODS if name not in without and (norm == "batch" or "batch-norm" not in name)]


def methods_of(bench: Bench, names: str) -> list[str]:
    """Those named, or all that the bench permits.

    Raises:
        click.UsageError: there is no method of a name, or this bench lacks what it needs.
    """
    named = list(filter(None, names.split(";")))
    unknown = [name for name in named if name not in permitted(bench)]
    if unknown:
        raise click.UsageError(f"not possible here: {'; '.join(unknown)}. Choose of: {'; '.join(permitted(bench))}")
    return named or permitted(bench)


def make(bench: Bench, name: str, per_class: int, seed: int) -> tuple[Made, float]:
    """The set of one method and the seconds it took, from the disk where it was made before; a picture lies beside it,
    a row for each class."""
    numbers = [bench.iterations, bench.rival_iterations, *([bench.selection_images] if bench.selection_images else [])]
    options = "-".join(map(str, numbers)) + ("-compiled" if bench.compiled else "")
    path = bench.folder / f"{name}, {per_class} per class, {seed}, {options}.pt"
    if not path.exists():
        started = time.perf_counter()
        made = METHODS[name](bench, per_class, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"made": asdict(made), "seconds": time.perf_counter() - started}, path)
        write_picture(path.with_suffix(".png"), sheet(torch.split(made.images, per_class)))
    stored = torch.load(path, weights_only=True)
    return Made(**stored["made"]), stored["seconds"]
