"""What an AVIF file of strangers may hold: one still picture of a known size, and nothing beside it.

Boxes: ISO/IEC 14496-12 and 23008-12 (HEIF); the picture: AV1 specification, sections 5.3 to 5.5. Looked through before
a decoder sees the file, since it is the AV1 sequence header inside, not the boxes, that says how much memory to take.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_TEMPORAL_DELIMITER, _SEQUENCE_HEADER, _FRAME = 2, 1, 6
_META_BOXES = (b"hdlr", b"pitm", b"iloc", b"iinf", b"iprp")


def avif_faults(content: bytes, width: int, height: int, channels: int) -> str:
    """What is wrong when this is not an AVIF file of one still picture of that size; empty when nothing is.

    Raises:
        struct.error, IndexError, ValueError: it is cut off or malformed.
    """
    boxes = list(_boxes(content))
    if [kind for kind, _, _ in boxes] != [b"ftyp", b"meta", b"mdat"]:
        return "it holds other boxes than ftyp, meta and mdat"
    _, begin, end = boxes[1]
    meta = content[begin + 4 : end]  # behind version and flags
    inner = {kind: meta[first:last] for kind, first, last in _boxes(meta)}
    if tuple(inner) != _META_BOXES or len(list(_boxes(meta))) != len(_META_BOXES):
        return "its meta box holds more or less than one picture's description"
    if struct.unpack_from(">H", inner[b"iinf"], 4)[0] != 1:
        return "it holds more than one item"
    _, begin, end = boxes[2]
    if _extent(inner[b"iloc"]) != (begin, end - begin):
        return "its picture is not just what mdat holds"
    if _declared_size(inner[b"iprp"]) != (width, height):
        return "its boxes give another size"
    return _stream_faults(content[begin:end], width, height)


def _boxes(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of the content of each box; together they fill ``content``."""
    at = 0
    while at < len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        if size < 8 or at + size > len(content):
            raise ValueError("a box leads out of what holds it")
        yield kind, at + 8, at + size
        at += size


def _extent(iloc: bytes) -> tuple[int, int]:
    """Offset and length of the one extent of the one item, in the one form that libavif writes."""
    version, sizes, items, _, _, extents, offset, length = struct.unpack(">IHHHHHII", iloc)
    if (version, sizes, items, extents) != (0, 0x4400, 1, 1):
        raise ValueError("not one item in one piece")
    return offset, length


def _declared_size(iprp: bytes) -> tuple[int, int]:
    """Width and height of the one ispe property."""
    kinds = list(_boxes(iprp))
    if [kind for kind, _, _ in kinds] != [b"ipco", b"ipma"]:
        raise ValueError("other properties than a container and an association")
    properties = iprp[kinds[0][1] : kinds[0][2]]
    sizes = [properties[begin:end] for kind, begin, end in _boxes(properties) if kind == b"ispe"]
    known = {b"ispe", b"pixi", b"av1C", b"colr"}
    if len(sizes) != 1 or not {kind for kind, _, _ in _boxes(properties)} <= known:
        raise ValueError("properties of another kind")
    version, width, height = struct.unpack(">III", sizes[0])
    return (width, height) if version == 0 else (0, 0)


def _stream_faults(stream: bytes, width: int, height: int) -> str:
    units = list(_units(stream))
    if units[:1] == [(_TEMPORAL_DELIMITER, b"")]:  # which not every encoder writes
        del units[0]
    if [kind for kind, _ in units] != [_SEQUENCE_HEADER, _FRAME]:
        return "it holds more or less than one frame"
    return "" if _coded_size(units[0][1]) == (width, height) else "its stream gives another size"


def _units(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and payload of each open bitstream unit; every one carries its size."""
    at = 0
    while at < len(stream):
        header = stream[at]
        if header & 0b10000111 != 0b010:  # forbidden and reserved bits, no extension, a size
            raise ValueError("a unit of another form")
        at, size, shift = at + 1, 0, 0
        while True:
            size |= (stream[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if not stream[at - 1] & 0x80:
                break
            if shift > 28:
                raise ValueError("a size without an end")
        if at + size > len(stream):
            raise ValueError("a unit leads out of the stream")
        yield header >> 3 & 0b1111, stream[at : at + size]
        at += size


def _coded_size(header: bytes) -> tuple[int, int]:
    """Width and height in a sequence header, if it is the short one of still pictures; its frame cannot change them."""
    bits = "".join(f"{byte:08b}" for byte in header[:12])
    if bits[3:5] != "11":
        return 0, 0
    width_bits, height_bits = int(bits[10:14], 2) + 1, int(bits[14:18], 2) + 1
    width, height = bits[18 : 18 + width_bits], bits[18 + width_bits : 18 + width_bits + height_bits]
    return int(width, 2) + 1, int(height, 2) + 1
