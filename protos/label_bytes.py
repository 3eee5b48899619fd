"""Soft labels in a byte each, 255ths that add up to one; logits of views in half a byte each."""

from __future__ import annotations

from typing import Any

import numpy

from dsv import LEVELS, DsvError

WHOLE = 255


def probability_bytes(soft_labels: numpy.ndarray[Any, Any]) -> numpy.ndarray[Any, Any]:
    """(N, K) uint8 whose rows add up to 255, nearest to the shares of each row (largest remainders are rounded up).

    What ``probabilities_of`` gives comes back as the same bytes.

    Raises:
        DsvError: a row of zeros.
    """
    sums = soft_labels.sum(axis=1, keepdims=True, dtype=numpy.float64)
    if not bool((sums > 0).all()):
        raise DsvError("soft labels of an image are all zero; give it probabilities")
    scaled = soft_labels / sums * WHOLE
    whole = numpy.floor(scaled)
    left = WHOLE - whole.sum(axis=1, dtype=numpy.int64)
    order = numpy.argsort(whole - scaled, axis=1, kind="stable")
    up = numpy.arange(soft_labels.shape[1]) < left[:, None]
    numpy.put_along_axis(whole, order, numpy.take_along_axis(whole, order, 1) + up, 1)
    stored: numpy.ndarray[Any, Any] = whole.astype(numpy.uint8)
    return stored


def probabilities_of(stored: numpy.ndarray[Any, Any]) -> numpy.ndarray[Any, Any]:
    """(N, K) float32 of bytes that strangers may have made.

    Raises:
        DsvError: not rows that each add up to 255.
    """
    if stored.ndim != 2 or not bool((stored.sum(axis=1, dtype=numpy.int64) == WHOLE).all()):
        raise DsvError(f"soft labels in bytes must be rows that each add up to {WHOLE}")
    shares: numpy.ndarray[Any, Any] = numpy.divide(stored, WHOLE, dtype=numpy.float32)
    return shares


def level_size_bytes(count: int) -> int:
    """What so many levels take: half a byte each, rounded up."""
    return -(-count // 2)


def level_bytes(levels: numpy.ndarray[Any, Any]) -> numpy.ndarray[Any, Any]:
    """One row of bytes, two levels each, the first in the high half; an odd number of levels leaves zeros behind."""
    even = numpy.append(levels.reshape(-1), numpy.zeros(levels.size % 2, dtype=numpy.uint8))
    packed: numpy.ndarray[Any, Any] = (even[::2] * LEVELS + even[1::2]).astype(numpy.uint8)
    return packed


def levels_of(packed: numpy.ndarray[Any, Any], views: int, classes: int) -> numpy.ndarray[Any, Any]:
    """(V, K) uint8 levels of bytes that strangers may have made.

    Raises:
        DsvError: not one row of as many bytes as the levels take, or a half byte behind them that is not zero.
    """
    count = views * classes
    if packed.ndim != 1 or packed.size != level_size_bytes(count):
        raise DsvError(f"{count} labels of views take {level_size_bytes(count)} bytes in one row, got {packed.shape}")
    levels = numpy.stack([packed // LEVELS, packed % LEVELS], axis=1).reshape(-1)
    if levels[count:].any():
        raise DsvError("the half byte behind the last label of the views is not zero")
    return levels[:count].reshape(views, classes)
