"""The privacy promise: what may cross the line between a device and the server, and nothing else may.

Device to server: one array record with exactly the model's own tensors (names, shapes, dtypes; finite values), the
number of examples, and the scalar metrics of ``REPLY_METRICS``; after an evaluation, which is off by default, the
number of examples and the accuracy alone. Server to device: the same array record and the number of the round. No other
record, key, array, list, text or byte string; not even bytes after an array's last element. Where only part of a model
is trained (``RunSettings.trainable``), only that part is in the record; floats may travel as float16.

Both sides call the same functions: the client before it sends and after it receives, the server likewise. What this
cannot see is what the weights themselves reveal: see docs/privacy.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from dsv import DsvError

ARRAYS = "arrays"
METRICS = "metrics"
CONFIG = "config"
EXAMPLES = "num-examples"
LOSS = "train-loss"
ACCURACY = "accuracy"
ROUND = "server-round"

REPLY_METRICS = frozenset({EXAMPLES, LOSS})
EVALUATION_METRICS = frozenset({EXAMPLES, ACCURACY})
MAX_EXAMPLES = 10**9


class RefusedError(DsvError):
    """A message that holds something the allow-list does not name."""


@dataclass(frozen=True)
class ArrayLayout:
    """dtype and shape of one tensor."""

    dtype: str
    shape: tuple[int, ...]


Layout = dict[str, ArrayLayout]


def layout_of(arrays: ArrayRecord) -> Layout:
    """Names, dtypes and shapes of a record's arrays."""
    return {name: ArrayLayout(array.dtype, tuple(array.shape)) for name, array in arrays.items()}


def check_reply(content: RecordDict, expected: Layout) -> None:
    """Raise RefusedError unless ``content`` is what a device may send, for a model of layout ``expected``."""
    _only_records(content, {ARRAYS: ArrayRecord, METRICS: MetricRecord})
    _check_metrics(content.metric_records[METRICS], REPLY_METRICS)
    _check_arrays(content.array_records[ARRAYS], expected)


def check_evaluation(content: RecordDict) -> None:
    """Raise RefusedError unless ``content`` is what a device may send after an evaluation."""
    _only_records(content, {METRICS: MetricRecord})
    metrics = content.metric_records[METRICS]
    _check_metrics(metrics, EVALUATION_METRICS)
    accuracy = metrics.get(ACCURACY)
    if type(accuracy) is not float or not 0 <= accuracy <= 1:
        raise RefusedError(f"{ACCURACY} must be a number from 0 to 1")


def _check_metrics(metrics: MetricRecord, allowed: frozenset[str]) -> None:
    if unknown := set(metrics) - allowed:
        raise RefusedError(f"metric {_named(unknown)} is not on the allow-list")
    if missing := allowed - set(metrics):  # Flower ends the run where one client's metrics are others than the rest's
        raise RefusedError(f"metric {_named(set(missing))} is missing")
    examples = metrics.get(EXAMPLES)
    if type(examples) is not int or not 1 <= examples <= MAX_EXAMPLES:
        raise RefusedError(f"{EXAMPLES} must be a whole number from 1 to {MAX_EXAMPLES}")
    for key, value in metrics.items():
        if key != EXAMPLES and (type(value) is not float or not math.isfinite(value)):
            raise RefusedError(f"metric {key!r} must be one finite float")


def check_instruction(content: RecordDict, expected: Layout) -> None:
    """Raise RefusedError unless ``content`` is what the server may send to a device."""
    _only_records(content, {ARRAYS: ArrayRecord, CONFIG: ConfigRecord})
    config = content.config_records[CONFIG]
    if set(config) != {ROUND} or type(config[ROUND]) is not int:
        raise RefusedError(f"the instruction may hold {ROUND} alone, a whole number; got {_named(set(config))}")
    _check_arrays(content.array_records[ARRAYS], expected)


def _only_records(content: RecordDict, allowed: dict[str, type]) -> None:
    if unknown := set(content) - set(allowed):
        raise RefusedError(f"record {_named(unknown)} is not on the allow-list")
    for name, kind in allowed.items():
        if type(content.get(name)) is not kind:
            raise RefusedError(f"record {name!r} is missing or not of type {kind.__name__}")


def _check_arrays(arrays: ArrayRecord, expected: Layout) -> None:
    if unknown := set(arrays) - set(expected):
        raise RefusedError(f"array {_named(unknown)} is not one of the model's")
    if missing := set(expected) - set(arrays):
        raise RefusedError(f"array {_named(missing)} of the model is missing")
    for name, array in arrays.items():
        stated = ArrayLayout(array.dtype, tuple(array.shape))
        if stated != expected[name]:
            told = f"{repr(stated.dtype[:40])[1:-1]} {str(stated.shape[:8])[:80]}"  # the other side's words, for a log
            raise RefusedError(f"array {name!r} is {told}, expected {expected[name]}")
        values = _values(name, array)
        if ArrayLayout(str(values.dtype), values.shape) != expected[name]:
            raise RefusedError(f"array {name!r} states another layout than its data has")
        if Array(values).data != array.data:
            raise RefusedError(f"array {name!r} carries bytes beside its values")
        if values.dtype.kind == "f" and not bool(numpy.isfinite(values).all()):
            raise RefusedError(f"array {name!r} holds NaN or infinity")


def _values(name: str, array: Array) -> numpy.ndarray:
    try:
        values = array.numpy()
    except Exception:  # Flower's and numpy's own exceptions for hostile bytes are of many types
        raise RefusedError(f"array {name!r} cannot be read") from None
    if type(values) is not numpy.ndarray:  # numpy.load makes something else of a zip archive
        raise RefusedError(f"array {name!r} cannot be read")
    return values


def _named(names: set[str]) -> str:
    """At most five names, shortened: they come from the other side and end up in a log."""
    shown = ", ".join(repr(name[:40]) for name in sorted(names)[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
