"""Soft labels in a byte each: 255ths that add up to one."""

from __future__ import annotations

from typing import Any

import numpy

from dsv import DsvError

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
