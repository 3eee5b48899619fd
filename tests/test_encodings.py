"""Image encodings: round trips, and what a reader checks."""

import dataclasses
import json
import math
import random
from fractions import Fraction

import numpy
import pytest
import torch
from encoded import ALL, EXACT, LOSSY, PACKED, drawn, needed, parts, with_images
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import features

from dsv import DsvError, Task, predict
from protos import artefact
from protos.artefact import ArtefactError
from protos.encodings import ImageEncoding
from protos.label_bytes import probabilities_of, probability_bytes
from protos.sheets import grid


@pytest.fixture(scope="module", params=ALL)
def release(request, support_set, teacher):
    needed(request.param)
    return artefact.encode(
        support_set, request.param, relabel=lambda images: predict(teacher.model, images, teacher.task)
    )


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("count", "channels", "side"), [(20, 1, 8), (7, 3, 5), (1, 1, 1), (6, 3, 32)])
def test_images_come_back(name, count, channels, side):
    needed(name)
    encoding, images = ImageEncoding(name), drawn(count, channels, side)
    content = encoding.encode(images)
    again = encoding.decode(content, tuple(images.shape))
    assert again.shape == images.shape and again.dtype == torch.uint8
    assert encoding.encode(images) == content
    error = (again.int() - images.int()).abs().max()
    if name in EXACT:
        assert error == 0
    if name in PACKED:
        assert len(content) == -(-images.numel() * encoding.bits // 8)
        assert error <= -(-255 // (2 * (2**encoding.bits - 1)))
        assert encoding.encode(again) == content


def test_a_long_row_of_packed_values(monkeypatch):
    monkeypatch.setattr("protos.encodings._PACKED_AT_ONCE", 64)
    images = drawn(5, 3, 9)
    for name in PACKED:
        again = ImageEncoding(name).decode(ImageEncoding(name).encode(images), tuple(images.shape))
        assert (again.int() - images.int()).abs().max() <= 128


def test_levels_of_two_bits_by_hand():
    images = torch.tensor([0, 42, 43, 127, 128, 212, 213, 255], dtype=torch.uint8)[:, None, None, None]
    content = ImageEncoding("2-bit").encode(images)
    assert content == bytes([0b00_00_01_01, 0b10_10_11_11])
    assert ImageEncoding("2-bit").decode(content, (8, 1, 1, 1)).flatten().tolist() == [0, 0, 85, 85, 170, 170, 255, 255]


@pytest.mark.parametrize("bits", range(1, 8))
def test_levels_are_the_nearest_and_come_back_rounded(bits):
    """Against fractions, for every value that a pixel can have."""
    top, encoding = 2**bits - 1, ImageEncoding(f"{bits}-bit")
    values = torch.arange(256, dtype=torch.uint8)[:, None, None, None]
    again = encoding.decode(encoding.encode(values), (256, 1, 1, 1)).flatten().tolist()
    for value, decoded in enumerate(again):
        level = min(range(top + 1), key=lambda level: abs(Fraction(255 * level, top) - value))
        assert decoded == math.floor(Fraction(255 * level, top) + Fraction(1, 2))


@pytest.mark.parametrize(("classes", "dtype"), [(256, "uint8"), (257, "uint16")])
def test_a_label_takes_a_byte_as_long_as_every_class_has_one(classes, dtype, support_set):
    task = dataclasses.replace(support_set.task, class_names=tuple(f"c{i}" for i in range(classes)))
    labels = torch.full((20,), classes - 1)
    soft = torch.zeros(20, classes).index_fill(1, torch.tensor([classes - 1]), 1.0)
    content = artefact.encode(dataclasses.replace(support_set, labels=labels, soft_labels=soft, task=task), "png")
    assert parts(content)[0]["labels"]["dtype"] == {"uint8": "U8", "uint16": "U16"}[dtype]
    assert torch.equal(artefact.decode(content).labels, labels)
    assert ImageEncoding("png").label_bytes(task, soft=False) == (1 if dtype == "uint8" else 2)


@pytest.mark.parametrize("name", ["raw", "png"])
def test_the_bytes_of_a_label_are_those_that_a_release_spends(name, support_set):
    header, task = parts(artefact.encode(support_set, name))[0], support_set.task
    for tensor, soft in (("labels", False), ("soft_labels", True)):
        begin, end = header[tensor]["data_offsets"]
        assert ImageEncoding(name).label_bytes(task, soft=soft) * len(support_set) == end - begin


@pytest.mark.parametrize("name", ["png", "webp", "avif:60"])
def test_a_file_far_larger_than_its_pixels_is_not_looked_through(name):
    with pytest.raises(DsvError, match="encoded bytes for images of 1280 hold more than these images"):
        ImageEncoding(name).decode(bytes(2 * 1280 + (1 << 16) + 1), (20, 1, 8, 8))


def test_a_multiplier_beyond_half_precision_is_the_largest_that_it_holds(support_set):
    large = dataclasses.replace(support_set, multipliers=torch.full((20,), 1e6))
    assert artefact.decode(artefact.encode(large, "png")).multipliers.tolist() == [65_504.0] * 20
    assert artefact.decode(artefact.encode(large)).multipliers.tolist() == [1e6] * 20


@pytest.mark.parametrize(
    ("count", "expected"), [(1, (1, 1)), (10, (5, 2)), (100, (10, 10)), (7, (7, 1)), (500, (25, 20))]
)
def test_a_sheet_has_no_empty_place(count, expected):
    assert grid(count) == expected


def test_a_release_in_every_encoding(release, support_set, teacher):
    again = artefact.decode(release)
    encoding = artefact.encoding_of(release)
    assert torch.equal(again.labels, support_set.labels)
    assert (again.task, again.provenance) == (support_set.task, support_set.provenance)
    torch.testing.assert_close(again.multipliers, support_set.multipliers, atol=1e-4, rtol=1e-3)
    # the soft labels are the teacher's for the pixels that a newcomer gets
    seen = predict(teacher.model, again.images, teacher.task)
    torch.testing.assert_close(again.soft_labels, seen, atol=1 / 255, rtol=0)
    metadata = json.loads(parts(release)[0]["__metadata__"]["feddsv"])
    assert metadata["format"] == ("feddsv/1" if encoding == "raw" else "feddsv/2")
    if encoding not in LOSSY:
        assert artefact.encode(again, encoding) == release


def test_raw_releases_are_the_bytes_that_older_software_reads(support_set):
    assert json.loads(parts(artefact.encode(support_set))[0]["__metadata__"]["feddsv"])["format"] == "feddsv/1"


def test_a_lossy_encoding_needs_new_labels(support_set):
    for name in ("webp:10", "1-bit"):
        needed(name)
        with pytest.raises(DsvError, match=f"encoding {name} alters these images, .* relabel"):
            artefact.encode(support_set, name)


def test_many_classes_have_wide_labels(support_set):
    classes = 300
    task = dataclasses.replace(support_set.task, class_names=tuple(f"c{i}" for i in range(classes)))
    soft = torch.rand(20, classes, generator=torch.Generator().manual_seed(0)) ** 20
    labels = torch.arange(20) + 280
    wide = dataclasses.replace(support_set, labels=labels, soft_labels=soft / soft.sum(1, keepdim=True), task=task)
    content = artefact.encode(wide, "png")
    again = artefact.decode(content)
    assert torch.equal(again.labels, labels) and artefact.encode(again, "png") == content


@pytest.mark.parametrize(
    "name", ["", "5bit", "8-bit", "0-bit", "jpeg:50", "webp:0", "webp:101", "png:3", "avif", "RAW"]
)
def test_an_unknown_encoding(name, support_set):
    with pytest.raises(DsvError, match="unknown image encoding"):
        artefact.encode(support_set, name)


@pytest.mark.parametrize("encoding", ["raw", "9-bit", "webp:0", 4, None, ["png"], "x" * 1000])
def test_a_release_that_names_another_encoding(support_set, encoding):
    content = artefact.encode(support_set, "png")
    _, payload, begin, end = parts(content)
    with pytest.raises(ArtefactError, match="unknown image encoding|raw images as feddsv/2"):
        artefact.decode(with_images(content, payload[begin:end], encoding=encoding))


def test_a_machine_whose_pillow_lacks_the_format(support_set, teacher, monkeypatch):
    def label(images):
        return predict(teacher.model, images, teacher.task)

    needed("avif:50")
    content = artefact.encode(support_set, "avif:50", relabel=label)
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(ArtefactError, match="encoded as avif, which this machine's Pillow does not read"):
        artefact.decode(content)


def test_a_sheet_too_long_for_its_format():
    with pytest.raises(DsvError, match="webp picture of 32 x 32992 would be too large; use 4-bit or raw"):
        ImageEncoding("webp").encode(torch.zeros(1031, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("name", "fit", "too_many"), [("raw", 7133, 7134), ("2-bit", 7133, 7134), ("png", 1332, 1352), ("webp", 1332, 1352)]
)
def test_too_many_images_are_refused_before_there_are_any(name, fit, too_many):
    """1 GiB of pixels, or 2^26 pixels of a sheet, of 3 x 224 x 224."""
    task = Task(3, 224, ("a", "b"), (0.5,) * 3, (0.5,) * 3)
    ImageEncoding(name).check_works(task, fit)
    with pytest.raises(DsvError, match="above the limits|would be too large"):
        ImageEncoding(name).check_works(task, too_many)


def test_a_release_that_no_reader_would_take_is_not_written(support_set, monkeypatch):
    monkeypatch.setattr(artefact, "MAX_SIZE_BYTES", 1000)
    with pytest.raises(DsvError, match="is above the limit of 1000; make fewer DSVs"):
        artefact.encode(support_set)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(2, 300), st.integers(0, 2**32))
def test_soft_labels_in_bytes(count, classes, seed):
    shares = numpy.random.default_rng(seed).random((count, classes)) ** random.Random(seed).choice([0, 1, 8, 64])
    shares = (shares / shares.sum(1, keepdims=True)).astype(numpy.float32)
    stored = probability_bytes(shares)
    assert (stored.sum(1, dtype=int) == 255).all()
    again = probabilities_of(stored)
    assert numpy.abs(again - shares).max() < 1 / 255
    assert (probability_bytes(again) == stored).all()


def test_soft_labels_that_do_not_add_up(support_set):
    content = artefact.encode(support_set, "png")
    with pytest.raises(ArtefactError, match="rows that each add up to 255"):
        artefact.decode(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DsvError, match="all zero"):
        probability_bytes(numpy.zeros((1, 3)))
