"""Small files that claim to be huge: each is refused, quickly, without the memory that it asks for."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from encoded import rewritten

from protos import artefact
from protos.artefact import ArtefactError


def refused(bomb):
    tracemalloc.start()
    try:
        with pytest.raises(ArtefactError):
            artefact.decode(bomb)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 20 * len(bomb) + (1 << 20)


@pytest.mark.parametrize(
    "shape",
    [
        [2**40, 1, 8, 8],
        [20, 1, 2**20, 2**20],
        [2**32, 2**32, 1, 1],
        [2**63, 2, 1, 1],
        [0, 1, 2**31, 2**31],
        [1] * 10_000,
        [],
        [-1, 1, 8, 8],
        [1e300, 1, 8, 8],
    ],
)
def test_shapes_that_ask_for_more_than_there_is(content, shape):
    refused(rewritten(content, lambda header: header["images"].update(shape=shape)))


@pytest.mark.parametrize("offsets", [[0, 2**62], [2**63, 2**64 - 1], [100, 0], [0, 0]])
def test_ranges_beyond_the_file(content, offsets):
    refused(rewritten(content, lambda header: header["images"].update(data_offsets=offsets)))


@pytest.mark.parametrize("size_px", [4097, 2**31, 10**400, 0])
def test_images_of_an_absurd_size(content, size_px):
    def change(header):
        metadata = json.loads(header["__metadata__"]["feddsv"])
        metadata["task"]["image_size_px"] = size_px
        header["__metadata__"]["feddsv"] = json.dumps(metadata, sort_keys=True, separators=(",", ":"))

    refused(rewritten(content, change))


def test_a_million_class_names(content):
    def change(header):
        metadata = json.loads(header["__metadata__"]["feddsv"])
        metadata["task"]["class_names"] = [str(i) for i in range(1_000_000)]
        header["__metadata__"]["feddsv"] = json.dumps(metadata, sort_keys=True, separators=(",", ":"))

    refused(rewritten(content, change))


@pytest.mark.parametrize("nested", ["[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 50_000])
def test_nesting(content, nested):
    refused(rewritten(content, lambda header: header["__metadata__"].update(feddsv=nested)))
    text = nested.encode() + b" " * (-len(nested) % 8)
    refused(len(text).to_bytes(8, "little") + text)
