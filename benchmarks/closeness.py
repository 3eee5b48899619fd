"""How close the images of a set come to single training images:

    python -m benchmarks.closeness --federation digits --cache runs/zero-shot [--data-root DIR]
        --methods "DSV, end point;noise" [--per-class 10] [--iterations 300] [--pairs FILE.png]

Every image looks for its nearest neighbour among the training and the test images of its class. Both come from one
distribution, so a set that holds nothing of single training images meets them as often as chance, by their share of
all; a set that holds some meets them more often (the test of membership of Carlini et al., arXiv:2112.03570, in its
plainest form). Two controls stand beside the methods: test images that were taken out of the search, and training
images under as much noise as they have contrast, which a test worth its name must find.

Prints a Markdown table; ``--pairs`` draws the images that come closest, over their training and their test neighbour.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

from benchmarks.zero_shot_bench import Bench
from benchmarks.zero_shot_federations import FEDERATIONS, load_images
from benchmarks.zero_shot_methods import make, methods_of
from benchmarks.zero_shot_rivals import inputs_of
from dsv import from_uint8, sheet, to_uint8, write_picture

Embed = Callable[[Tensor], Tensor]
"""(N, C, H, W) uint8 to (N, D) float32 of length one: the product of two is their similarity, at most 1."""


@dataclass(frozen=True)
class Found:
    """For every image of a set: similarity to the nearest training and test image of its class, their indices, and the
    share of training images among all that were searched."""

    train_similarity: Tensor
    train_index: Tensor
    test_similarity: Tensor
    test_index: Tensor
    chance: Tensor

    @property
    def met(self) -> Tensor:
        """Whether a training image is the nearest of all."""
        return self.train_similarity > self.test_similarity


def by_pixels(images: Tensor) -> Tensor:
    """Pearson's correlation of pixels: brightness and contrast do not count."""
    flat = images.flatten(1).float()
    return nn.functional.normalize(flat - flat.mean(dim=1, keepdim=True))


def by_features(bench: Bench) -> Embed:
    """Cosine of what the teacher's last layer is given, counted from the mean of the training images."""
    task, model = bench.trajectory.task, bench.teacher.model.to(bench.device)
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1:]

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        parts = []
        for part in torch.split(images, 500):
            with inputs_of(last) as seen:
                model(from_uint8(part, task, device=bench.device, dtype=torch.float32))
            parts.append(seen[0].flatten(1).cpu())
        return torch.cat(parts)

    centre = features(bench.images.train[:2_000]).mean(dim=0)
    return lambda images: nn.functional.normalize(features(images) - centre)


@dataclass(frozen=True)
class Gallery:
    """All real images of a bench as an ``Embed`` sees them; ``searched`` are the indices of test images that may be
    met."""

    bench: Bench
    embed: Embed
    train: Tensor
    test: Tensor
    searched: Tensor

    @classmethod
    def of(cls, bench: Bench, embed: Embed, searched: Tensor) -> Gallery:
        """Embed them once."""
        return cls(bench, embed, embed(bench.images.train), embed(bench.images.test), searched)

    def neighbours(self, images: Tensor, labels: Tensor) -> Found:
        """Look for each of (N, C, H, W) uint8 images of (N,) int64 classes; where images may be mirrored, whichever way
        round they are nearer."""
        queries = [self.embed(images)]
        if self.bench.trajectory.task.mirror:
            queries.append(self.embed(images.flip(-1)))
        columns = [torch.empty(len(labels)), torch.empty(len(labels), dtype=torch.int64)]
        columns += [*(column.clone() for column in columns), torch.empty(len(labels))]
        real = self.bench.images
        for label in range(self.bench.trajectory.task.classes):
            own = torch.nonzero(labels == label).flatten()
            train = torch.nonzero(real.train_labels == label).flatten()
            test = self.searched[real.test_labels[self.searched] == label]
            columns[4][own] = len(train) / (len(train) + len(test))
            for column, embedded, indices in ((0, self.train, train), (2, self.test, test)):
                products = torch.stack([query[own] @ embedded[indices].T for query in queries])
                nearest = products.amax(dim=0).max(dim=1)
                columns[column][own], columns[column + 1][own] = nearest.values, indices[nearest.indices]
        return Found(*columns)


def held_out(bench: Bench, per_class: int) -> Tensor:
    """Indices of the first ``per_class`` test images of every class, sorted by class."""
    labels = bench.images.test_labels
    return torch.cat([torch.nonzero(labels == k).flatten()[:per_class] for k in range(bench.trajectory.task.classes)])


def noisy_training_images(bench: Bench, count: int) -> tuple[Tensor, Tensor]:
    """Random training images, each under white noise of its own standard deviation, and their classes."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(bench.images.train_labels), generator=generator)[:count]
    pixels = bench.images.train[chosen].float() / 255
    deviation = pixels.flatten(1).std(dim=1)[:, None, None, None]
    noisy = (pixels + deviation * torch.randn(pixels.shape, generator=generator)).clamp(0, 1)
    return to_uint8(noisy), bench.images.train_labels[chosen]


def row(name: str, space: str, found: Found) -> str:
    """One line of the table; chance has the 95 % interval of a binomial."""
    chance = float(found.chance.mean())
    spread = 1.96 * math.sqrt(chance * (1 - chance) / len(found.met))
    cells = (
        *(name, space, f"{found.train_similarity.mean():.3f}", f"{found.train_similarity.max():.3f}"),
        *(f"{found.test_similarity.mean():.3f}", f"{found.met.float().mean():.0%}", f"{chance:.0%} ± {spread:.0%}"),
    )
    return f"| {' | '.join(cells)} |"


def draw_pairs(bench: Bench, images: Tensor, found: Found, path: Path, *, count: int = 12) -> None:
    """The images that come closest to a training image, over that one and over the nearest test image."""
    chosen = found.train_similarity.topk(min(count, len(images))).indices
    real = bench.images
    write_picture(
        path, sheet([images[chosen], real.train[found.train_index[chosen]], real.test[found.test_index[chosen]]])
    )


@click.command()
@click.option("--federation", "name", type=click.Choice(list(FEDERATIONS)), required=True)
@click.option("--data-root", default="", help="Folder of the data set.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("runs/zero-shot"), show_default=True)
@click.option("--methods", required=True, help="Names separated by semicolons, as in zero_shot.py.")
@click.option("--per-class", default=10, show_default=True)
@click.option("--seeds", default=1, show_default=True, help="Sets of each method, looked at together.")
@click.option("--iterations", default=300, show_default=True, help="Of a synthesis.")
@click.option("--rival-iterations", default=300, show_default=True, help="Of rivals that see real images.")
@click.option("--pairs", type=click.Path(path_type=Path), help="Picture of the closest images of the first method.")
@click.option("--compiled/--no-compiled", default=False, show_default=True)
@click.option("--bfloat16/--float32", default=False, show_default=True, help="Of the clients' training.")
@click.option("--device", default="cpu", show_default=True)
def main(name: str, cache: Path, **o: Any) -> None:
    """Look for neighbours and print the table."""
    images = load_images(FEDERATIONS[name], o["data_root"], cache)
    chosen = {n: o[n] for n in ("compiled", "bfloat16", "iterations", "rival_iterations")}
    bench = Bench.of(name, images, cache, o["device"], **chosen)
    per_class = o["per_class"]
    sets = {}
    for method in methods_of(bench, o["methods"]):
        made = [make(bench, method, per_class, seed)[0] for seed in range(o["seeds"])]
        sets[method] = torch.cat([m.images for m in made]), torch.cat([m.labels for m in made])
    out = held_out(bench, per_class)
    sets["test images"] = images.test[out], images.test_labels[out]
    sets["training images under noise"] = noisy_training_images(bench, len(out))
    searched = torch.ones(len(images.test_labels), dtype=torch.bool).index_fill(0, out, value=False).nonzero().flatten()
    print("| set | compared by | nearest training image: mean | at most | nearest test image: mean | met | chance |")
    print("|---" * 7 + "|")
    for space, embed in {"pixels": by_pixels, "features": by_features(bench)}.items():
        gallery = Gallery.of(bench, embed, searched)
        for method, (pictures, labels) in sets.items():
            found = gallery.neighbours(pictures, labels)
            print(row(method, space, found), flush=True)
            if o["pairs"] and space == "pixels" and method == next(iter(sets)):
                draw_pairs(bench, pictures, found, o["pairs"])


if __name__ == "__main__":
    main()
