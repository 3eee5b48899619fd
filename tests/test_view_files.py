"""Labelled views in a release's file: half a byte a class, and what is refused."""

import dataclasses
import json
import tracemalloc

import numpy
import pytest
import torch
from encoded import rewritten

from dsv import (
    LEVELS,
    DsvError,
    ViewPlan,
    label_views,
)
from protos import artefact
from protos.artefact import ArtefactError
from protos.label_bytes import level_bytes, levels_of


@pytest.fixture(scope="module")
def with_views(support_set, teacher):
    views = label_views(teacher.model.eval(), support_set.images, support_set.task, ViewPlan(33))
    return dataclasses.replace(support_set, views=views)


@pytest.mark.parametrize("encoding", ["raw", "2-bit", "png"])
def test_round_trip(with_views, encoding, teacher):
    relabel = lambda images: torch.full((len(images), 10), 0.1)  # noqa: E731
    again_labelled = lambda images: label_views(teacher.model, images, with_views.task, ViewPlan(33))  # noqa: E731
    content = artefact.encode(with_views, encoding, relabel=relabel, label_views=again_labelled)
    again = artefact.decode(content)
    assert again.views.plan == ViewPlan(33)
    again.views.of(again.images, again.task)
    if encoding != "png":
        assert artefact.encode(again, encoding) == content
    without = artefact.encode(dataclasses.replace(again, views=None), encoding)
    assert 33 * 10 / 2 < len(content) - len(without) < 33 * 10 / 2 + 450


def test_an_encoding_that_alters_the_images_needs_their_views_anew(with_views):
    relabel = lambda images: torch.full((len(images), 10), 0.1)  # noqa: E731
    with pytest.raises(DsvError, match="their views must be labelled anew"):
        artefact.encode(with_views, "1-bit", relabel=relabel)
    bare = dataclasses.replace(with_views, views=None)
    assert artefact.decode(artefact.encode(bare, "1-bit", relabel=relabel)).views is None


@pytest.mark.parametrize("classes", [3, 4])
def test_half_bytes(classes):
    levels = (torch.arange(5 * classes) % LEVELS).view(5, classes).to(torch.uint8).numpy()
    packed = level_bytes(levels)
    assert packed.size == -(-5 * classes // 2) and int(packed[0]) == 0x01
    assert numpy.array_equal(levels_of(packed, 5, classes), levels)


def test_a_half_byte_behind_the_last():
    packed = level_bytes(numpy.zeros((5, 3), dtype=numpy.uint8))
    packed[-1] = 1
    with pytest.raises(DsvError, match="half byte behind"):
        levels_of(packed, 5, 3)


def altered(content, change):
    def header_of(header):
        metadata = json.loads(header["__metadata__"]["feddsv"])
        change(metadata, header)
        header["__metadata__"]["feddsv"] = json.dumps(metadata, sort_keys=True, separators=(",", ":"))

    return rewritten(content, header_of)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, h: m["views"].update(count=34), "take 170 bytes"),
        (lambda m, h: m["views"].update(count=2**18), "take 1310720 bytes"),
        (lambda m, h: m["views"].update(count=2**60), "count must be"),
        (lambda m, h: m["views"].update(extra=1), "views hold"),
        (lambda m, h: m["views"].pop("probe"), "views hold"),
        (lambda m, h: m["views"].update(probe=3), "views hold"),
        (lambda m, h: m["views"].update(probe=[[1]] * 8), "probe"),
        (lambda m, h: m["views"].update(scale=-1.0), "scale"),
        (lambda m, h: m.update(views=[]), "views hold"),
        (lambda m, h: m.pop("views"), "nothing else"),
        (lambda m, h: m.update(format="feddsv/2"), "nothing else"),
        (lambda m, h: h["view_labels"].update(shape=[5, 33]), "in one row"),
    ],
)
def test_hostile_views(with_views, change, message):
    bad = altered(artefact.encode(with_views), change)
    tracemalloc.start()
    try:
        with pytest.raises(ArtefactError, match=message):
            artefact.decode(bad)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 20 * len(bad) + (1 << 20)
