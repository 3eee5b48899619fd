"""What newcomers could have had instead: as many images, stored and labelled as the release's own are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from client.data import ImageSplit, open_split
from deploy.measure import confusion_row, weights_rivals
from deploy.options import HarnessSettings
from deploy.quantised import sent_as
from deploy.result import RivalRow, TeacherRow
from deploy.rivals import labeller_of, random_per_class, rival_jobs
from deploy.trainings import Bench
from dsv import accuracy, label_views, predict, share_correct, usual_views
from protos.encodings import ImageEncoding

SEED = 5


@pytest.fixture(scope="module")
def train(task) -> ImageSplit:
    return open_split("digits", "", "train", task)


@pytest.fixture(scope="module")
def bench(teacher, train) -> Bench:
    test = train.load(range(40))
    return Bench(teacher, train, test, train.labels[:40], HarnessSettings(), SEED, "cpu", ImageEncoding("2-bit"))


@pytest.fixture(scope="module")
def release(support_set, teacher):
    return support_set.with_views(teacher.model, usual_views(teacher.task, count=64))


@pytest.fixture(scope="module")
def jobs(bench, release):
    return {job.name: job for job in rival_jobs(bench, 2, release)}


def test_random_images_are_of_every_class_and_other_ones_for_every_seed(train, task):
    chosen = random_per_class(train.labels, task, 3, 1)
    assert train.labels[chosen].tolist() == [label for label in range(10) for _ in range(3)]
    assert chosen == random_per_class(train.labels, task, 3, 1) != random_per_class(train.labels, task, 3, 2)
    assert len(set(chosen)) == 30


def test_real_images_are_stored_as_the_releases_are_and_keep_their_classes(jobs, train, task, bench):
    images, labels = jobs["random_real_hard"].data(SEED + 1)
    drawn = train.load(random_per_class(train.labels, task, 2, SEED + 1))
    assert torch.equal(images, bench.encoding.decode(bench.encoding.encode(drawn), (20, 1, 8, 8)))
    assert not torch.equal(images, drawn) and labels.tolist() == [label for label in range(10) for _ in range(2)]


@pytest.mark.parametrize("name", ["noise_view", "random_real_view"])
def test_their_views_are_the_releases_and_labelled_by_the_same_teacher(name, jobs, release, teacher):
    images, views = jobs[name].data(SEED + 1)
    assert len(images) == len(release) and views.plan == release.views.plan
    again = label_views(teacher.model, images, teacher.task, release.views.plan)
    assert torch.equal(views.levels, again.levels)
    other, _ = jobs[name].data(SEED + 2)
    assert not torch.equal(images, other)


def test_bytes_are_of_pixels_and_labels(jobs, release):
    pixels = 20 * 64 // 4  # two bits each
    assert jobs["random_real_hard"].downloaded_bytes == pixels + 20
    labels = release.views.levels.numel() // 2
    assert jobs["noise_view"].downloaded_bytes == jobs["random_real_view"].downloaded_bytes == pixels + labels


def test_without_views_the_teacher_labels_each_image(bench, support_set, teacher):
    jobs = {job.name: job for job in rival_jobs(bench, 2, support_set)}
    assert set(jobs) == {"noise_soft", "random_real_hard", "random_real_soft"}
    images, labels = jobs["random_real_soft"].data(SEED + 1)
    torch.testing.assert_close(labels, predict(teacher.model, images, teacher.task))
    assert jobs["random_real_soft"].downloaded_bytes == 20 * 64 // 4 + 20 * 10


def test_weights_go_as_flower_sends_them_and_in_int8_with_what_that_costs(bench, teacher):
    row = TeacherRow(str(teacher.spec), 0.9, 1_000)
    whole, rounded = weights_rivals(bench, row)
    assert whole == RivalRow("teacher_weights", row.architecture, 0, 0.9, 0.0, 1_000)
    sent = sent_as(teacher.model, "int8")
    score = accuracy(sent.model, bench.test_images, bench.test_labels, teacher.task)
    assert rounded == RivalRow("teacher_weights_int8", row.architecture, 0, score, 0.0, sent.size_bytes)


def test_all_clients_models_take_the_bytes_of_them_all(bench, teacher):
    several = replace(bench, clients=(teacher,) * 3)
    rows = {row.name: row for row in weights_rivals(several, TeacherRow("convnet:4", 0.9, 1_000))}
    assert rows["client_ensemble"].downloaded_bytes == 3_000
    assert rows["client_ensemble_int8"].downloaded_bytes == 3 * rows["teacher_weights_int8"].downloaded_bytes
    score = share_correct(labeller_of(several).probabilities(bench.test_images), bench.test_labels)
    assert rows["client_ensemble"].accuracy_mean == score


def test_a_cell_of_a_confusion_names_the_class_first_and_then_what_it_was_taken_for():
    counts = torch.tensor([[5, 2], [0, 7]])
    row = confusion_row("newcomer", "convnet:4", 1, "hard", [counts, counts])
    assert row.counts == [(0, 0, 10), (0, 1, 4), (1, 1, 14)]
