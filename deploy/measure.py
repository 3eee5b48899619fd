"""Newcomers and their rivals, trained and tested in the run that they are reported in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from client.download import Download
from deploy.quantised import INT8, sent_as
from deploy.result import ConfusionRow, NewcomerRow, RivalRow, TeacherRow
from deploy.rivals import compared_kinds, labeller_of, rival_jobs
from deploy.trainings import Bench, Job, Note, run_jobs, same_for_every_seed, summary
from dsv import ModelSpec, accuracy, build_model
from protos import artefact


@dataclass(frozen=True)
class Measured:
    """Rows of result.json, in its order."""

    newcomers: list[NewcomerRow]
    rivals: list[RivalRow]
    confusions: list[ConfusionRow]


def measure(bench: Bench, downloads: dict[int, Download], note: Note) -> Measured:
    """Train and test every newcomer and every rival, several seeds each.

    Args:
        downloads: release by images per class, as it arrived.
    """
    newcomers = _newcomer_jobs(bench, downloads)
    rivals = [job for count, got in downloads.items() for job in rival_jobs(bench, count, got.support_set)]
    outcomes = run_jobs(bench, newcomers + rivals, note)
    rows = [summary([outcome.accuracy for outcome in own]) for own in outcomes]
    newcomer_rows = [
        NewcomerRow(j.architecture, j.images_per_class, j.labels, *row, j.downloaded_bytes, j.digest)
        for j, row in zip(newcomers, rows, strict=False)
    ]
    rival_rows = [
        RivalRow(j.name, j.architecture, j.images_per_class, *row, j.downloaded_bytes)
        for j, row in zip(rivals, rows[len(newcomers) :], strict=True)
    ]
    untrained = [_untrained(bench, a) for a in bench.harness.architectures]
    confusions = [
        confusion_row("newcomer", j.architecture, j.images_per_class, j.labels, [o.confusion for o in own])
        for j, own in zip(newcomers, outcomes, strict=False)
    ]
    return Measured(newcomer_rows, untrained + rival_rows, confusions)


def confusion_row(
    model: str, architecture: str, images_per_class: int, labels: str, counts: list[Tensor]
) -> ConfusionRow:
    """The sum of some (K, K) counts as the cells that are not 0."""
    total = torch.stack(counts).sum(dim=0)
    cells = [(int(true), int(seen), int(total[true, seen])) for true, seen in torch.nonzero(total).tolist()]
    return ConfusionRow(model, architecture, images_per_class, labels, cells)


def _newcomer_jobs(bench: Bench, downloads: dict[int, Download]) -> list[Job]:
    """The first architecture compares kinds of labels, as every rival does; the others train as anybody would."""
    jobs = []
    for at, architecture in enumerate(bench.harness.architectures):
        for count, got in downloads.items():
            kinds = compared_kinds(got.support_set)
            for labels in kinds if at == 0 else kinds[-1:]:
                pair = (got.support_set.images, got.support_set.targets(labels))
                data = same_for_every_seed(*pair)
                jobs.append(Job("dsv", architecture, count, labels, got.bytes_down, artefact.digest(got.content), data))
    return jobs


def _untrained(bench: Bench, architecture: str) -> RivalRow:
    spec = ModelSpec.parse(architecture, bench.teacher.task)
    seeds = range(bench.seed + 1, bench.seed + 1 + bench.harness.newcomer_seeds)
    values = [_test(bench, build_model(spec, seed=seed, device=bench.device)) for seed in seeds]
    return RivalRow("untrained", architecture, 0, *summary(values), 0)


def weights_rivals(bench: Bench, teacher: TeacherRow) -> list[RivalRow]:
    """Just send the weights, the rival that every figure stands beside: as Flower sent them, and rounded to int8. Where
    DSVs are made of clients' models, the same of all these together, as they label the release."""
    rounded = sent_as(bench.teacher.model, INT8)
    int8 = _test(bench, rounded.model.to(bench.device))
    rivals = [
        RivalRow("teacher_weights", teacher.architecture, 0, teacher.accuracy, 0.0, teacher.weights_bytes),
        RivalRow("teacher_weights_int8", teacher.architecture, 0, int8, 0.0, rounded.size_bytes),
    ]
    return rivals + (_ensemble_rivals(bench, teacher) if bench.clients else [])


def _ensemble_rivals(bench: Bench, teacher: TeacherRow) -> list[RivalRow]:
    rounded = [sent_as(client.model, INT8) for client in bench.clients]
    in_int8 = tuple(replace(client, model=sent.model) for client, sent in zip(bench.clients, rounded, strict=True))
    whole_bytes, int8_bytes = len(in_int8) * teacher.weights_bytes, sum(sent.size_bytes for sent in rounded)

    def rival(name: str, own: Bench, size_bytes: int) -> RivalRow:
        return RivalRow(name, teacher.architecture, 0, _test(own, labeller_of(own).model), 0.0, size_bytes)

    return [
        rival("client_ensemble", bench, whole_bytes),
        rival("client_ensemble_int8", replace(bench, clients=in_int8), int8_bytes),
    ]


def _test(bench: Bench, model: torch.nn.Module) -> float:
    return accuracy(model, bench.test_images, bench.test_labels, bench.teacher.task)
