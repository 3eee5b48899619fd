"""Image encodings: round trips, what a reader checks, and hostile bytes."""

import dataclasses
import io
import json
import random
import struct
import tracemalloc
import zlib

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from dsv import DsvError, predict
from protos import artefact
from protos.artefact import ArtefactError
from protos.encodings import ImageEncoding
from protos.label_bytes import probabilities_of, probability_bytes
from protos.sheets import grid

EXACT = ("raw", "png", "webp")
PACKED = tuple(f"{bits}-bit" for bits in range(1, 8))
LOSSY = ("webp:75", "avif:60")
PICTURES = ("png", "webp", *LOSSY)
ALL = (*EXACT, *PACKED, *LOSSY)


def needed(name):
    library = name.partition(":")[0]
    if library in ("webp", "avif") and not features.check(library):
        pytest.skip(f"this Pillow has no {library}")


def drawn(count, channels, side):
    generator = torch.Generator().manual_seed(count)
    return torch.randint(256, (count, channels, side, side), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module", params=ALL)
def release(request, support_set, teacher):
    needed(request.param)
    return artefact.encode(
        support_set, request.param, relabel=lambda images: predict(teacher.model, images, teacher.task)
    )


def parts(content):
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    begin, end = header["images"]["data_offsets"]
    return header, content[8 + length :], begin, end


def with_images(content, images, **metadata):
    """The canonical release with other bytes for its images."""
    header, payload, begin, end = parts(content)
    moved = len(images) - (end - begin)
    described = json.loads(header["__metadata__"]["feddsv"]) | metadata
    header["__metadata__"]["feddsv"] = json.dumps(described, sort_keys=True, separators=(",", ":"))
    for name, entry in header.items():
        if name != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset + moved for offset in entry["data_offsets"]]
    header["images"] |= {"shape": [len(images)], "data_offsets": [begin, begin + len(images)]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + payload[:begin] + images + payload[end:]


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


def written(kind, **options):
    generator = numpy.random.default_rng(0)
    pixels = generator.integers(0, 256, options.pop("shape", (40, 32)), numpy.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def png_bomb(width, height):
    """A small file of a huge black picture."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(width * height + height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def replaced(kind, at, put):
    content = bytearray(written(kind, **({"lossless": True} if kind == "WEBP" else {})))
    content[at : at + len(put)] = put
    return bytes(content)


EXIF = Image.Exif()
EXIF[0x010E] = "hidden"

# The support set has 20 grey images of 8 pixels: a sheet of 32 x 40.
HOSTILE = [
    ("png", lambda: b""),
    ("png", lambda: b"\x89PNG\r\n\x1a\n"),
    ("png", lambda: written("PNG")[:-1]),
    ("png", lambda: written("PNG") + b"x"),
    ("png", lambda: written("PNG", shape=(40, 33))),
    ("png", lambda: written("PNG", shape=(40, 32, 3))),
    ("png", lambda: png_bomb(4000, 4000)),
    ("png", lambda: written("PNG", dpi=(300, 300))),
    ("png", lambda: replaced("PNG", 50, b"\0")),
    ("png", lambda: written("WEBP")),
    ("webp", lambda: written("PNG")),
    ("webp", lambda: written("WEBP")[:-2]),
    ("webp", lambda: written("WEBP", lossless=True) + b"xx"),
    ("webp", lambda: written("WEBP", shape=(32, 40), lossless=True)),
    ("webp", lambda: written("WEBP", shape=(40, 32, 4), lossless=True)),
    ("webp", lambda: written("WEBP", exif=EXIF)),
    ("webp", lambda: replaced("WEBP", 21, b"\xff\xff\xff\xff")),
    ("webp", lambda: replaced("WEBP", 12, b"VP8X")),
    ("avif:60", lambda: written("PNG")),
    ("avif:60", lambda: written("AVIF")[:-5]),
    ("avif:60", lambda: written("AVIF") + b"xx"),
    ("avif:60", lambda: written("AVIF", shape=(1200, 1200), quality=1, speed=10)),
    ("avif:60", lambda: written("AVIF", exif=EXIF)),
    ("3-bit", lambda: bytes(479)),
    ("3-bit", lambda: bytes(481)),
    ("3-bit", lambda: b""),
]


@pytest.mark.parametrize(("name", "make"), HOSTILE)
def test_images_that_are_not_plain_ones_of_the_right_size(name, make, support_set, teacher):
    needed(name)
    needed("webp")
    content = artefact.encode(support_set, name, relabel=lambda images: predict(teacher.model, images, teacher.task))
    bomb = with_images(content, make())
    tracemalloc.start()
    try:
        with pytest.raises(ArtefactError, match="release file is inconsistent: "):
            artefact.decode(bomb)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 20 * len(bomb) + (1 << 20)


def test_an_avif_whose_stream_is_larger_than_its_boxes_say(support_set, teacher):
    """A decoder takes memory for what the stream says."""
    needed("avif:60")
    large = written("AVIF", shape=(800, 640), quality=1)
    assert large.count(b"ispe") == 1
    at = large.index(b"ispe") + 8
    shrunk = large[:at] + struct.pack(">II", 32, 40) + large[at + 8 :]
    content = artefact.encode(
        support_set, "avif:60", relabel=lambda images: predict(teacher.model, images, teacher.task)
    )
    with pytest.raises(ArtefactError, match="its stream gives another size"):
        artefact.decode(with_images(content, shrunk))


def test_spare_bits_must_be_zero():
    images = drawn(1, 1, 3)
    content = bytearray(ImageEncoding("3-bit").encode(images))
    content[-1] |= 1
    with pytest.raises(DsvError, match="behind the last pixel value are not zero"):
        ImageEncoding("3-bit").decode(bytes(content), (1, 1, 3, 3))


def test_few_bytes_that_claim_to_be_many_pixels(support_set):
    content = artefact.encode(support_set, "png")
    header, payload, begin, end = parts(content)
    task = json.loads(header["__metadata__"]["feddsv"])["task"] | {"image_size_px": 4096}
    with pytest.raises(ArtefactError, match="above the limits"):
        artefact.decode(with_images(content, payload[begin:end], task=task))


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


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_damaged_byte_of_a_picture_is_refused_or_a_whole_set(name, channels):
    """No exception but DsvError: a decoder behind Pillow has faults of its own kinds."""
    needed(name)
    encoding, shape = ImageEncoding(name), (20, channels, 8, 8)
    content = encoding.encode(drawn(*shape[:3]))
    for position in range(min(len(content), 400)):
        for replacement in (b"\0", b"\1", b"\xff", b"\0\0\1", bytes([content[position] ^ 1])):
            try:
                found = encoding.decode(
                    content[:position] + replacement + content[position + len(replacement) :], shape
                )
            except DsvError:
                continue
            assert found.shape == shape


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_change_of_bytes_is_refused_or_a_whole_set(data, releases):
    """No exception but ArtefactError, whatever the bytes; nothing but the images can differ in form."""
    content = data.draw(st.sampled_from(releases))
    _, _, begin, _ = parts(content)
    body = int.from_bytes(content[:8], "little") + 8 + begin
    first = data.draw(st.sampled_from([0, body]))
    position = data.draw(st.integers(first, len(content) - 1))
    replacement = data.draw(st.binary(min_size=1, max_size=8))
    altered = content[:position] + replacement + content[position + len(replacement) :]
    try:
        found = artefact.decode(altered)
    except ArtefactError:
        return
    encoding = artefact.encoding_of(altered)
    assert found.images.shape == (20, 1, 8, 8)
    if encoding == "raw" or encoding.endswith("-bit"):
        assert artefact.encode(found, encoding) == altered


@pytest.fixture(scope="module")
def releases(support_set, teacher):
    def label(images):
        return predict(teacher.model, images, teacher.task)

    names = [name for name in ALL if name[:4] not in ("webp", "avif") or features.check(name[:4])]
    return [artefact.encode(support_set, name, relabel=label) for name in names]
