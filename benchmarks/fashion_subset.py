"""The Fashion-MNIST subset of docs/savings.md: some images of every class as PNG, in ImageFolder layout.

python -m benchmarks.fashion_subset --data-root DIR --out DIR/fashion-png
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy
from PIL import Image

from client.data import open_split
from dsv import KNOWN_TASKS

NAMES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")


@click.command()
@click.option("--data-root", required=True, help="Folder that holds torchvision's FashionMNIST/.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for train/ and test/.")
@click.option("--train", default=150, show_default=True, help="Images per class to train on.")
@click.option("--test", default=100, show_default=True, help="Images per class to test on.")
@click.option("--seed", default=0, show_default=True, help="Of the draw.")
def main(data_root: str, out: Path, train: int, test: int, seed: int) -> None:
    """Draw and write."""
    for split, count in (("train", train), ("test", test)):
        images = open_split("fashionmnist", data_root, split, KNOWN_TASKS["fashionmnist"])
        generator = numpy.random.default_rng(seed)
        for label, name in enumerate(NAMES):
            folder = out / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for index in generator.permutation(numpy.flatnonzero(images.labels.numpy() == label))[:count].tolist():
                pixels = images.load([index])[0, 0].numpy()
                Image.fromarray(pixels).save(folder / f"{index:05d}.png", optimize=True)


if __name__ == "__main__":
    main()
