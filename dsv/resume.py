"""The state of unfinished work on disk, so that a killed run goes on and ends in the same bytes."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from dsv.errors import DsvError
from dsv.optimisers import Moments


@dataclass(frozen=True)
class SynthesisState:
    """Everything that the next step of a synthesis reads.

    Args:
        iteration: steps done.
        pixels: (N, C, h, w) float32 in [0, 1], at the side of the present stage.
        multipliers: (N,) float32, or (N, C) with anchors of C clients.
        moments: Adam's state of the pixels (0) and the multipliers (1), see ``Moments``; all N of each.
        generator: state of the CPU generator.
    """

    iteration: int
    pixels: Tensor
    multipliers: Tensor
    moments: dict[int, Moments]
    generator: Tensor


@dataclass(frozen=True)
class SelectionState:
    """Everything that the next step of a selection reads.

    Args:
        multipliers: (N,) float32, >= 0.
        distances: D before each of the steps that were done.
    """

    multipliers: Tensor
    distances: tuple[float, ...]


State = TypeVar("State", SynthesisState, SelectionState)


@dataclass(frozen=True)
class Checkpointing:
    """Where and how often the state of a synthesis or a selection is saved.

    Args:
        path: of the file; replaced atomically at every save.
        every: iterations between saves, at least 1.
        every_s: seconds after which one process that works alone saves too, for large models' slow iterations; >= 0.

    Raises:
        DsvError: ``every`` is below 1, or ``every_s`` below 0.
    """

    path: Path
    every: int = 50
    every_s: float = 60.0

    def __post_init__(self) -> None:
        if self.every < 1:
            raise DsvError(f"a state is saved every 1 or more iterations, got {self.every}")
        if not self.every_s >= 0:
            raise DsvError(f"a state is saved every 0 or more seconds, got {self.every_s}")

    def save(self, identity: str, state: SynthesisState | SelectionState) -> None:
        """Write ``state`` of the run that ``identity`` names.

        Raises:
            DsvError: it cannot be written.
        """
        partial = self.path.with_suffix(f".{os.getpid()}.partial")  # the same run may be started twice
        content = io.BytesIO()
        torch.save({"identity": identity, **vars(state)}, content)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # for its user alone: it shows what is being edited
            with open(partial, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileNotFoundError):  # the same run, started twice, is over and has cleared it away
                os.replace(partial, self.path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise DsvError(f"cannot save the state {self.path}: {error.strerror}; free space or rights") from None

    def load(self, identity: str, kind: type[State]) -> State | None:
        """The saved state, of that kind, or None where nothing is saved or it belongs to another run.

        Raises:
            DsvError: the file is there but cannot be read.
        """
        try:
            # weights_only: nothing but tensors and plain values is unpickled
            found: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
            return kind(**found) if found.pop("identity") == identity else None
        except FileNotFoundError:
            return None
        except Exception as error:  # torch names no common ancestor of what a damaged file raises
            raise DsvError(f"cannot read the saved state {self.path}; delete it to start anew ({error})") from None

    def clear(self) -> None:
        """Forget the state: the run is over."""
        for path in (self.path, *self.path.parent.glob(f"{self.path.stem}.*.partial")):
            path.unlink(missing_ok=True)


class Saving:
    """The saved states of one run, or nothing where none are to be kept.

    Args:
        checkpointing: where and how often.
        identity: tells what must be equal for a saved state to be of this run; only called where states are kept.
        alone: whether no other process shares the work; several must agree, and have no clock in common.
    """

    def __init__(self, checkpointing: Checkpointing | None, identity: Callable[[], str], *, alone: bool = True) -> None:
        self._to, self._alone = checkpointing, alone
        self._identity = "" if checkpointing is None else identity()
        self._saved_s = time.monotonic()

    def found(self, kind: type[State]) -> State | None:
        """The state to go on from, if there is one; as ``Checkpointing.load``."""
        return self._to.load(self._identity, kind) if self._to else None

    def due(self, iteration: int) -> bool:
        """Whether it is time to save, after that many steps."""
        if self._to is None:
            return False
        late = self._alone and time.monotonic() - self._saved_s >= self._to.every_s
        return iteration % self._to.every == 0 or late

    def save(self, state: SynthesisState | SelectionState) -> None:
        """As ``Checkpointing.save``, for a run whose states are kept."""
        assert self._to is not None
        self._to.save(self._identity, state)
        self._saved_s = time.monotonic()
