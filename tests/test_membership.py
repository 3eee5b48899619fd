"""The attack of ``benchmarks/membership.py`` finds what there is to find, and nothing where there is none."""

from __future__ import annotations

import pytest
import torch

from benchmarks.membership import Row, Suspects, interval, markdown, sureness
from benchmarks.zero_shot_federations import Images
from client.data import open_split
from dsv import TrainingConfig, build_model, predict, train


@pytest.fixture(scope="module")
def real(task) -> Images:
    """Sixty members, and others."""
    split, test = (open_split("digits", "", part, task) for part in ("train", "test"))
    return Images(split.load(range(60)), split.labels[:60], test.images(), test.labels)


@pytest.fixture(scope="module")
def suspects(real, task) -> Suspects:
    half = len(real.test_labels) // 2
    images, labels = torch.cat([real.train, real.test[:half]]), torch.cat([real.train_labels, real.test_labels[:half]])
    return Suspects(images, labels, 60, torch.zeros(len(labels), dtype=torch.float64), task)


def test_sureness_is_the_log_odds_of_the_class_and_never_certain(teacher, real, task):
    shares = predict(teacher.model, real.test, task).double().gather(1, real.test_labels[:, None])[:, 0]
    found = sureness(teacher.model, real.test, real.test_labels, task)
    torch.testing.assert_close(found, (shares / (1 - shares)).log(), atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        sure = build_model(teacher.spec, seed=3)
        sure.classifier.weight.mul_(1e4)
    assert sureness(sure, real.test, real.test_labels, task).isfinite().all()


def test_a_model_that_learned_its_images_by_heart_gives_them_away(real, suspects, teacher, task):
    model = build_model(teacher.spec, seed=0)
    by_heart = TrainingConfig(300, "adamw", 0.02, cosine=True, weight_decay=0.0, batch_size=60, translate=0.0, crop=0.0)
    train(model, real.train, real.train_labels, task, by_heart, seed=0)
    row = suspects.attacked("f", "the weights", [model], "cpu")
    assert row.auc == row.auc_calibrated > 0.7 and row.found > 0.05 and (row.members, row.others) == (60, 179)
    same = Suspects(suspects.images, suspects.labels, 60, sureness(model, suspects.images, suspects.labels, task), task)
    assert same.attacked("f", "x", [model], "cpu").auc_calibrated == 0.5, "nothing is left beside itself"


def test_a_model_that_saw_nothing_tells_nothing(suspects, teacher):
    row = suspects.attacked("f", "x", [build_model(teacher.spec, seed=seed) for seed in range(3)], "cpu")
    assert abs(row.auc - 0.5) < 1.5 * interval(0.5, 60, 179)


def test_the_interval_of_an_area():
    assert interval(0.5, 100, 100) == pytest.approx(1.96 * (201 / 120_000) ** 0.5, rel=1e-2)  # Mann and Whitney's
    assert interval(1.0, 10, 10) == 0.0
    row = Row("f", "the weights", 0.5, 0.75, 0.7, 0.1, 100, 100, "m")
    assert "| f | the weights | 50.0% | 0.750 ± 0.067 |" in markdown([row])
