"""Image encodings by name, and releases with other bytes for their images."""

import json

import pytest
import torch
from PIL import features

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


def rewritten(content, change):
    """The release with another header before the same bytes."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]
