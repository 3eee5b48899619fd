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

from dsv import DsvError, LabelledViews, Provenance, SupportSet, Task
from protos.artefact_header import (
    METADATA_KEY,
    Arrays,
    ArtefactError,
    described,
    encoding_named,
    fields_of,
    header_bytes,
    layout_of,
    metadata_of,
    views_of,
)
from protos.encodings import ImageEncoding
from protos.files import write_output
from protos.label_bytes import level_bytes, probabilities_of, probability_bytes

MAX_SIZE_BYTES = 1 << 30
"""Files above 1 GiB are refused before they are parsed."""
MAX_MULTIPLIER = 65_504.0
"""The largest float16."""


def encode(
    support_set: SupportSet,
    encoding: str = "raw",
    *,
    relabel: Callable[[Tensor], Tensor] | None = None,
    label_views: Callable[[Tensor], LabelledViews] | None = None,
) -> bytes:
    """The canonical bytes of a set. Soft labels are stored as float16, or in 255ths where images are encoded.

    Args:
        encoding: of the images, the name of an ``ImageEncoding``.
        relabel: from images to the teacher's probabilities, (N, K) float32. A lossy encoding needs it: soft labels
            belong to the pixels that newcomers get.
        label_views: from images to views of them that the teacher has labelled; without it, the set's own are written.

    Raises:
        DsvError: unknown encoding, one that cannot write these images, or one that alters them without ``relabel``, or
            without ``label_views`` where the set has views; or a file that would be larger than readers take.
    """
    chosen = ImageEncoding(encoding)
    content = chosen.encode(support_set.images)
    if encoding != "raw":
        views, support_set = support_set.views, _as_decoded(support_set, chosen, content, relabel)
        if views is not None and support_set.views is None and label_views is None:
            raise DsvError(
                f"encoding {encoding} alters these images, so their views must be labelled anew: label_views"
            )
    if label_views is not None:
        support_set = dataclasses.replace(support_set, views=label_views(support_set.images))
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
    if support_set.views is not None:
        arrays["view_labels"] = level_bytes(support_set.views.levels.numpy())
    layout = layout_of(encoding, support_set.task, views=support_set.views is not None)
    tensors = {name: numpy.ascontiguousarray(array, dtype=layout[name]) for name, array in arrays.items()}
    content = safetensors.numpy.save(tensors, metadata={METADATA_KEY: described(support_set, encoding)})
    if len(content) > MAX_SIZE_BYTES:
        raise DsvError(f"a release of {len(content)} bytes is above the limit of {MAX_SIZE_BYTES}; make fewer DSVs")
    return content


def _as_decoded(
    support_set: SupportSet, encoding: ImageEncoding, content: bytes, relabel: Callable[[Tensor], Tensor] | None
) -> SupportSet:
    count, channels, height, width = support_set.images.shape
    shown = encoding.decode(content, (count, channels, height, width))
    if torch.equal(shown, support_set.images):
        return support_set
    if relabel is None:
        raise DsvError(f"encoding {encoding.name} alters these images, so their soft labels must be made anew: relabel")
    return dataclasses.replace(support_set, images=shown, soft_labels=relabel(shown), views=None)


def save(
    support_set: SupportSet,
    path: Path | str,
    encoding: str = "raw",
    *,
    relabel: Callable[[Tensor], Tensor] | None = None,
    label_views: Callable[[Tensor], LabelledViews] | None = None,
) -> str:
    """Write a set as a release file and return its digest; the options are those of ``encode``.

    Raises:
        DsvError: as ``encode``, or the file cannot be written.
    """
    content = encode(support_set, encoding, relabel=relabel, label_views=label_views)
    write_output(Path(path), content, "release")
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
    encoding = encoding_named(header)
    try:
        task = Task(**fields_of(Task, header["task"]))
        provenance = Provenance(**fields_of(Provenance, header["provenance"]))
        layout = layout_of(encoding, task, views="views" in header)
        _check_layout(tensors, layout)
        views = views_of(header["views"], tensors["view_labels"], task) if "views" in header else None
        support_set = _build(tensors, encoding, task, provenance, views)
    except ArtefactError:
        raise
    except DsvError as error:
        raise ArtefactError(f"release file is inconsistent: {error}") from None
    expected = header_bytes(described(support_set, encoding), {name: tensors[name] for name in layout})
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
    return encoding_named(_opened(content)[1])


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
        return safetensors.numpy.load(content), json.loads(metadata_of(content))
    except KeyError:  # another safetensors file, such as a model's
        raise ArtefactError("not a release file: it has no description of one; name a .dsv file") from None
    except (safetensors.SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise ArtefactError(f"not a release file, or a truncated one ({error}); download it again") from None


def _check_layout(tensors: Arrays, layout: dict[str, str]) -> None:
    if set(tensors) != set(layout):
        raise ArtefactError(f"release file holds tensors {sorted(tensors)}, expected {sorted(layout)}")
    for name, dtype in layout.items():
        if str(tensors[name].dtype) != dtype:
            raise ArtefactError(f"release file's {name} are {tensors[name].dtype}, expected {dtype}")


def _build(
    tensors: Arrays, encoding: str, task: Task, provenance: Provenance, views: LabelledViews | None
) -> SupportSet:
    images, soft_labels = tensors["images"], tensors["soft_labels"]
    if tensors["labels"].size == 0:  # before a decoder is asked for a picture of nothing
        raise ArtefactError("release file holds no image")
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
        views=views,
    )
