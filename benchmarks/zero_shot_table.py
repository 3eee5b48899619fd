"""The rows of ``zero_shot.py`` on disk and as Markdown."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One line of the table; accuracies are shares of the test images, ``views`` those that the teacher labelled,
    ``warmup`` the share of the students' steps in which their rate rises, ``bfloat16`` whether clients and students
    trained, and labelled views, in it."""

    federation: str
    method: str
    dataset: str
    teacher: str
    teacher_accuracy: float
    images_per_class: int
    start: str
    labels: str
    student: str
    student_steps: int
    accuracy_mean: float
    accuracy_std: float
    release_bytes: int
    synthesis_s: float
    seen_real_images: int
    views: int = 0
    warmup: float = 0.0
    bfloat16: bool = False


@dataclass(frozen=True)
class Students:
    """Who is trained on every set."""

    architectures: tuple[str, ...]
    seeds: int
    steps: int
    test_images: int
    processes: int = 1


class Table:
    """Rows on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        stored = json.loads(path.read_text())["rows"] if path.exists() else []
        self.rows = [Row(**row) for row in stored]

    def missing(
        self,
        federation: str,
        method: str,
        per_class: int,
        students: Students,
        kinds: Sequence[str],
        *,
        views: int = 0,
        warmup: float = 0.0,
        bfloat16: bool = False,
    ) -> list[str]:
        """Those of the ``kinds`` of labels, with so many views, that a method has not got rows of, of every student."""
        wanted = (federation, method, per_class, students.steps, warmup, bfloat16)
        found = {
            (r.labels, r.student)
            for r in self.rows
            if (r.federation, r.method, r.images_per_class, r.student_steps, r.warmup, r.bfloat16) == wanted
            and r.views in {0, views}
        }
        return [kind for kind in kinds if not found.issuperset((kind, student) for student in students.architectures)]

    def add(self, rows: list[Row]) -> None:
        """Keep ``rows`` instead of those of the same name."""
        new = {_identity(row) for row in rows}
        kept = [row for row in self.rows if _identity(row) not in new]
        self.rows = kept + rows
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = ",\n".join(json.dumps(dataclasses.asdict(row)) for row in self.rows)
        self._path.write_text(f'{{"rows": [\n{text}\n]}}\n')


def _identity(row: Row) -> tuple[object, ...]:
    """What rows that are the same but for what was measured have in common."""
    students = (row.student, row.student_steps, row.warmup, row.bfloat16)
    return (row.federation, row.method, row.images_per_class, row.labels, row.views, *students)


def markdown(rows: list[Row], federation: str) -> str:
    """Rows of one federation, in the order that they were asked for."""
    lines = [
        "| method | per class | starts from | real images seen | labels | student | steps | accuracy | bytes "
        "| seconds |",
        "|---" * 10 + "|",
    ]
    for r in rows:
        if r.federation == federation:
            cells = (
                *(r.method, r.images_per_class or "-", r.start, f"{r.seen_real_images:,}", _labels(r), r.student),
                f"{r.student_steps or '-'}{', warm-up' if r.warmup else ''}{', bfloat16' if r.bfloat16 else ''}",
                *(f"{r.accuracy_mean:.1%} ± {r.accuracy_std:.1%}", f"{r.release_bytes:,}", f"{r.synthesis_s:.0f}"),
            )
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _labels(row: Row) -> str:
    return f"{row.labels} ({row.views:,})" if row.views else row.labels
