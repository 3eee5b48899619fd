"""How the DSVs of a run grew: a few small frames of every synthesis, kept in the run's folder for its report.

A frame is a safetensors file ``frames/<DSVs per class>/<iterations done>.safetensors`` with ``pixels`` (n, C, s, s)
uint8 and ``index`` (n,) int64, the places of these images in the release. Frames are for people: not every image is
kept, and large ones are made small, so that a run's frames take megabytes at most.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from dsv import Frames, to_uint8
from protos.files import write_atomically

FOLDER = "frames"
_SHARES = (0.0, 0.02, 0.05, 0.1, 0.25, 0.5)  # most of what the eye sees happens early; the end is the release itself
_MAX_IMAGES = 120
_MAX_SIDE_PX = 64
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Frame:
    """Some of a synthesis's images after ``iteration`` steps.

    Args:
        iteration: steps done.
        pixels: (n, C, s, s) uint8.
        index: (n,) int64, the images' places in the release.
    """

    iteration: int
    pixels: Tensor
    index: Tensor


def frame_keeper(run_dir: Path, classes: int, images_per_class: int, iterations: int) -> Frames:
    """Frames of a synthesis of ``images_per_class`` DSVs of each of ``classes``, sorted by class, into ``run_dir``."""
    folder = run_dir / FOLDER / str(images_per_class)
    index = _kept(classes, images_per_class)

    def take(iteration: int, pixels: Tensor) -> None:
        with suppress(OSError):  # a picture less is no reason to end a synthesis of hours
            folder.mkdir(parents=True, exist_ok=True)
            content = safetensors.torch.save({"pixels": _small(pixels[index]), "index": index})
            write_atomically(folder / f"{iteration:06d}{_SUFFIX}", content)

    return Frames(frozenset(round(share * iterations) for share in _SHARES), take)


def read_frames(run_dir: Path, images_per_class: int) -> list[Frame]:
    """The frames of one release in order of time; files that are no frames are passed over."""
    found = []
    for path in sorted((run_dir / FOLDER / str(images_per_class)).glob(f"*{_SUFFIX}")):
        frame = _read(path)
        if frame is not None:
            found.append(frame)
    return found


def _read(path: Path) -> Frame | None:
    try:
        tensors = safetensors.torch.load(path.read_bytes())
        pixels, index = tensors["pixels"], tensors["index"]
    except (OSError, safetensors.SafetensorError, KeyError):
        return None
    fits = pixels.ndim == 4 and pixels.dtype == torch.uint8 and pixels.shape[1] in (1, 3) and pixels.numel() > 0
    fits = fits and index.dtype == torch.int64 and index.shape == pixels.shape[:1]
    return Frame(int(path.stem), pixels, index) if fits and path.stem.isdigit() else None


def _kept(classes: int, images_per_class: int) -> Tensor:
    """Places of the first images of every class, or of the first classes where there are too many."""
    each = min(images_per_class, max(1, _MAX_IMAGES // classes))
    places = torch.arange(classes)[:, None] * images_per_class + torch.arange(each)[None, :]
    return places[: max(1, _MAX_IMAGES // each)].flatten()


def _small(pixels: Tensor) -> Tensor:
    if pixels.shape[-1] <= _MAX_SIDE_PX:
        return pixels
    return to_uint8(functional.interpolate(pixels.float() / 255, _MAX_SIDE_PX, mode="area"))
