"""What weights and a release tell of whether an image was trained on:

    python -m benchmarks.membership --federation digits-few --method "DSV, end point" [--data-root DIR]
        [--teacher FILE --release FILE]

An attacker has one image and its class and asks a model how sure it is of that class: models are surer of what they
were trained on (Yeom et al., arXiv:1709.01604; the measure of sureness is Carlini et al.'s, arXiv:2112.03570). Members
are the federation's training images; the test images are halved into non-members and what reference models learn from,
whose sureness of the same image may be taken off: some images are easy for anybody (Watson et al., arXiv:2111.08440).
Who has the weights asks them; who has the release alone asks newcomers that learned from it.

Rows go to ``docs/results/membership.json``; ``--table`` prints them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor, nn

from benchmarks.json_rows import read_rows, write_rows
from benchmarks.machine import this_machine
from benchmarks.zero_shot_bench import Bench
from benchmarks.zero_shot_federations import FEDERATIONS, Images, load_images
from benchmarks.zero_shot_methods import make
from client.bootstrap import train_newcomer
from client.rehearsal import training_for
from dsv import (
    Targets,
    Task,
    TrainingConfig,
    from_uint8,
    label_views,
    newcomer_training,
    noise_pixels,
    predict,
    share_correct,
    to_uint8,
    usual_views,
)
from protos import artefact
from protos.checkpoint import load_checkpoint

_AT_MOST = 10_000
_FALSE_ALARMS = 0.01


@dataclass(frozen=True)
class Row:
    """How well one attacker tells members from others.

    Args:
        attacker: what is asked.
        accuracy: of what is asked, on the non-members.
        auc: probability that a member gets the higher score than a non-member, 0 to 1; 0.5 by guessing.
        auc_calibrated: the same with the references' sureness taken off.
        found: share of the members that are found where 1 % of the others are taken for members; calibrated.
    """

    federation: str
    attacker: str
    accuracy: float
    auc: float
    auc_calibrated: float
    found: float
    members: int
    others: int
    machine: str


@torch.no_grad()
def sureness(model: nn.Module, images: Tensor, labels: Tensor, task: Task) -> Tensor:
    """(N,) float64: log-odds of the class of (N, C, H, W) uint8 images, without rounding to certainty."""
    model.eval()
    device = next(model.parameters()).device
    parts = []
    for batch, own in zip(torch.split(images, 500), torch.split(labels, 500), strict=True):
        logits = model(from_uint8(batch, task, device=device, dtype=torch.float32)).double().cpu()
        right = logits.gather(1, own[:, None])[:, 0]
        parts.append(right - logits.scatter(1, own[:, None], -torch.inf).logsumexp(dim=1))
    return torch.cat(parts)


@dataclass(frozen=True)
class Suspects:
    """Images of which an attacker wants to know whether they were trained on, and models that saw neither half.

    Args:
        images, labels: members first.
        members: how many these are.
        reference: sureness of models that learned from other images.
    """

    images: Tensor
    labels: Tensor
    members: int
    reference: Tensor
    task: Task

    @classmethod
    def of(cls, real: Images, task: Task, architecture: str, references: int, device: str) -> Suspects:
        """Members, 10,000 at most, and one half of the test images; references learn from the other half."""
        order = torch.randperm(len(real.train_labels), generator=torch.Generator().manual_seed(0))[:_AT_MOST]
        # a data set's files come class by class, and either half must have all of them
        drawn = torch.randperm(len(real.test_labels), generator=torch.Generator().manual_seed(1))
        others, rest = drawn.chunk(2)
        images = torch.cat([real.train[order], real.test[others]])
        labels = torch.cat([real.train_labels[order], real.test_labels[others]])
        known, classes = real.test[rest], real.test_labels[rest]
        config = training_for(len(known), classes, 0)
        models = _trained(architecture, known, classes, task, config, count=references, device=device)
        reference = torch.stack([sureness(model, images, labels, task) for model in models]).mean(dim=0)
        return cls(images, labels, len(order), reference, task)

    def attacked(self, federation: str, attacker: str, models: Sequence[nn.Module], device: str) -> Row:
        """One row: the models' mean sureness tells members."""
        seen = torch.stack([sureness(model, self.images, self.labels, self.task) for model in models]).mean(dim=0)
        answers = torch.stack([predict(model, self.images[self.members :], self.task) for model in models]).mean(dim=0)
        is_member = torch.arange(len(seen)) < self.members
        calibrated = seen - self.reference
        alarms, found, _ = roc_curve(is_member, calibrated)
        return Row(
            federation,
            attacker,
            round(share_correct(answers, self.labels[self.members :]), 4),
            round(float(roc_auc_score(is_member, seen)), 4),
            round(float(roc_auc_score(is_member, calibrated)), 4),
            round(float(found[alarms <= _FALSE_ALARMS].max()), 4),
            self.members,
            len(seen) - self.members,
            this_machine(device),
        )


def _trained(
    architecture: str, images: Tensor, targets: Targets, task: Task, config: TrainingConfig, *, count: int, device: str
) -> list[nn.Module]:
    return [
        train_newcomer(architecture, images, targets, task, config, seed=seed, device=device)
        for seed in range(1, count + 1)
    ]


def interval(auc: float, members: int, others: int) -> float:
    """Half of an AUC's 95 % interval (Hanley and McNeil, 1982)."""
    one, other = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (members - 1) * (one - auc**2) + (others - 1) * (other - auc**2)
    return 1.96 * math.sqrt(max(0.0, spread) / (members * others))


def markdown(rows: Sequence[Row]) -> str:
    """A table of rows; AUCs with their 95 % interval."""
    lines = [
        "| federation | asked | accuracy | AUC | AUC, calibrated | found at 1 % false alarms |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        aucs = (f"{auc:.3f} ± {interval(auc, row.members, row.others):.3f}" for auc in (row.auc, row.auc_calibrated))
        cells = (row.federation, row.attacker, f"{row.accuracy:.1%}", *aucs, f"{row.found:.1%}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@click.option("--federation", "name", type=click.Choice(list(FEDERATIONS)), required=True)
@click.option("--data-root", default="", help="Folder of the data set.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("runs/zero-shot"), show_default=True)
@click.option("--teacher", type=click.Path(path_type=Path), help="Another model of the same images, and its name.")
@click.option("--release", type=click.Path(path_type=Path), help="Its DSVs; made by --method when left out.")
@click.option("--called", default="", help="The rows' name; the federation's when empty.")
@click.option("--method", default="DSV, end point", show_default=True, help="As in zero_shot.py.")
@click.option("--per-class", default=10, show_default=True)
@click.option("--iterations", default=300, show_default=True)
@click.option("--newcomers", default=3, show_default=True, help="How many an attacker trains and asks together.")
@click.option("--references", default=3, show_default=True, help="Models that learned from other images.")
@click.option("--steps", default=0, show_default=True, help="Of a newcomer; 0: a newcomer's default.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results/membership.json"), show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--table/--no-table", default=False, show_default=True, help="Print the table and compute nothing.")
def main(name: str, **o: Any) -> None:
    """Attack the weights, and newcomers of the release; print the table."""
    if not o["table"]:
        rows = _attacks(name, o)
        kept = [row for row in read_rows(Row, o["out"]) if row.federation != rows[0].federation]
        write_rows(o["out"], [*kept, *rows])
    print(markdown(read_rows(Row, o["out"])))


def _attacks(name: str, o: dict[str, Any]) -> list[Row]:
    real, device = load_images(FEDERATIONS[name], o["data_root"], o["cache"]), o["device"]
    if o["teacher"]:
        teacher, found = load_checkpoint(o["teacher"]), artefact.load(o["release"])
        images, labels = found.images, found.labels
    else:
        bench = Bench.of(
            *(name, real, o["cache"], device),
            compiled=False,
            bfloat16=False,
            iterations=o["iterations"],
            rival_iterations=0,
        )
        teacher, made = bench.teacher, make(bench, o["method"], o["per_class"], 0)[0]
        images, labels = made.images, made.labels
    task, architecture, called = teacher.task, str(teacher.spec), o["called"] or name
    suspects = Suspects.of(real, task, architecture, o["references"], device)
    plan = usual_views(task)
    assert plan is not None
    noise = to_uint8(noise_pixels(task, len(images), torch.Generator().manual_seed(0)))

    def labelled(shown: Tensor) -> Targets:
        return label_views(teacher.model, shown, task, plan, device=device)

    learned: list[tuple[str, Tensor, Targets]] = [
        ("DSVs, labelled views", images, labelled(images)),
        ("DSVs, hard labels", images, labels),
        ("noise, labelled alike", noise, labelled(noise)),
    ]
    rows = [suspects.attacked(called, "the weights", [teacher.model], device)]
    for source, shown, targets in learned:
        config = newcomer_training(o["steps"], targets)
        models = _trained(architecture, shown, targets, task, config, count=o["newcomers"], device=device)
        rows.append(suspects.attacked(called, f"newcomers of {source}", models, device))
    return rows


if __name__ == "__main__":
    main()
