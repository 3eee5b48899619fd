"""The privacy promise: nothing but the model's weights, a count and listed scalars passes, in either direction."""

import io

import numpy
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from protos import allowlist
from protos.allowlist import RefusedError


def weights() -> dict[str, numpy.ndarray]:
    return {"a": numpy.ones((2, 3), numpy.float32), "n": numpy.array(4, numpy.int64)}


def arrays(**changed) -> ArrayRecord:
    return ArrayRecord({name: Array(value) for name, value in {**weights(), **changed}.items()})


LAYOUT = allowlist.layout_of(arrays())


def reply(record=None, metrics=None, **more) -> RecordDict:
    content = {"arrays": record or arrays(), "metrics": MetricRecord(metrics or {"num-examples": 7, "train-loss": 0.5})}
    return RecordDict({**content, **more})


def instruction(record=None, config=None, **more) -> RecordDict:
    content = {"arrays": record or arrays(), "config": ConfigRecord(config or {"server-round": 1})}
    return RecordDict({**content, **more})


def test_what_is_allowed_passes():
    allowlist.check_reply(reply(), LAYOUT)
    allowlist.check_instruction(instruction(), LAYOUT)


PIXELS = numpy.zeros((4, 1, 8, 8), numpy.uint8)
LABELS = numpy.arange(4)


@pytest.mark.parametrize("make", [reply, instruction])
@pytest.mark.parametrize("stolen", [PIXELS, LABELS, PIXELS.astype(numpy.float32)])
class TestEitherDirection:
    """Pixels and labels, wherever one could put them."""

    def check(self, make, content):
        {reply: allowlist.check_reply, instruction: allowlist.check_instruction}[make](content, LAYOUT)

    def test_as_an_extra_array(self, make, stolen):
        with pytest.raises(RefusedError, match="array 'x' is not one of the model's"):
            self.check(make, make(arrays(x=stolen)))

    def test_in_a_record_of_their_own(self, make, stolen):
        with pytest.raises(RefusedError, match="record 'data' is not on the allow-list"):
            self.check(make, make(data=ArrayRecord({"x": Array(stolen)})))

    def test_in_the_place_of_a_weight(self, make, stolen):
        with pytest.raises(RefusedError, match="array 'a' is"):
            self.check(make, make(arrays(a=stolen)))

    def test_as_config(self, make, stolen):
        with pytest.raises(RefusedError):
            self.check(make, make(extra=ConfigRecord({"x": stolen.tobytes()})))

    def test_as_metrics(self, make, stolen):
        with pytest.raises(RefusedError):
            self.check(make, make(extra=MetricRecord({"x": [float(v) for v in stolen.flatten()]})))

    def test_behind_an_array(self, make, stolen):
        record = arrays()
        clean = record["a"]
        record["a"] = Array(clean.dtype, clean.shape, clean.stype, clean.data + stolen.tobytes())
        with pytest.raises(RefusedError, match="carries bytes beside its values"):
            self.check(make, make(record))

    def test_in_an_array_that_states_another_shape(self, make, stolen):
        buffer = io.BytesIO()
        numpy.save(buffer, stolen)
        record = arrays()
        record["a"] = Array("float32", (2, 3), "numpy.ndarray", buffer.getvalue())
        with pytest.raises(RefusedError, match="states another layout"):
            self.check(make, make(record))


@pytest.mark.parametrize("bad", [numpy.nan, numpy.inf, -numpy.inf])
def test_weights_that_are_not_finite(bad):
    spoiled = weights()["a"]
    spoiled[1, 2] = bad
    with pytest.raises(RefusedError, match="array 'a' holds NaN or infinity"):
        allowlist.check_reply(reply(arrays(a=spoiled)), LAYOUT)


def test_a_weight_missing_or_renamed():
    record = arrays()
    del record["a"]
    with pytest.raises(RefusedError, match="array 'a' of the model is missing"):
        allowlist.check_reply(reply(record), LAYOUT)


def archive() -> bytes:
    buffer = io.BytesIO()
    numpy.savez(buffer, weights()["a"])
    return buffer.getvalue()


@pytest.mark.parametrize("data", [b"garbage", b"", archive()])
def test_bytes_that_are_no_array(data):
    record = arrays()
    record["a"] = Array("float32", (2, 3), "numpy.ndarray", data)
    with pytest.raises(RefusedError, match="array 'a' cannot be read"):
        allowlist.check_reply(reply(record), LAYOUT)


def test_a_pickled_array_is_not_opened():
    buffer = io.BytesIO()
    numpy.save(buffer, numpy.array([{"x": 1}], dtype=object), allow_pickle=True)
    record = arrays()
    record["a"] = Array("float32", (2, 3), "numpy.ndarray", buffer.getvalue())
    with pytest.raises(RefusedError, match="cannot be read"):
        allowlist.check_reply(reply(record), LAYOUT)


@pytest.mark.parametrize(
    "metrics",
    [
        {"num-examples": 0},
        {"num-examples": 7.5},
        {"num-examples": 10**12},
        {"train-loss": 1.0},
        {"num-examples": 7, "label-0": 3},
        {"num-examples": 7, "train-loss": [0.1, 0.2]},
        {"num-examples": 7, "train-loss": float("nan")},
        {"num-examples": 7, "train-loss": 10**400},
    ],
)
def test_metrics_beside_the_list(metrics):
    with pytest.raises(RefusedError, match=r"num-examples|metric"):
        allowlist.check_reply(reply(metrics=metrics), LAYOUT)


@pytest.mark.parametrize("config", [{"server-round": "1"}, {"server-round": 1, "note": "x"}, {"round": 1}])
def test_instructions_beside_the_list(config):
    with pytest.raises(RefusedError, match="server-round alone"):
        allowlist.check_instruction(instruction(config=config), LAYOUT)


def test_names_from_the_other_side_are_cut_in_the_message():
    with pytest.raises(RefusedError) as caught:
        allowlist.check_reply(reply(arrays(**{"y" * 5000: PIXELS})), LAYOUT)
    assert len(str(caught.value)) < 200


def test_every_metric_is_there():
    """Flower ends the whole run where the metrics of one client are others than the rest's."""
    with pytest.raises(RefusedError, match="metric 'train-loss' is missing"):
        allowlist.check_reply(reply(metrics={"num-examples": 1}), LAYOUT)


def test_every_record_is_of_its_kind():
    """A record of another kind under a listed name would be read as something else, or by nobody."""
    numbers = MetricRecord({"num-examples": 7, "train-loss": 0.5})
    with pytest.raises(RefusedError, match="record 'metrics' is missing or not of type MetricRecord"):
        allowlist.check_reply(RecordDict({"arrays": arrays(), "metrics": ConfigRecord(dict(numbers))}), LAYOUT)
    with pytest.raises(RefusedError, match="record 'arrays' is missing or not of type ArrayRecord"):
        allowlist.check_reply(RecordDict({"arrays": ConfigRecord({"a": b"pixels"}), "metrics": numbers}), LAYOUT)
    with pytest.raises(RefusedError, match="record 'config' is missing or not of type ConfigRecord"):
        allowlist.check_instruction(
            RecordDict({"arrays": arrays(), "config": MetricRecord({"server-round": 1})}), LAYOUT
        )


def test_what_a_client_states_of_an_array_forges_no_line_of_a_log_and_fills_none():
    good = Array(numpy.ones((2, 3), numpy.float32))
    for dtype, shape in (("float32\nINFO : all is well\x1b[2J" + "A" * 10**6, (2, 3)), ("float32", (1,) * 10**6)):
        stated = arrays()
        stated["a"] = Array(dtype=dtype, shape=shape, stype=good.stype, data=good.data)
        with pytest.raises(RefusedError) as refused:
            allowlist.check_reply(reply(stated), LAYOUT)
        assert str(refused.value).isprintable() and len(str(refused.value)) < 400
