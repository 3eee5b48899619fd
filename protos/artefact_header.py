"""The first bytes of a release file: its metadata and the header that safetensors wants. ARTEFACT.md specifies both."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy
import torch

from dsv import DsvError, LabelledViews, Provenance, SupportSet, Task, ViewPlan
from protos.encodings import MAX_BYTE_CLASSES, ImageEncoding
from protos.label_bytes import levels_of

RAW_FORMAT, FORMAT, VIEWS_FORMAT = "feddsv/1", "feddsv/2", "feddsv/3"
"""Raw images are written as ever, so that older readers read them; encoded ones, and labelled views, are newer."""
METADATA_KEY = "feddsv"

Arrays = dict[str, numpy.ndarray[Any, Any]]


_CODES = {"float32": "F32", "float16": "F16", "uint16": "U16", "uint8": "U8"}
"""What safetensors calls the types; it lays tensors by type, in this order, then by name."""

_KEYS = {
    RAW_FORMAT: {"format", "task", "provenance"},
    FORMAT: {"format", "task", "provenance", "encoding"},
    VIEWS_FORMAT: {"format", "task", "provenance", "encoding", "views"},
}
"""Of the metadata."""


class ArtefactError(DsvError):
    """A release file that is not one; the message says which rule it breaks."""


def metadata_of(content: bytes) -> str:
    """The JSON text inside a safetensors file's metadata.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: there is none.
    """
    length = int.from_bytes(content[:8], "little")
    text = json.loads(content[8 : 8 + length])["__metadata__"][METADATA_KEY]
    if not isinstance(text, str):
        raise ValueError(f"{METADATA_KEY} metadata is not text")
    return text


def encoding_named(header: Any) -> str:
    """The encoding that well-formed metadata names.

    Raises:
        ArtefactError: it is not well-formed, or names a format or an encoding that is not known.
    """
    found = header.get("format") if isinstance(header, dict) else None
    if isinstance(found, str) and found not in _KEYS:
        raise ArtefactError(
            f"release file has format {found!r}, this software reads {', '.join(map(repr, _KEYS))}; update it"
        )
    if not isinstance(found, str) or set(header) != _KEYS[found]:
        raise ArtefactError(
            "release file's metadata must hold format, task and provenance, nothing else (from feddsv/2 on: encoding, "
            "and in feddsv/3: views)"
        )
    encoding = header.get("encoding", "raw")
    try:
        ImageEncoding(encoding)
    except DsvError as error:
        raise ArtefactError(f"release file has an {error}; update this software") from None
    if found == FORMAT and encoding == "raw":
        raise ArtefactError(f"release file holds raw images as {FORMAT}, which are {RAW_FORMAT}")
    return str(encoding)


def layout_of(encoding: str, task: Task, *, views: bool) -> dict[str, str]:
    """Types of the tensors, in the file's order."""
    if encoding == "raw":
        layout = {"multipliers": "float32", "soft_labels": "float16", "labels": "uint16", "images": "uint8"}
    elif task.classes <= MAX_BYTE_CLASSES:
        layout = {"multipliers": "float16", "images": "uint8", "labels": "uint8", "soft_labels": "uint8"}
    else:
        layout = {"multipliers": "float16", "labels": "uint16", "images": "uint8", "soft_labels": "uint8"}
    return layout | ({"view_labels": "uint8"} if views else {})


def described(support_set: SupportSet, encoding: str) -> str:
    """The metadata of a set, as canonical JSON."""
    task, provenance = dataclasses.asdict(support_set.task), dataclasses.asdict(support_set.provenance)
    described: dict[str, Any] = {"format": RAW_FORMAT, "task": task, "provenance": provenance}
    if encoding != "raw":
        described |= {"format": FORMAT, "encoding": encoding}
    if support_set.views is not None:
        views = dataclasses.asdict(support_set.views.plan) | {
            "scale": support_set.views.scale,
            "probe": list(support_set.views.probe),
        }
        described |= {"format": VIEWS_FORMAT, "encoding": encoding, "views": views}
    return _canonical_json(described)


def header_bytes(described: str, tensors: Arrays) -> bytes:
    """The first bytes of the canonical file: length and header, as ARTEFACT.md has them."""
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: described}}
    begin = 0
    for name, array in tensors.items():
        end = begin + array.nbytes
        header[name] = {
            "dtype": _CODES[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def fields_of(kind: type[Task] | type[Provenance], found: Any) -> dict[str, Any]:
    """What a task or a provenance is made of, out of metadata.

    Raises:
        ArtefactError: a field is missing or unknown.
    """
    expected = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(found, dict) or set(found) != expected:
        raise ArtefactError(
            f"release file's metadata is malformed: a {kind.__name__.lower()} holds {', '.join(sorted(expected))}"
        )
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def views_of(found: Any, packed: numpy.ndarray[Any, Any], task: Task) -> LabelledViews:
    """The labelled views of metadata and the bytes of their labels.

    Raises:
        DsvError: they do not fit each other.
    """
    expected = {field.name for field in dataclasses.fields(ViewPlan)} | {"scale", "probe"}
    if not isinstance(found, dict) or set(found) != expected or not isinstance(found["probe"], list):
        raise ArtefactError(f"release file's metadata is malformed: views hold {', '.join(sorted(expected))}")
    plan = ViewPlan(**{field.name: found[field.name] for field in dataclasses.fields(ViewPlan)})
    levels = levels_of(packed, plan.count, task.classes)
    return LabelledViews(plan, torch.from_numpy(levels), found["scale"], tuple(found["probe"]))
