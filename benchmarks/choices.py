"""What each option of the synthesis is worth: python benchmarks/choices.py runs/latest/teacher.safetensors

From one teacher on the digits, every row changes one option of the default synthesis, and newcomers of the teacher's
architecture train from the outcome. Prints a Markdown table. About six minutes on two cores.
"""

from __future__ import annotations

import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from client.bootstrap import newcomer_training, train_newcomer
from client.data import open_split
from dsv import SupportSet, SynthesisConfig, accuracy, synthesize
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
)


def newcomers(teacher: Checkpoint, found: SupportSet, labels: str) -> list[float]:
    """Test accuracy for every seed."""
    test = open_split("digits", "", "test", teacher.task)
    images = test.images()

    def once(seed: int) -> float:
        model = train_newcomer(
            str(teacher.spec), found.images, found.targets(labels), teacher.task, newcomer_training(), seed=seed
        )
        return accuracy(model, images, test.labels, teacher.task)

    with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(once, SEEDS))


def main() -> None:
    """Print the table."""
    teacher = load_checkpoint(sys.argv[1])
    print("| change | 10 per class, hard | 10 per class, soft | 1 per class, soft | seconds (10 per class) |")
    print("|---|---|---|---|---|")
    for change in CHANGES:
        cells = []
        seconds = 0.0
        for count, kinds in ((10, ("hard", "soft")), (1, ("soft",))):
            started = time.perf_counter()
            found = synthesize(teacher.model, teacher.task, SynthesisConfig(images_per_class=count, **change), seed=0)
            seconds = max(seconds, time.perf_counter() - started)
            for labels in kinds:
                values = newcomers(teacher, found, labels)
                cells.append(f"{statistics.fmean(values):.1%} ± {statistics.stdev(values):.1%}")
        name = ", ".join(f"{key} {value}" for key, value in change.items()) or "(defaults)"
        print(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
