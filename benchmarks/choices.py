"""What each option of the synthesis is worth: python -m benchmarks.choices runs/latest/teacher.safetensors

From one teacher on the digits, every row changes one option of the default synthesis. Each of three seeds synthesises
anew and trains a newcomer of the teacher's architecture from it. Prints a Markdown table. About 25 minutes on a core.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

from client.bootstrap import train_newcomer
from client.data import open_split
from dsv import SupportSet, SynthesisConfig, accuracy, newcomer_training, synthesize
from protos.checkpoint import Checkpoint, load_checkpoint

SEEDS = (1, 2, 3)
CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"distance": "mean-l1"},
    {"distance": "relative-l2"},
    {"primal_weight": 0.0},
    {"primal_weight": 1.0},
    {"augmented_weight": 0.0},
    {"augmented_weight": 5.0},
    {"total_variation_weight": 0.05},
    {"norm_weight": 0.05},
    {"image_step": 0.1},
    {"noise": 0.2},
    {"coarse_stages": 2},
)


def newcomer(teacher: Checkpoint, found: SupportSet, labels: str, seed: int) -> float:
    """Test accuracy of one newcomer."""
    test = open_split("digits", "", "test", teacher.task)
    targets = found.targets(labels)
    model = train_newcomer(str(teacher.spec), found.images, targets, teacher.task, newcomer_training(), seed=seed)
    return accuracy(model, test.images(), test.labels, teacher.task)


def row(teacher: Checkpoint, change: dict[str, Any]) -> tuple[list[str], float]:
    """Three cells, and the seconds of a synthesis of 10 per class."""
    cells, seconds = [], []
    for count, kinds in ((10, ("hard", "soft")), (1, ("soft",))):
        values: dict[str, list[float]] = {kind: [] for kind in kinds}
        for seed in SEEDS:
            started = time.perf_counter()
            config = SynthesisConfig(images_per_class=count, **change)
            found = synthesize(teacher.model, teacher.task, config, seed=seed)
            if count == 10:
                seconds.append(time.perf_counter() - started)
            for kind in kinds:
                values[kind].append(newcomer(teacher, found, kind, seed))
        cells += [f"{statistics.fmean(v):.1%} ± {statistics.stdev(v):.1%}" for v in values.values()]
    return cells, statistics.median(seconds)


def main() -> None:
    """Print the table."""
    teacher = load_checkpoint(sys.argv[1])
    print("| change | 10 per class, hard | 10 per class, soft | 1 per class, soft | seconds (10 per class) |")
    print("|---|---|---|---|---|")
    for change in CHANGES:
        cells, seconds = row(teacher, change)
        name = ", ".join(f"{key} {value}" for key, value in change.items()) or "(defaults)"
        print(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
