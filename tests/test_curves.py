"""A run's curves: from events to points, and TensorBoard's files."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from command_line import done

from deploy.curves import Curves, curves, write_curves
from dsv import DsvError
from server.events import (
    BytesMoved,
    ClientNumbered,
    EventLog,
    IterationDone,
    RoundDone,
    RoundEvaluated,
    SynthesisDone,
    read_events,
)

pytestmark = pytest.mark.usefixtures("a_flower_task")

EVENTS = [
    BytesMoved(1, 0, "weights", "down", 100),
    BytesMoved(1, 0, "weights", "up", 90),
    RoundDone(1, 2, 1, 0, 0.75),
    RoundEvaluated(1, 1, 0, 0.5),
    BytesMoved(2, 0, "weights", "down", 100),
    RoundDone(2, 2, 0, 1, None),
    IterationDone(10, 1, 2, 1.5, 1.0, 0.25, 0.0, 0.0, 2.0),
]


def test_events_become_points_of_curves():
    class Writer:
        def __init__(self):
            self.points: list[tuple[str, float, int]] = []

        def add_scalar(self, tag, value, step):
            self.points.append((tag, value, step))

    writer = Writer()
    into = Curves(writer)
    for event in EVENTS:
        into.add(event)
    points = writer.points
    assert into.points == len(points)
    for wanted in (
        ("federation/train_loss", 0.75, 1),
        ("federation/accuracy", 0.5, 1),
        ("federation/replies_refused", 1, 2),
        ("bytes_so_far/weights_down", 200, 2),
        ("synthesis_10_per_class/stationarity", 1.0, 1),
    ):
        assert wanted in points
    assert ("federation/train_loss", 2) not in [(tag, step) for tag, _, step in points]


def test_without_tensorboard_the_extra_is_named_before_anything_is_trained(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DsvError, match="its extra 'tensorboard'"), curves(tmp_path):
        pass


ITERATION = {"event": "IterationDone", **asdict(IterationDone(1, 1, 2, 3.0, 1.0, 1.0, 1.0, 0.0, 0.0))}


@pytest.mark.parametrize(
    "line",
    [
        '{"event": ' + "[" * 100_000,
        json.dumps({**ITERATION, "images_per_class": "x"}),
        json.dumps({**ITERATION, "images_per_class": 1.5}),
        json.dumps({**ITERATION, "iteration": True}),
        json.dumps({**ITERATION, "total": None}),
        json.dumps({**ITERATION, "total": 10**400}),
        json.dumps({"event": "Failed", "reason": 1}),
        json.dumps({"event": ["Failed"], "reason": ""}),
    ],
)
def test_a_line_that_is_no_event(tmp_path, line):
    (tmp_path / "events.jsonl").write_text(f"{line}\n")
    with pytest.raises(DsvError, match=r"events.jsonl holds a line that is no event: "):
        read_events(tmp_path)


def test_events_come_back_as_they_were_written(tmp_path):
    numbers = ClientNumbered(0, 2**64 - 1), RoundDone(1, 1, 0, 2, None), IterationDone(1, 1, 2, 3, *[math.inf] * 5)
    for event in (*EVENTS, *numbers):
        EventLog(tmp_path).write(event)
    assert read_events(tmp_path) == [*EVENTS, *numbers]


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for event in EVENTS:
        EventLog(tmp_path).write(event)
    folder = tmp_path / "curves"
    assert write_curves(tmp_path, folder) > 10
    found = EventAccumulator(str(folder)).Reload()
    assert [(p.step, p.value) for p in found.Scalars("federation/train_loss")] == [(1, 0.75)]
    assert "tensorboard --logdir" in done("tensorboard", tmp_path, "--logdir", tmp_path / "other")
    with pytest.raises(DsvError, match=r"holds no events.jsonl"):
        write_curves(Path(tmp_path / "curves"), tmp_path / "more")
    with pytest.raises(DsvError, match="holds curves already; remove events.out"):
        write_curves(tmp_path, folder)
    for _ in range(2):  # the run's own are written anew
        done("tensorboard", tmp_path)
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(p.step, p.value) for p in found.Scalars("federation/train_loss")] == [(1, 0.75)]


def test_what_a_killed_writer_left_of_a_line_is_taken_away(tmp_path):
    EventLog(tmp_path).write(SynthesisDone(1.0))
    with (tmp_path / "events.jsonl").open("a") as opened:
        opened.write('{"event": "Synthesi')
    EventLog(tmp_path).write(SynthesisDone(2.0))
    assert read_events(tmp_path) == [SynthesisDone(1.0), SynthesisDone(2.0)]
