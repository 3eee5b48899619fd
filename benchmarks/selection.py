"""What a selection finds on linear support vector machines, and the memory that it takes:

    python -m benchmarks.selection

For two pairs of scikit-learn's digits, the images with the largest lambda beside the machine's support vectors. Then
the growth of the process's peak memory during one pass over N random images, each measurement in a process of its own.
Prints two Markdown tables.
"""

from __future__ import annotations

import multiprocessing

import click
import numpy
import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch import nn

from benchmarks.machine import fresh_peak_bytes, peak_resident_bytes
from dsv import Compute, ModelSpec, Selection, SelectionConfig, Task, build_model, from_uint8, rank_correlation, select

PAIRS = ((0, 6, 0.01), (4, 9, 0.001))
"""Two digits, and the C of libsvm."""
DIGITS = Task(1, 8, ("first", "second"), (0.3,), (0.4,), mirror=False)
LARGE = Task(3, 32, tuple(str(label) for label in range(10)), (0.5,) * 3, (0.5,) * 3)


def selected_of_svm(first: int, second: int, regularisation: float) -> tuple[Selection, SVC]:
    """Multipliers of two digits' images by a linear model that is a support vector machine, and that machine. Logits
    are four times the margin, so that the loss resembles the hinge."""
    data = load_digits()
    keep = numpy.isin(data.target, (first, second))
    images = torch.tensor(numpy.round(data.images[keep] * 255 / 16)).to(torch.uint8)[:, None]
    labels = torch.tensor((data.target[keep] == second).astype(int))
    inputs = from_uint8(images, DIGITS, dtype=torch.float32).flatten(1).numpy()
    machine = SVC(kernel="linear", C=regularisation).fit(inputs, labels.numpy())
    linear = nn.Linear(64, 2)
    model = nn.Sequential(nn.Flatten(), linear)
    weight, bias = torch.tensor(machine.coef_[0]).float(), float(machine.intercept_[0])
    with torch.no_grad():
        linear.weight.copy_(torch.stack([-2 * weight, 2 * weight]))
        linear.bias.copy_(torch.tensor([-2 * bias, 2 * bias]))
    config = SelectionConfig(stationary_parameters="1.weight")
    load = lambda i: images[list(i)]  # noqa: E731
    return select(model, load, labels, DIGITS, config, compute=Compute(micro_batch=50)), machine


def svm_agreement(found: Selection, machine: SVC) -> tuple[float, float]:
    """Of the k images with the largest lambda, the share of the machine's k support vectors; rank correlation of lambda
    with its dual coefficients."""
    dual = torch.zeros(len(found.labels))
    dual[machine.support_] = torch.tensor(numpy.abs(machine.dual_coef_[0])).float()
    largest = torch.argsort(found.multipliers, descending=True)[: len(machine.support_)]
    return float(numpy.isin(largest.numpy(), machine.support_).mean()), rank_correlation(found.multipliers, dual)


def svm_row(first: int, second: int, regularisation: float) -> str:
    """A line of the first table."""
    found, machine = selected_of_svm(first, second, regularisation)
    overlap, correlation = svm_agreement(found, machine)
    counts = f"{len(found.labels)} | {len(machine.support_)}"
    return f"| {first}, {second} | {regularisation} | {counts} | {overlap:.0%} | {correlation:.2f} |"


def peak_growth_bytes(count: int) -> int:
    """Of one pass over so many images, which are drawn when they are asked for."""
    model = build_model(ModelSpec.parse("convnet:4", LARGE), seed=0)

    def run(images: int) -> None:
        labels = torch.arange(images) % LARGE.classes
        select(
            model,
            lambda i: torch.randint(0, 256, (len(i), *LARGE.image_shape), dtype=torch.uint8),
            labels,
            LARGE,
            SelectionConfig(iterations=1),
            compute=Compute(micro_batch=100),
        )

    run(200)  # libraries and thread pools come into memory with the first use
    before = fresh_peak_bytes()
    run(count)
    return peak_resident_bytes() - before


@click.command()
@click.option("--counts", default="1000,10000,40000", show_default=True, help="Of images, separated by commas.")
def main(counts: str) -> None:
    """Measure and print."""
    print("| pair | C | images | support vectors | largest lambda that are support vectors | rank correlation |")
    print("|---|---|---|---|---|---|")
    for pair in PAIRS:
        print(svm_row(*pair))
    print("\n| images | growth of the peak, MB |\n|---|---|")
    for count in (int(text) for text in counts.split(",")):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(f"| {count:,} | {pool.apply(peak_growth_bytes, (count,)) / 1e6:.1f} |", flush=True)


if __name__ == "__main__":
    main()
