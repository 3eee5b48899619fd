"""Releases whose images are not what their encoding says: every one is refused, none takes memory."""

import io
import json
import struct
import tracemalloc
import zlib
from functools import partial

import numpy
import pytest
import safetensors.numpy
from encoded import ALL, PICTURES, drawn, needed, parts, with_images
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from dsv import DsvError, predict
from protos import artefact
from protos.artefact import ArtefactError
from protos.encodings import ImageEncoding


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


@pytest.mark.parametrize("name", ["3-bit", *PICTURES])
def test_a_release_of_nothing(name, support_set, teacher):
    needed(name)
    content = artefact.encode(support_set, name, relabel=lambda images: predict(teacher.model, images, teacher.task))
    tensors = {key: array[:0] for key, array in safetensors.numpy.load(content).items()}
    with pytest.raises(ArtefactError, match="holds no image"):
        artefact.decode(safetensors.numpy.save(tensors, metadata=parts(content)[0]["__metadata__"]))


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


def stream_of(avif):
    """Offset of the picture's stream, which is the last thing in the file."""
    return avif.index(b"mdat") + 4


def test_an_avif_whose_delimiter_hides_another_header(support_set, teacher):
    """What stands before the frame must be the header that a decoder goes by, not a decoy of the right size."""
    needed("avif:60")
    label = partial(predict, teacher.model, task=teacher.task)
    small, large = written("AVIF"), written("AVIF", shape=(800, 640), quality=1)
    header, stream = small[stream_of(small) :][2:], large[stream_of(large) :]
    decoy = header[2 : 2 + header[1]]  # the small one's sequence header, behind its type and length
    assert stream[:2] == b"\x12\x00" and stream[2] == header[0] == 0x0A
    end = 4 + stream[3]
    hidden = stream[:end] + bytes([0x12, len(decoy)]) + decoy + stream[end:]
    bomb = bytearray(large[: stream_of(large)] + hidden)
    struct.pack_into(">I", bomb, stream_of(large) - 8, 8 + len(hidden))
    struct.pack_into(">I", bomb, bomb.index(b"iloc") + 4 + 4 + 2 + 2 + 2 + 2 + 2 + 4, len(hidden))
    struct.pack_into(">II", bomb, bomb.index(b"ispe") + 8, 32, 40)
    content = artefact.encode(support_set, "avif:60", relabel=label)
    with pytest.raises(ArtefactError, match="it holds more or less than one frame"):
        artefact.decode(with_images(content, bytes(bomb)))


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
