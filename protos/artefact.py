"""The release file: a DSV set as bytes and back. ARTEFACT.md beside this file specifies it byte by byte.

The container is safetensors (no pickle, hostile headers refused by its own parser). On top of it this module is
canonical: equal sets give equal bytes, and a file whose bytes are not the ones that its content encodes to is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy
import safetensors
import safetensors.numpy
import torch

from dsv import DsvError, Provenance, SupportSet, Task

FORMAT = "feddsv/1"
METADATA_KEY = "feddsv"
MAX_SIZE_BYTES = 1 << 30
"""Files above 1 GiB are refused before they are parsed."""

_DTYPES = {"images": "uint8", "labels": "uint16", "multipliers": "float32", "soft_labels": "float16"}
_CODES = {"multipliers": "F32", "soft_labels": "F16", "labels": "U16", "images": "U8"}
"""What safetensors calls the types, in the order in which it lays the tensors: by falling alignment, then name."""


class ArtefactError(DsvError):
    """A release file that is not one; the message says which rule it breaks."""


def encode(support_set: SupportSet) -> bytes:
    """The canonical bytes of a set. Soft labels are stored as float16."""
    arrays = {
        "images": support_set.images.numpy(),
        "labels": support_set.labels.numpy(),
        "multipliers": support_set.multipliers.numpy(),
        "soft_labels": support_set.soft_labels.numpy(),
    }
    tensors = {name: numpy.ascontiguousarray(array, dtype=_DTYPES[name]) for name, array in arrays.items()}
    return safetensors.numpy.save(tensors, metadata={METADATA_KEY: _described(support_set)})


def digest(content: bytes) -> str:
    """The name of a release: SHA-256 of its file, 64 lowercase hex digits."""
    return hashlib.sha256(content).hexdigest()


def decode(content: bytes) -> SupportSet:
    """The set that ``content`` encodes.

    Raises:
        ArtefactError: truncated, altered, too large, or not a release file at all.
    """
    if len(content) > MAX_SIZE_BYTES:
        raise ArtefactError(f"release file of {len(content)} bytes is above the limit of {MAX_SIZE_BYTES}")
    try:
        tensors = safetensors.numpy.load(content)
        header = json.loads(_metadata(content))
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtefactError(f"not a release file, or a truncated one ({error}); download it again") from None
    support_set = _build(tensors, header)
    expected = _header(support_set)
    # The container admits no byte between or behind the tensors, and their types lose nothing on the way through a
    # set: so the whole is canonical when its header is. (Encoding it all again took three times as long.)
    if content[: len(expected)] != expected:
        raise ArtefactError("release file is not in canonical form: its bytes were altered; download it again")
    return support_set


def load(path: Path | str) -> SupportSet:
    """Read a release file; a ``torch.utils.data.Dataset``.

    Raises:
        ArtefactError: no such file, or not a valid release.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ArtefactError(f"cannot read release {path}: {error.strerror}; name a .dsv file") from None
    try:
        return decode(content)
    except ArtefactError as error:
        raise ArtefactError(f"{path}: {error}") from None


def _metadata(content: bytes) -> str:
    length = int.from_bytes(content[:8], "little")
    text = json.loads(content[8 : 8 + length])["__metadata__"][METADATA_KEY]
    if not isinstance(text, str):
        raise ValueError(f"{METADATA_KEY} metadata is not text")
    return text


def _described(support_set: SupportSet) -> str:
    task, provenance = dataclasses.asdict(support_set.task), dataclasses.asdict(support_set.provenance)
    return _canonical_json({"format": FORMAT, "task": task, "provenance": provenance})


def _header(support_set: SupportSet) -> bytes:
    """The first bytes of the canonical file: length and header, as ARTEFACT.md has them."""
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: _described(support_set)}}
    begin = 0
    for name, code in _CODES.items():
        shape = list(getattr(support_set, name).shape)
        end = begin + math.prod(shape) * numpy.dtype(_DTYPES[name]).itemsize
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _build(tensors: dict[str, numpy.ndarray[Any, Any]], header: Any) -> SupportSet:
    if set(tensors) != set(_DTYPES):
        raise ArtefactError(f"release file holds tensors {sorted(tensors)}, expected {sorted(_DTYPES)}")
    for name, dtype in _DTYPES.items():
        if str(tensors[name].dtype) != dtype:
            raise ArtefactError(f"release file's {name} are {tensors[name].dtype}, expected {dtype}")
    if not isinstance(header, dict) or set(header) != {"format", "task", "provenance"}:
        raise ArtefactError("release file's metadata must hold format, task and provenance, nothing else")
    if header["format"] != FORMAT:
        raise ArtefactError(f"release file has format {header['format']!r}, this software reads {FORMAT!r}; update it")
    try:
        return SupportSet(
            images=torch.from_numpy(tensors["images"]),
            labels=torch.from_numpy(tensors["labels"].astype(numpy.int64)),
            soft_labels=torch.from_numpy(tensors["soft_labels"].astype(numpy.float32)),
            multipliers=torch.from_numpy(tensors["multipliers"]),
            task=Task(**_fields(Task, header["task"])),
            provenance=Provenance(**_fields(Provenance, header["provenance"])),
        )
    except DsvError as error:
        raise ArtefactError(f"release file is inconsistent: {error}") from None


def _fields(kind: type[Task] | type[Provenance], found: Any) -> dict[str, Any]:
    expected = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(found, dict) or set(found) != expected:
        raise ArtefactError(
            f"release file's metadata is malformed: a {kind.__name__.lower()} holds {', '.join(sorted(expected))}"
        )
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
