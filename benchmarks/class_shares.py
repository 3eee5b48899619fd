"""What the weights of skewed clients tell of their classes, and what an ensemble gains from it:

    python -m benchmarks.class_shares --federation digits-one-shot-0.1 --cache runs/zero-shot [--data-root DIR]

Prints one row of a Markdown table: how the estimate of ``dsv.estimated_counts`` correlates with the truth, and the test
accuracy of the clients' ensemble as a plain mean, with that estimate, and with the true counts.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import Tensor

from benchmarks.zero_shot_federations import FEDERATIONS, Images, federate, load_images
from client.partition import partition_of
from dsv import Ensemble, accuracy, estimated_counts


def true_counts(name: str, images: Images) -> Tensor:
    """(M, K) float32: how many images of each class every client of the federation has."""
    federation = FEDERATIONS[name]
    parts = partition_of(federation.settings, images.train_labels, federation.clients)
    classes = federation.settings.task().classes
    rows = [torch.bincount(images.train_labels[torch.tensor(part)], minlength=classes) for part in parts if part]
    return torch.stack(rows).float()


def correlation(found: Tensor, true: Tensor) -> float:
    """Pearson's, of the logarithms of the clients' shares of the classes; below a thousandth they count as that."""
    logs = [(counts / counts.sum(dim=1, keepdim=True)).clamp_min(1e-3).log().flatten() for counts in (found, true)]
    return float(torch.corrcoef(torch.stack(logs))[0, 1])


@click.command()
@click.option("--federation", "name", type=click.Choice([n for n in FEDERATIONS if "one-shot" in n]), required=True)
@click.option("--data-root", default="", help="Folder of the data set.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("runs/zero-shot"), show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--compiled/--no-compiled", default=False, show_default=True, help="Clients train by torch.compile.")
@click.option("--bfloat16/--float32", default=False, show_default=True, help="Of the clients' training.")
def main(name: str, data_root: str, cache: Path, *, device: str, compiled: bool, bfloat16: bool) -> None:
    """Estimate and compare."""
    images = load_images(FEDERATIONS[name], data_root, cache)
    trajectory = federate(name, images, cache, device, compiled=compiled, bfloat16=bfloat16)
    members = [trajectory.checkpoint(state).model.to(device) for state in trajectory.clients[-1]]
    true = true_counts(name, images).to(device)
    found = estimated_counts(members, trajectory.counts, trajectory.task, device=device)

    def reached(counts: Tensor | None) -> str:
        ensemble = Ensemble(members, counts).to(device)
        return f"{accuracy(ensemble, images.test, images.test_labels, trajectory.task):.1%}"

    row = [name, f"{correlation(found, true):.2f}", reached(None), reached(found), reached(true)]
    print("| federation | correlation | mean | estimated shares | true shares |\n|---|---|---|---|---|")
    print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
