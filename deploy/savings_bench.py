"""What the savings need beyond a finished run: trained, synthesised, quantised and tested here and now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from client.bootstrap import train_newcomer
from client.download import Download, download
from deploy import savings_ways as ways_of
from deploy.finished_run import FinishedRun, RunData
from deploy.one_shot import one_shot, one_shot_release
from deploy.quantised import sent_as
from deploy.result import RivalRow
from deploy.rivals import compared_kinds, random_per_class, released
from deploy.savings import Kind, Way
from deploy.savings_file import target_of
from deploy.trainings import Bench, Job, run_jobs, same_for_every_seed, summary
from dsv import SupportSet, Targets, accuracy, newcomer_training, train
from protos import artefact
from protos.checkpoint import Checkpoint
from protos.encodings import ImageEncoding
from protos.exchange import WHOLE, starting_model
from server.distribution import run_server
from server.progress import Display
from server.run_folder import STORE_FOLDER
from server.store import DirectoryStore

CORESETS = (1, 2, 5, 10, 20, 50, 100)
_QUANTISED = {
    Kind.WEIGHTS_FLOAT32: "float32",
    Kind.WEIGHTS_FLOAT16: "float16",
    Kind.WEIGHTS_INT8: "int8",
}
UP_TO_TARGET = (Kind.FEDAVG, *_QUANTISED, Kind.RANDOM_REAL)
"""Measured until they are as good as asked for, or quantised there."""


def one_shots_to_measure(run: FinishedRun, measured: Sequence[Way], wanted: Sequence[str]) -> list[str]:
    """Those teachers of the one-shot way that no measured way has, and that there are: of a part of a model, clients
    make no ensemble."""
    seen = {way.variant.split()[0] for way in measured if way.kind is Kind.ONE_SHOT_DSV}
    whole = run.settings.trainable == WHOLE
    return [kind for kind in wanted if kind not in seen and (whole or kind != "ensemble")]


class SavingsBench:
    """Measures every way for one finished run.

    It takes as long as a few newcomers, one client with all images, and two syntheses.

    Raises:
        DsvError: the run's images are gone, or do not fit.
    """

    def __init__(self, run: FinishedRun, display: Display) -> None:
        self._run, self._display = run, display
        self._data: RunData = run.data()
        self._images = self._data.test.images()
        self._device = run.settings.device
        self._seconds: dict[str, float] = {}

    def parts(
        self, measured: Sequence[Way], target: float, one_shot: Sequence[str]
    ) -> Iterator[Callable[[], Iterable[Way]]]:
        """What is still to be measured, cheap things first: each part, when it is called, measures its ways.

        Args:
            measured: ways that an earlier call has measured; their kinds are left out.
            target: the accuracy that the ways will be compared at, 0 to 1; 0 takes that of the run's best DSVs.
            one_shot: teachers of the one-shot way: ``average``, ``ensemble``, both or none.
        """
        have = {way.kind for way in measured}
        dsv = [way for way in measured if way.kind is Kind.FEDAVG_DSV]
        dsv = dsv or ways_of.fedavg_dsv(self._run, self._training_s)
        target = target or target_of(dsv)
        if Kind.FEDAVG_DSV not in have:
            yield lambda: dsv
        if Kind.FEDAVG not in have:
            yield lambda: self._federated(target)
        if Kind.RANDOM_REAL not in have:
            yield lambda: self._random_real(target)
        if Kind.RAW_IMAGES not in have:
            yield self._raw_images
        if wanted := one_shots_to_measure(self._run, measured, one_shot):
            yield lambda: self._one_shot(wanted)

    def _test(self, model: nn.Module) -> float:
        task = self._run.settings.task()
        return accuracy(model.to(self._device), self._images, self._data.test.labels, task)

    def _bench(self, teacher: Checkpoint) -> Bench:
        labels, settings = self._data.test.labels, self._run.settings
        harness, encoding = self._run.harness, ImageEncoding(settings.image_encoding)
        return Bench(teacher, self._data.train, self._images, labels, harness, settings.seed, settings.device, encoding)

    def _training_s(self, labels: str, support_set: SupportSet | None = None) -> float:
        """How long a newcomer trains on this machine, on one thread, towards labels of one kind (from views it takes
        more steps than from classes): from the run's largest release, or a set that has such labels."""
        if labels not in self._seconds:
            if support_set is None:
                release = max(self._run.result.newcomers, key=lambda row: row.images_per_class)
                store = DirectoryStore(self._run.folder / STORE_FOLDER)
                support_set = artefact.load(store.path(release.release_digest))
            self._seconds[labels] = self._timed(support_set, support_set.targets(labels))
        return self._seconds[labels]

    def _timed(self, support_set: SupportSet, targets: Targets) -> float:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        config = newcomer_training(self._run.harness.newcomer_steps, targets)
        started = time.process_time()
        train_newcomer(
            self._run.harness.architectures[0],
            support_set.images,
            targets,
            support_set.task,
            config,
            seed=0,
            device=self._device,
        )
        seconds = time.process_time() - started  # on a busy machine, the clock on the wall tells of others' work
        torch.set_num_threads(threads)
        return seconds

    def _raw_images(self) -> Iterator[Way]:
        settings = self._run.settings
        own = sorted({index for part in self._data.parts for index in part})
        long = replace(settings, rounds=1, local_epochs=settings.local_epochs * settings.rounds)
        config = long.local_training(1, len(own))
        model = starting_model(settings).to(self._device)
        images, labels = self._data.train.load(own), self._data.train.labels[own]
        train(
            model,
            images,
            labels,
            settings.task(),
            config,
            seed=settings.seed,
            on_step=self._every("all images on the server", config.steps),
        )
        for bits in ("float32", "int8"):
            sent = sent_as(model, bits)
            yield ways_of.raw_images(self._run, bits, sent.size_bytes, self._test(sent.model))

    def _every(self, name: str, total: int) -> Callable[[int, float], None]:
        def on_step(done: int, loss: float) -> None:
            if done % max(1, total // 20) == 0:
                self._display.update(name, done, total, f"loss {loss:.3f}")

        return on_step

    def _federated(self, target: float) -> Iterator[Way]:
        """The model of every round: as it is, and quantised at the end and where it first is good enough."""
        rounds, reached_by = self._run.settings.rounds, set[Kind]()
        for number in range(1, rounds + 1):
            model = self._run.after_round(number).model
            score = self._test(model)
            self._display.update("models of the rounds", number, rounds, f"{score:.1%}")
            yield ways_of.fedavg(self._run, number, score)
            for kind, name in _QUANTISED.items():
                # rounding may cost what was just reached: each format is tried on until it is there too
                tried = number == rounds or (score >= target and kind not in reached_by)
                if kind is Kind.WEIGHTS_FLOAT32 or tried:
                    sent = sent_as(model, name)
                    reached = score if kind is Kind.WEIGHTS_FLOAT32 else self._test(sent.model)
                    reached_by |= {kind} if reached >= target else set()
                    yield ways_of.weights(self._run, kind, number, sent.size_bytes, reached)

    def _one_shot(self, wanted: Sequence[str]) -> Iterator[Way]:
        settings, name = self._run.settings, "clients, one shot"
        made = one_shot(
            settings, self._data.train, self._data.parts, lambda done, of: self._display.update(name, done, of, "")
        )
        teachers: dict[str, nn.Module] = {"average": made.average, "ensemble": made.ensemble}
        for kind, model in teachers.items():
            if kind in wanted:
                score = self._test(model)
                self._display.say(f"one shot, {kind} of {self._run.harness.clients} models: {score:.1%}")
                for bits in ("float32", "int8"):
                    sent = sent_as(model, bits)
                    reached = score if bits == "float32" else self._test(sent.model)
                    yield ways_of.one_shot_weights(self._run, f"{kind}, {bits}", sent.size_bytes, reached)
                yield self._from_one_shot(kind, model, score)

    def _from_one_shot(self, kind: str, model: nn.Module, score: float) -> Way:
        run, count = self._run, max(self._run.settings.releases)
        every = self._every(f"synthesis from the {kind}", run.settings.iterations)
        teacher = f"{kind} of {run.harness.clients} {run.settings.model_spec()}"
        got = _downloaded(one_shot_release(run.settings, model, count, teacher=teacher, on_iteration=every))
        reached, labels = max((self._trained(got, kind), kind) for kind in compared_kinds(got.support_set))
        variant = f"{kind} {score:.1%}, {count}/class, {labels}"
        training_s = self._training_s(labels, got.support_set)
        return ways_of.one_shot_dsv(run, variant, reached, downloaded_bytes=got.bytes_down, training_s=training_s)

    def _trained(self, got: Download, labels: str) -> tuple[float, float]:
        """Mean and deviation of newcomers that train from a release."""
        targets = got.support_set.targets(labels)
        return self._newcomers("one shot", same_for_every_seed(got.support_set.images, targets))

    def _newcomers(self, name: str, data: Callable[[int], tuple[Tensor, Targets]]) -> tuple[float, float]:
        job = Job(name, self._run.harness.architectures[0], 0, "", 0, "", data)
        note = lambda done, of, told: self._display.update("newcomers", done, of, told)  # noqa: E731
        outcomes = run_jobs(self._bench(self._run.teacher()), [job], note)[0]
        return summary([outcome.accuracy for outcome in outcomes])

    def _random_real(self, target: float) -> Iterator[Way]:
        """As many images as the run's releases hold, and more, until they are good enough."""
        run, images = self._run, self._data.train
        known = {row.images_per_class: row for row in run.result.rivals if row.name == "random_real_hard"}
        smallest_class = int(torch.bincount(images.labels, minlength=run.settings.task().classes).min())
        for count in sorted({*known, *(c for c in CORESETS if c <= smallest_class)}):
            row = known.get(count) or RivalRow(
                "random_real_hard", run.harness.architectures[0], count, *self._drawn(count), 0
            )
            yield ways_of.random_real(run, row, images, self._training_s("hard"))
            if row.accuracy_mean >= target and count >= max(known):
                return

    def _drawn(self, count: int) -> tuple[float, float]:
        images, task = self._data.train, self._run.settings.task()
        bench = self._bench(self._run.teacher())

        def data(seed: int) -> tuple[Tensor, Tensor]:
            indices = random_per_class(images.labels, task, count, seed)
            return released(bench, images.load(indices))[0], images.labels[indices]

        return self._newcomers(f"{count} real images per class", data)


def _downloaded(content: bytes) -> Download:
    """A release as it arrives over gRPC."""
    with TemporaryDirectory() as folder:
        store = DirectoryStore(Path(folder))
        digest = store.publish(content)
        with run_server(store) as address:
            return download(address, digest)
