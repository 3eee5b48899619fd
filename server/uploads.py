"""Every client's model of the last round, kept for a synthesis that starts from these instead of their average.

They are kept as long as the run's folder is, and only when asked for (``synthesis-from clients``): docs/privacy.md says
what it means that a server looks at single clients.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flwr.app import ArrayRecord

from protos.checkpoint import Checkpoint, save_checkpoint
from protos.exchange import load_record
from server.client_models import FOLDER


@dataclass(frozen=True)
class Upload:
    """What one client sent: its tensors, and the number of images that it trained on."""

    arrays: ArrayRecord
    examples: int


def keep_client_models(run_dir: Path, teacher: Checkpoint, sent: Sequence[Upload]) -> None:
    """Write what the clients sent, in its order, as model files into ``run_dir``; an earlier round's are replaced."""
    folder, partial = run_dir / FOLDER, run_dir / f"{FOLDER}.partial"
    for stale in (partial, folder):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir(mode=0o700, parents=True)  # a single client's weights tell more of it than the average does
    for number, upload in enumerate(sent):
        checkpoint = replace(teacher, model=copy.deepcopy(teacher.model), examples=upload.examples)
        load_record(checkpoint.model, upload.arrays)
        save_checkpoint(partial / f"{number:04d}.safetensors", checkpoint)
    partial.rename(folder)
