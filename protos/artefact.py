"""The release file: a DSV set as bytes and back. ARTEFACT.md beside this file specifies it byte by byte.

The container is safetensors (no pickle, hostile headers refused by its own parser). On top of it this module is
canonical: equal sets give equal bytes, and a file whose bytes are not the ones that its content encodes to is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import safetensors
import safetensors.numpy
import torch
from torch import Tensor

from dsv import DsvError, Provenance, SupportSet, Task
from protos.encodings import MAX_BYTE_CLASSES, ImageEncoding
from protos.files import write_atomically
from protos.label_bytes import probabilities_of, probability_bytes

RAW_FORMAT, FORMAT = "feddsv/1", "feddsv/2"
"""Raw images are written as ever, so that older readers read them; every other encoding is of the newer format."""
METADATA_KEY = "feddsv"
MAX_SIZE_BYTES = 1 << 30
"""Files above 1 GiB are refused before they are parsed."""
MAX_MULTIPLIER = 65_504.0
"""The largest float16."""

Arrays = dict[str, numpy.ndarray[Any, Any]]

_CODES = {"float32": "F32", "float16": "F16", "uint16": "U16", "uint8": "U8"}
"""What safetensors calls the types; it lays tensors by falling alignment, then by name."""


class ArtefactError(DsvError):
    """A release file that is not one; the message says which rule it breaks."""


def encode(
    support_set: SupportSet, encoding: str = "raw", *, relabel: Callable[[Tensor], Tensor] | None = None
) -> bytes:
    """The canonical bytes of a set. Soft labels are stored as float16, or in 255ths where images are encoded.

    Args:
        encoding: of the images, the name of an ``ImageEncoding``.
        relabel: from images to the teacher's probabilities, (N, K) float32. A lossy encoding needs it: soft labels
            belong to the pixels that newcomers get.

    Raises:
        DsvError: unknown encoding, one that cannot write these images, or one that alters them without ``relabel``.
    """
    chosen = ImageEncoding(encoding)
    content = chosen.encode(support_set.images)
    if encoding != "raw":
        support_set = _as_decoded(support_set, chosen, content, relabel)
    arrays = {
        "images": numpy.frombuffer(content, dtype=numpy.uint8),
        "labels": support_set.labels.numpy(),
        "multipliers": support_set.multipliers.numpy(),
        "soft_labels": support_set.soft_labels.numpy(),
    }
    if encoding == "raw":
        arrays["images"] = arrays["images"].reshape(tuple(support_set.images.shape))
    else:
        arrays["soft_labels"] = probability_bytes(arrays["soft_labels"])
        arrays["multipliers"] = arrays["multipliers"].clip(max=MAX_MULTIPLIER)
    layout = _layout(encoding, support_set.task)
    tensors = {name: numpy.ascontiguousarray(array, dtype=layout[name]) for name, array in arrays.items()}
    return safetensors.numpy.save(tensors, metadata={METADATA_KEY: _described(support_set, encoding)})


def _as_decoded(
    support_set: SupportSet, encoding: ImageEncoding, content: bytes, relabel: Callable[[Tensor], Tensor] | None
) -> SupportSet:
    count, channels, height, width = support_set.images.shape
    shown = encoding.decode(content, (count, channels, height, width))
    if torch.equal(shown, support_set.images):
        return support_set
    if relabel is None:
        raise DsvError(f"encoding {encoding.name} alters these images, so their soft labels must be made anew: relabel")
    return dataclasses.replace(support_set, images=shown, soft_labels=relabel(shown))


def save(
    support_set: SupportSet,
    path: Path | str,
    encoding: str = "raw",
    *,
    relabel: Callable[[Tensor], Tensor] | None = None,
) -> str:
    """Write a set as a release file and return its digest; ``encoding`` and ``relabel`` as in ``encode``.

    Raises:
        DsvError: as ``encode``, or the file cannot be written.
    """
    content = encode(support_set, encoding, relabel=relabel)
    try:
        write_atomically(Path(path), content)
    except OSError as error:
        raise DsvError(f"cannot write release {path}: {error.strerror}; name another file") from None
    return digest(content)


def digest(content: bytes) -> str:
    """The name of a release: SHA-256 of its file, 64 lowercase hex digits."""
    return hashlib.sha256(content).hexdigest()


def decode(content: bytes) -> SupportSet:
    """The set that ``content`` encodes.

    Raises:
        ArtefactError: truncated, altered, too large, or not a release file at all.
    """
    tensors, header = _opened(content)
    encoding = _encoding(header)
    try:
        task = Task(**_fields(Task, header["task"]))
        provenance = Provenance(**_fields(Provenance, header["provenance"]))
        _check_layout(tensors, _layout(encoding, task))
        support_set = _build(tensors, encoding, task, provenance)
    except ArtefactError:
        raise
    except DsvError as error:
        raise ArtefactError(f"release file is inconsistent: {error}") from None
    expected = _header(_described(support_set, encoding), {name: tensors[name] for name in _layout(encoding, task)})
    # The container admits no byte between or behind the tensors, and their types lose nothing on the way through a
    # set: so the whole is canonical when its header is. (Encoding it all again took three times as long.)
    if content[: len(expected)] != expected:
        raise ArtefactError("release file is not in canonical form: its bytes were altered; download it again")
    return support_set


def encoding_of(content: bytes) -> str:
    """Name of the encoding of a release's images.

    Raises:
        ArtefactError: not a release file.
    """
    return _encoding(_opened(content)[1])


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


def _opened(content: bytes) -> tuple[Arrays, Any]:
    if len(content) > MAX_SIZE_BYTES:
        raise ArtefactError(f"release file of {len(content)} bytes is above the limit of {MAX_SIZE_BYTES}")
    try:
        return safetensors.numpy.load(content), json.loads(_metadata(content))
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtefactError(f"not a release file, or a truncated one ({error}); download it again") from None


def _metadata(content: bytes) -> str:
    length = int.from_bytes(content[:8], "little")
    text = json.loads(content[8 : 8 + length])["__metadata__"][METADATA_KEY]
    if not isinstance(text, str):
        raise ValueError(f"{METADATA_KEY} metadata is not text")
    return text


def _encoding(header: Any) -> str:
    """The encoding that well-formed metadata names."""
    found = header.get("format") if isinstance(header, dict) else None
    if isinstance(found, str) and found not in (RAW_FORMAT, FORMAT):
        raise ArtefactError(
            f"release file has format {found!r}, this software reads {RAW_FORMAT!r} and {FORMAT!r}; update it"
        )
    expected = {"format", "task", "provenance"} | ({"encoding"} if found == FORMAT else set())
    if not isinstance(found, str) or set(header) != expected:
        raise ArtefactError(
            "release file's metadata must hold format, task and provenance, nothing else (feddsv/2: and encoding)"
        )
    encoding = header.get("encoding", "raw")
    try:
        ImageEncoding(encoding)
    except DsvError as error:
        raise ArtefactError(f"release file has an {error}; update this software") from None
    if found == FORMAT and encoding == "raw":
        raise ArtefactError(f"release file holds raw images as {FORMAT}, which are {RAW_FORMAT}")
    return str(encoding)


def _layout(encoding: str, task: Task) -> dict[str, str]:
    """Types of the tensors, in the file's order."""
    if encoding == "raw":
        return {"multipliers": "float32", "soft_labels": "float16", "labels": "uint16", "images": "uint8"}
    if task.classes <= MAX_BYTE_CLASSES:
        return {"multipliers": "float16", "images": "uint8", "labels": "uint8", "soft_labels": "uint8"}
    return {"multipliers": "float16", "labels": "uint16", "images": "uint8", "soft_labels": "uint8"}


def _described(support_set: SupportSet, encoding: str) -> str:
    task, provenance = dataclasses.asdict(support_set.task), dataclasses.asdict(support_set.provenance)
    described: dict[str, Any] = {"format": RAW_FORMAT, "task": task, "provenance": provenance}
    if encoding != "raw":
        described |= {"format": FORMAT, "encoding": encoding}
    return _canonical_json(described)


def _header(described: str, tensors: Arrays) -> bytes:
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


def _check_layout(tensors: Arrays, layout: dict[str, str]) -> None:
    if set(tensors) != set(layout):
        raise ArtefactError(f"release file holds tensors {sorted(tensors)}, expected {sorted(layout)}")
    for name, dtype in layout.items():
        if str(tensors[name].dtype) != dtype:
            raise ArtefactError(f"release file's {name} are {tensors[name].dtype}, expected {dtype}")


def _build(tensors: Arrays, encoding: str, task: Task, provenance: Provenance) -> SupportSet:
    images, soft_labels = tensors["images"], tensors["soft_labels"]
    if encoding != "raw":
        if images.ndim != 1 or tensors["labels"].ndim != 1:
            raise ArtefactError("release file's encoded images and labels must each be one row")
        shape = (len(tensors["labels"]), *task.image_shape)
        pixels = ImageEncoding(encoding).decode(images.tobytes(), shape)
        soft_labels = probabilities_of(soft_labels)
    else:
        pixels = torch.from_numpy(images)
    return SupportSet(
        images=pixels,
        labels=torch.from_numpy(tensors["labels"].astype(numpy.int64)),
        soft_labels=torch.from_numpy(soft_labels.astype(numpy.float32)),
        multipliers=torch.from_numpy(tensors["multipliers"].astype(numpy.float32)),
        task=task,
        provenance=provenance,
    )


def _fields(kind: type[Task] | type[Provenance], found: Any) -> dict[str, Any]:
    expected = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(found, dict) or set(found) != expected:
        raise ArtefactError(
            f"release file's metadata is malformed: a {kind.__name__.lower()} holds {', '.join(sorted(expected))}"
        )
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
