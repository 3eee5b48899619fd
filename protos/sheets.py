"""All images of a release as one picture (a sheet): a picture file per tiny image would be mostly headers.

A picture that strangers made is looked through before Pillow sees it: only a plain file of its format, with the very
size that the sheet must have and nothing beside the pixels, is decoded.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy

from dsv import DsvError
from protos.avif_file import avif_faults

Pixels = numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.uint8]]

MAX_SHEET_PIXELS = 1 << 26
"""Sheets above 67 megapixels are refused; Pillow itself warns above 89."""
_MAX_SIDE_PX = {"png": 65_535, "webp": 16_383, "avif": 65_535}
_PILLOW_NAMES = {"png": "PNG", "webp": "WEBP", "avif": "AVIF"}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def grid(count: int) -> tuple[int, int]:
    """Rows and columns of a sheet of ``count`` images: as square as can be without an empty place."""
    columns = max(divisor for divisor in range(1, math.isqrt(count) + 1) if count % divisor == 0)
    return count // columns, columns


def check_fits(count: int, side_px: int, name: str) -> tuple[int, int]:
    """Rows and columns of a sheet of ``count`` images; raises DsvError where the format holds no such sheet."""
    rows, columns = grid(count)
    height, width = rows * side_px, columns * side_px
    if max(height, width) > _MAX_SIDE_PX[name] or height * width > MAX_SHEET_PIXELS:
        raise DsvError(f"a {name} picture of {width} x {height} would be too large; use 4-bit or raw for these images")
    return rows, columns


def encode(images: Pixels, name: str, quality: int | None) -> bytes:
    """The picture file of a sheet of (N, C, S, S) images.

    Raises:
        DsvError: a sheet larger than the format allows, or a Pillow that does not write the format.
    """
    count, channels, side, _ = images.shape
    rows, columns = check_fits(count, side, name)
    cells = images.reshape(rows, columns, channels, side, side).transpose(0, 3, 1, 4, 2)
    picture = cells.reshape(rows * side, columns * side, channels)
    from PIL import Image

    written = io.BytesIO()
    try:
        drawn = Image.fromarray(picture[:, :, 0] if channels == 1 else picture)
        drawn.save(written, _PILLOW_NAMES[name], **_options(name, quality, channels))
    except (KeyError, OSError):
        raise DsvError(f"this machine's Pillow does not write {name}; install pillow 11.3 or newer") from None
    return written.getvalue()


def decode(content: bytes, shape: tuple[int, int, int, int], name: str) -> Pixels:
    """(N, C, S, S) images of ``shape`` from the picture file of their sheet.

    Raises:
        DsvError: not a plain file of that format, of another size, damaged, or one that this Pillow does not read.
    """
    count, channels, side, _ = shape
    rows, columns = check_fits(count, side, name)
    height, width = rows * side, columns * side
    try:
        fault = _FAULTS[name](content, width, height, channels)
    except (struct.error, IndexError, ValueError):
        fault = "it is cut off"
    if fault:
        raise DsvError(f"images are not a plain {name} picture of {width} x {height}: {fault}")
    picture = _opened(content, name, "L" if channels == 1 else "RGB", (width, height))
    cells = picture.reshape(rows, side, columns, side, channels).transpose(0, 2, 4, 1, 3)
    return cells.reshape(shape)


def _options(name: str, quality: int | None, channels: int) -> dict[str, Any]:
    if name == "png":
        return {"optimize": True}
    if name == "webp":
        return {"lossless": True, "quality": 100, "method": 6} if quality is None else {"quality": quality, "method": 6}
    # Colour at full resolution: DSVs hold as much of it in single pixels as brightness.
    sampling = "4:0:0" if channels == 1 else "4:4:4"
    return {"quality": quality, "speed": 0, "subsampling": sampling, "max_threads": 1}


def _opened(content: bytes, name: str, mode: str, size: tuple[int, int]) -> Pixels:
    from PIL import Image, features

    if not (name == "png" or features.check(name)):
        raise DsvError(f"images are encoded as {name}, which this machine's Pillow does not read; install a newer one")
    try:
        with Image.open(io.BytesIO(content), formats=[_PILLOW_NAMES[name]]) as opened:
            if opened.size != size:
                raise DsvError(f"images are a {name} picture of {opened.size}, expected {size}")
            return numpy.asarray(opened.convert(mode)).reshape(size[1], size[0], -1)
    # RuntimeError: what Pillow makes of most faults that libavif finds.
    except (OSError, ValueError, SyntaxError, RuntimeError, EOFError, Image.DecompressionBombError):
        raise DsvError(f"images are a damaged {name} picture") from None


def _png_faults(content: bytes, width: int, height: int, channels: int) -> str:
    """What is wrong when this is not a PNG of a header, just these pixels and an end; empty when nothing is."""
    if not content.startswith(_PNG_SIGNATURE):
        return "its signature is another"
    chunks, at = [], len(_PNG_SIGNATURE)
    while at < len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        body = content[at + 8 : at + 8 + size]
        (check,) = struct.unpack_from(">I", content, at + 8 + size)
        if zlib.crc32(kind + body) != check:
            return "a checksum does not fit"
        chunks.append((kind, body))
        at += size + 12
    kinds = [kind for kind, _ in chunks]
    if len(kinds) < 3 or kinds != [b"IHDR", *[b"IDAT"] * (len(kinds) - 2), b"IEND"] or chunks[-1][1]:
        return "it holds more than a header, pixels and an end"
    if chunks[0][1] != struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0):
        return "its header gives another size or kind"
    expected = height * (1 + width * channels)
    inflating = zlib.decompressobj()
    try:
        found = inflating.decompress(b"".join(body for _, body in chunks[1:-1]), expected + 1)
    except zlib.error:
        return "its pixels are damaged"
    whole = inflating.eof and not inflating.unused_data and len(found) == expected
    return "" if whole else "its pixels are of another size"


def _webp_faults(content: bytes, width: int, height: int, channels: int) -> str:
    """What is wrong when this is not a simple WebP file: RIFF with one chunk of pixels; empty when nothing is."""
    riff, size, kind, chunk, length = struct.unpack_from("<4sI4s4sI", content)
    if (riff, kind) != (b"RIFF", b"WEBP") or size != len(content) - 8 or size != 12 + length + length % 2:
        return "it holds more or less than one chunk of pixels"
    if length % 2 and content[-1]:
        return "its last byte is not zero"
    if chunk == b"VP8L":
        mark, bits = struct.unpack_from("<BI", content, 20)
        found = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        plain = mark == 0x2F and bits >> 28 == 0  # no transparency, version 0
    elif chunk == b"VP8 ":
        tag, start, *sides = struct.unpack_from("<H x 3s HH", content, 20)
        found = sides[0] & 0x3FFF, sides[1] & 0x3FFF
        plain = not tag & 1 and start == b"\x9d\x01\x2a" and all(side >> 14 == 0 for side in sides)
    else:
        return "it is not of the simple kind"
    return "" if plain and found == (width, height) else "its header gives another size or kind"


_FAULTS: dict[str, Callable[[bytes, int, int, int], str]] = {
    "png": _png_faults,
    "webp": _webp_faults,
    "avif": avif_faults,
}
