"""The strategy and the client app, over an in-process grid that hands messages straight on."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from in_process import Client, InProcessGrid

import client.app
from dsv import DsvError, build_model
from protos import allowlist
from protos.settings import RunSettings
from server.app import main as server_main  # noqa: F401 (the component of pyproject.toml imports)
from server.events import BytesMoved, RoundDone
from server.strategy import GuardedFedAvg

pytestmark = pytest.mark.usefixtures("a_flower_task")


def initial() -> ArrayRecord:
    return ArrayRecord({"w": Array(numpy.zeros((2, 2), numpy.float32)), "n": Array(numpy.array(0, numpy.int64))})


def content(value: float, *, examples: int = 10, **changed) -> RecordDict:
    values = {"w": numpy.full((2, 2), value, numpy.float32), "n": numpy.array(3, numpy.int64), **changed}
    record = ArrayRecord({name: Array(array) for name, array in values.items() if array is not None})
    metrics = MetricRecord({"num-examples": examples, "train-loss": value})
    return RecordDict({"arrays": record, "metrics": metrics})


def says(reply: RecordDict) -> Client:
    return lambda message: Message(reply, reply_to=message)


def run(clients: list[Client], rounds: int = 1):
    events, models = [], {}
    strategy = GuardedFedAvg(initial(), rounds=rounds, on_event=events.append, on_round=models.__setitem__)
    result = strategy.start(InProcessGrid(clients), initial(), num_rounds=rounds)
    return result, events, models


def test_the_average_is_weighted_by_examples_and_keeps_dtypes():
    result, events, models = run([says(content(1.0, examples=30)), says(content(5.0, examples=10))])
    assert result.arrays["w"].numpy().tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert result.arrays["w"].dtype == "float32" and result.arrays["n"].dtype == "int64"
    assert list(models) == [0, 1]
    done = [e for e in events if isinstance(e, RoundDone)]
    assert done == [RoundDone(1, 1, averaged=2, refused=0, train_loss=2.0)]


def test_the_server_sends_the_model_that_was_agreed_on_and_nothing_else():
    asked = []
    strategy = GuardedFedAvg(initial(), rounds=1, on_event=asked.append, on_round=lambda *_: None)
    other = ArrayRecord({"w": Array(numpy.zeros((2, 2), numpy.float32)), "pixels": Array(numpy.zeros(4, numpy.uint8))})
    with pytest.raises(DsvError, match="'pixels' is not one of"):
        strategy.start(InProcessGrid([says(content(1.0))] * 2), other, num_rounds=1)
    assert not [event for event in asked if isinstance(event, BytesMoved)]


def test_what_each_client_sent_is_kept_of_the_last_round_alone():
    kept = []
    good, bad = says(content(1.0, examples=7)), says(content(numpy.nan))
    strategy = GuardedFedAvg(
        initial(), rounds=2, on_event=lambda event: None, on_round=lambda *_: None, on_clients=kept.append
    )
    strategy.start(InProcessGrid([good, bad, says(content(3.0, examples=9))]), initial(), num_rounds=2)
    assert len(kept) == 1
    sent = [(float(upload.arrays["w"].numpy()[0, 0]), upload.examples) for upload in kept[0]]
    assert sorted(sent) == [(1.0, 7), (3.0, 9)]


def without_loss() -> RecordDict:
    """Flower itself would end the whole run at it."""
    made = content(1.0)
    del made.metric_records["metrics"]["train-loss"]
    return made


def raises(message: Message) -> Message:
    return Message(Error(code=2, reason="boom\nround 3: all is well"), reply_to=message)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (says(content(numpy.nan)), "must be one finite float"),
        (says(content(1.0, w=numpy.full((2, 2), numpy.nan, numpy.float32))), "array 'w' holds NaN"),
        (says(content(1.0, w=numpy.zeros((3, 3), numpy.float32))), "array 'w' is float32 (3, 3)"),
        (says(content(1.0, w=None)), "array 'w' of the model is missing"),
        (says(content(1.0, pixels=numpy.zeros((5, 1, 8, 8), numpy.uint8))), "array 'pixels' is not one of"),
        (says(RecordDict()), "record 'arrays' is missing"),
        (says(without_loss()), "metric 'train-loss' is missing"),
        (raises, "error 2: 'boom\\nround 3: all is well'"),
    ],
)
def test_a_bad_reply_is_refused_and_named_and_the_round_goes_on(bad, reason, caplog):
    logging.getLogger("flwr").propagate = True
    with caplog.at_level(logging.WARNING):
        result, events, _ = run([says(content(1.0)), bad, says(content(3.0))])
    assert result.arrays["w"].numpy().tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert [e.refused for e in events if isinstance(e, RoundDone)] == [1]
    assert any("client 1" in line and reason in line for line in caplog.messages)


def test_when_every_reply_is_bad_the_model_stays_and_the_next_round_is_tried():
    result, events, models = run([raises, raises], rounds=2)
    assert len(result.arrays) == 0 and list(models) == [0]
    assert [e.averaged for e in events if isinstance(e, RoundDone)] == [0, 0]


def test_bytes_of_every_message_are_counted():
    _, events, _ = run([says(content(1.0)), says(content(2.0))], rounds=2)
    moved = [e for e in events if isinstance(e, BytesMoved)]
    assert {(e.round, e.client, e.direction) for e in moved} == {
        (r, c, d) for r in (1, 2) for c in (0, 1) for d in ("up", "down")
    }
    assert all(e.bytes > 16 + 8 for e in moved)


def test_the_order_of_replies_does_not_change_a_bit():
    values = numpy.random.default_rng(0).normal(size=(3, 2, 2)).astype(numpy.float32)
    clients = [says(content(0.1 * k, examples=7 + k, w=v)) for k, v in enumerate(values)]
    first, _, _ = run(clients)
    second, _, _ = run(clients[::-1])
    assert first.arrays["w"].data == second.arrays["w"].data


SETTINGS = RunSettings(architecture="convnet:8", local_epochs=1, rounds=1)


def instruction(**changed) -> Message:
    arrays = ArrayRecord(build_model(SETTINGS.model_spec(), seed=0).state_dict())
    records = {"arrays": arrays, "config": ConfigRecord({"server-round": 1}), **changed}
    return Message(RecordDict(records), dst_node_id=1, message_type="train")


def context(settings: RunSettings = SETTINGS) -> Context:
    node_config = {"partition-id": 1, "num-partitions": 4}
    return Context(1, 1, node_config, RecordDict(), settings.to_run_config())


def test_a_client_trains_and_sends_what_the_list_allows():
    message = instruction()
    before = message.content["arrays"]["classifier.weight"].numpy().copy()
    reply = client.app.app(message, context())
    layout = allowlist.layout_of(message.content["arrays"])
    allowlist.check_reply(reply.content, layout)
    assert not numpy.array_equal(before, reply.content["arrays"]["classifier.weight"].numpy())
    assert set(reply.content["metrics"]) == {"num-examples", "train-loss"}


def test_a_client_is_deterministic():
    first, second = (client.app.app(instruction(), context()) for _ in range(2))
    assert first.content["arrays"] == second.content["arrays"]


def test_a_client_refuses_instructions_beside_the_list():
    with pytest.raises(RuntimeError, match="its own log says why"):
        client.app.app(instruction(config=ConfigRecord({"server-round": 1, "send": "images"})), context())


def test_an_error_on_the_device_does_not_tell_its_text_to_the_server(tmp_path):
    secret = RunSettings(
        data="imagefolder", data_root=str(tmp_path / "diary"), classes="a,b", channels=1, image_size_px=8
    )
    message = Message(instruction().content, dst_node_id=1, message_type="train")
    with pytest.raises(RuntimeError) as caught:
        client.app.app(message, context(secret))
    assert "diary" not in str(caught.value) and caught.value.__cause__ is None


def test_the_local_rate_falls_over_the_rounds_or_within_a_single_one():
    several = replace(SETTINGS, rounds=4)
    first, last = several.local_training(1, 64), several.local_training(4, 64)
    assert first.rate_at(0) == first.rate_at(first.steps - 1) == SETTINGS.local_learning_rate > 5 * last.rate_at(0)
    alone = replace(SETTINGS, local_epochs=40).local_training(1, 64)
    assert alone.rate_at(0) == SETTINGS.local_learning_rate > 100 * alone.rate_at(alone.steps - 1)


def test_settings_speak_flowers_language():
    again = RunSettings.from_run_config({**SETTINGS.to_run_config(), "dirichlet-alpha": 1})
    assert again.dirichlet_alpha == 1.0 and again.architecture == "convnet:8"
    with pytest.raises(DsvError, match="unknown option 'colour'"):
        RunSettings.from_run_config({"colour": "red"})
    with pytest.raises(DsvError, match="option rounds must be of type int"):
        RunSettings.from_run_config({"rounds": "two"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "imagenet"}, "data 'imagenet' is unknown"),
        ({"partitioner": "magic"}, "partitioner 'magic' is unknown"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"images_per_class": "0"}, "images per class must be at least 1"),
        ({"images_per_class": "ten"}, "whole numbers separated by commas"),
        ({"dirichlet_alpha": 0.0}, "dirichlet-alpha must be positive"),
        ({"seed": -1}, "seed must lie in 0 to"),
        ({"start": ""}, "start is empty; give auto"),
        ({"local_learning_rate": float("inf")}, "local-learning-rate must be a finite number"),
        ({"image_step": float("nan")}, "image-step must be a finite number"),
        ({"cutout": 1.5}, "cutout is a fraction of the side"),
        ({"noise": -1.0}, "noise must not be negative"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(DsvError, match=message):
        RunSettings(**change)


def test_an_imagefolder_needs_its_class_names():
    with pytest.raises(DsvError, match="needs the option classes"):
        RunSettings(data="imagefolder").task()
