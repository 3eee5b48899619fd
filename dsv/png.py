"""PNG files without a library: what a notebook shows and what an export writes."""

from __future__ import annotations

import struct
import zlib

from torch import Tensor


def png_bytes(image: Tensor) -> bytes:
    """The PNG file of a (C, H, W) uint8 image, grey (C = 1) or RGB (C = 3)."""
    channels, height, width = image.shape
    rows = image.permute(1, 2, 0).reshape(height, width * channels).contiguous().numpy()
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows), 9)  # filter 0 in front of every row
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
