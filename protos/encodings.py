"""How a release's images become bytes: as they are, at fewer bits, or as one picture by a picture format.

ARTEFACT.md specifies each encoding and what a reader checks; docs/results.md measures what each is worth.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

from dsv import DsvError, Task
from protos import sheets

MAX_PIXEL_BYTES = 1 << 30
"""Images above 1 GiB of pixels are refused before they are decoded."""
MAX_EXPANSION = 256
"""So are those whose pixels would take more than this many times their encoded bytes."""
MAX_GROWTH, MAX_FRAME_BYTES = 2, 1 << 16
"""And pictures that take more than this many times their pixels, and what surrounds them: looking through such a file
costs far more than its size."""
MAX_BYTE_CLASSES = 256
"""Up to so many classes, a label takes one byte beside encoded images."""

_SPELLED = re.compile(r"raw|([1-7])-bit|png|webp|(webp|avif):([1-9][0-9]?|100)")
_PACKED_AT_ONCE = 1 << 20  # pixels, a multiple of 8: so each part ends with a whole byte at any number of bits


@dataclass(frozen=True)
class ImageEncoding:
    """One way to write images.

    Args:
        name: ``raw``; ``1-bit`` to ``7-bit`` (evenly spaced levels, packed); ``png``; ``webp`` (lossless); or a lossy
            format with its quality from 1 to 100: ``webp:75``, ``avif:60``.

    Raises:
        DsvError: another name.
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _SPELLED.fullmatch(self.name):
            raise DsvError(
                f"unknown image encoding {str(self.name)[:40]!r}; choose raw, 1-bit to 7-bit, png, webp (lossless), "
                "or webp:Q or avif:Q with a quality Q from 1 to 100"
            )

    @property
    def bits(self) -> int:
        """Bits a stored value where they are packed, else 0."""
        return int(self.name[0]) if self.name.endswith("-bit") else 0

    def encode(self, images: Tensor) -> bytes:
        """The bytes of (N, C, S, S) uint8 images. Equal images give equal bytes with equal versions of Pillow.

        Raises:
            DsvError: more images than the format holds, or images so plain that a reader would suspect a bomb.
        """
        pixels = numpy.ascontiguousarray(images.numpy())
        if self.name == "raw":
            self._check_size(pixels.size, pixels.size)
            return pixels.tobytes()
        content = _packed(pixels, self.bits) if self.bits else sheets.encode(pixels, *self._format())
        self._check_size(len(content), pixels.size)
        return content

    def decode(self, content: bytes, shape: tuple[int, int, int, int]) -> Tensor:
        """(N, C, S, S) uint8 images of ``shape`` from bytes that strangers may have made.

        Raises:
            DsvError: bytes that are not such images; found before memory is taken for pixels that they do not hold.
        """
        count = shape[0] * shape[1] * shape[2] * shape[3]
        self._check_size(len(content), count)
        if self.name == "raw":
            if len(content) != count:
                raise DsvError(f"images take {count} bytes raw, got {len(content)}")
            return torch.from_numpy(numpy.frombuffer(content, dtype=numpy.uint8).reshape(shape).copy())
        if self.bits:
            return torch.from_numpy(_unpacked(content, self.bits, count).reshape(shape))
        return torch.from_numpy(sheets.decode(content, shape, self._format()[0]).copy())

    def label_bytes(self, task: Task, *, soft: bool) -> int:
        """What a release takes for the label of one image: its class, or the teacher's probabilities."""
        wide = self.name == "raw"
        if soft:
            return (2 if wide else 1) * task.classes
        return 2 if wide or task.classes > MAX_BYTE_CLASSES else 1

    def check_works(self, task: Task, count: int) -> None:
        """Raise DsvError unless this machine writes and reads ``count`` images of ``task`` in this encoding."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (2, *task.image_shape), generator=generator, dtype=torch.uint8)
        channels, height, width = task.image_shape
        self.decode(self.encode(images), (2, channels, height, width))
        self._check_size(count * channels * height * width, count * channels * height * width)
        if self.name != "raw" and not self.bits:
            sheets.check_fits(count, task.image_size_px, self._format()[0])

    def _format(self) -> tuple[str, int | None]:
        name, _, quality = self.name.partition(":")
        return name, int(quality) if quality else None

    def _check_size(self, encoded_bytes: int, pixel_bytes: int) -> None:
        if pixel_bytes > MAX_PIXEL_BYTES or pixel_bytes > MAX_EXPANSION * encoded_bytes:
            raise DsvError(
                f"images of {pixel_bytes} bytes in {encoded_bytes} encoded ones are above the limits "
                f"({MAX_PIXEL_BYTES} bytes, {MAX_EXPANSION} times the encoded ones)"
            )
        if encoded_bytes > MAX_GROWTH * pixel_bytes + MAX_FRAME_BYTES:
            raise DsvError(f"{encoded_bytes} encoded bytes for images of {pixel_bytes} hold more than these images")


def _packed(pixels: numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.uint8]], bits: int) -> bytes:
    """Levels 0 to 2^bits - 1, most significant bit first, without gaps; the last byte is filled with zeros."""
    top = (1 << bits) - 1
    parts = []
    for part in numpy.split(pixels.reshape(-1), range(_PACKED_AT_ONCE, pixels.size, _PACKED_AT_ONCE)):
        levels = ((part.astype(numpy.uint16) * top + 127) // 255).astype(numpy.uint8)
        parts.append(numpy.packbits(numpy.unpackbits(levels[:, None], axis=1)[:, 8 - bits :]).tobytes())
    return b"".join(parts)


def _unpacked(content: bytes, bits: int, count: int) -> numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.uint8]]:
    top = (1 << bits) - 1
    if len(content) != -(-count * bits // 8):
        raise DsvError(f"{count} pixel values of {bits} bits take {-(-count * bits // 8)} bytes, got {len(content)}")
    if content and content[-1] & ((1 << (-count * bits % 8)) - 1):
        raise DsvError("the bits behind the last pixel value are not zero")
    values = (numpy.arange(top + 1) * 255 * 2 + top) // (2 * top)  # the nearest whole number
    pixels = numpy.empty(count, dtype=numpy.uint8)
    packed = numpy.frombuffer(content, dtype=numpy.uint8)
    for begin in range(0, count, _PACKED_AT_ONCE):
        size = min(_PACKED_AT_ONCE, count - begin)
        part = numpy.unpackbits(packed[begin * bits // 8 :][: -(-size * bits // 8)], count=size * bits)
        levels = part.reshape(size, bits) @ (1 << numpy.arange(bits - 1, -1, -1)).astype(numpy.uint8)
        pixels[begin : begin + size] = values[levels]
    return pixels
