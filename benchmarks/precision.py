"""How far bfloat16 puts the image gradient off, and so why it is not offered:

    python -m benchmarks.precision

The plain double-backward loop of ``benchmarks/synthesis.py`` under torch's autocast against itself in float32, and our
own gradient in float32 for scale: relative l2 error, cosine of the two gradients. Seed 0; ConvNet of width 128, 32 px.
"""

from __future__ import annotations

import click
import torch

from benchmarks.synthesis import steps
from dsv import Compute


@click.command()
@click.option("--device", default="cpu", show_default=True)
@click.option("--counts", default="10,50", show_default=True, help="Of DSVs, separated by commas.")
def main(device: str, counts: str) -> None:
    """Measure and print a Markdown table."""
    print("| DSVs | gradient | relative error | cosine |\n|---|---|---|---|")
    for count in (int(text) for text in counts.split(",")):
        ours, plain = steps("small", count, Compute(device))
        _, rounded = steps("small", count, Compute(device), autocast=torch.bfloat16)
        reference = plain().flatten()
        for name, step in (("bfloat16", rounded), ("ours, float32", ours)):
            found = step().float().flatten()
            error = float((found - reference).norm() / reference.norm())
            cosine = float(torch.cosine_similarity(found, reference, dim=0))
            print(f"| {count} | {name} | {error:.1e} | {cosine:.4f} |", flush=True)


if __name__ == "__main__":
    main()
