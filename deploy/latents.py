"""``dsv interpolate``, ``dsv edit`` and ``dsv mix``: labels as latent variables, in pictures and figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from torch import Tensor

from deploy.arguments import class_index, class_indices, numbers
from deploy.console import table_console, table_of
from deploy.picture_folder import new_folder, state_in
from dsv import (
    DsvError,
    KktTerms,
    SupportSet,
    Task,
    blend,
    check_shares,
    edit,
    interpolate,
    mix,
    picture_paths,
    predict,
    read_picture,
    sheet,
    to_uint8,
    write_picture,
)
from protos import artefact
from protos.checkpoint import load_checkpoint
from protos.settings import RunSettings
from server.progress import Display

STRIP = "strip.png"


def run_interpolation(
    teacher: Path, settings: RunSettings, *, pair: str, weights: str, out: Path, shown: Display
) -> SupportSet:
    """Write ``interpolation.dsv``, every image and a strip (left to right: the weights) into ``out``; print a table.

    What was killed goes on when it is called again: its state lies in ``out``.

    Args:
        settings: of the synthesis; ``images_per_class`` is one number, the images of every weight.
        pair: two classes, names or indices, separated by a comma.
        weights: shares of the second one, separated by commas.

    Raises:
        DsvError: as ``load_checkpoint``, ``class_indices``, ``interpolate`` and ``new_folder``.
    """
    checkpoint, [count] = load_checkpoint(teacher), settings.releases
    task, deltas = checkpoint.task, numbers(weights, "weights")
    check_shares(deltas, "weight")
    between = class_indices(pair, task)
    if len(between) != 2:
        raise DsvError(f"two classes are needed, separated by a comma, got {pair!r}")
    first, second = between
    config, state = settings.synthesis(count), state_in(out)
    new_folder(out)
    found = interpolate(
        checkpoint.model,
        task,
        config,
        between=(first, second),
        weights=deltas,
        seed=settings.seed,
        teacher_architecture=str(checkpoint.spec),
        compute=settings.compute(),
        checkpointing=state,
        on_iteration=_reporter("interpolation", config.iterations, shown),
    )
    artefact.save(found, out / "interpolation.dsv")
    names = [f"{i:04d}_weight-{deltas[i // count]:g}" for i in range(len(found))]
    _write_images(out, names, found.images)
    # one row for every noise: along it only the label changes
    headings = [f"{delta:g}" for delta in deltas]
    write_picture(out / STRIP, sheet([found.images[i::count] for i in range(count)], headings=headings))
    headings = ["weight", *(escape(f"P({task.class_names[k]})") for k in between), "most probable"]
    table = table_of(*headings, words=(3,))
    for delta, seen in zip(deltas, torch.split(found.soft_labels, count), strict=True):
        mean = seen.mean(0)
        best = Text(task.class_names[int(mean.argmax())])
        table.add_row(f"{delta:g}", f"{float(mean[first]):.1%}", f"{float(mean[second]):.1%}", best)
    _print(table, out)
    state.clear()
    return found


def run_edit(
    teacher: Path, settings: RunSettings, *, images: Path, target: str, out: Path, shown: Display
) -> SupportSet:
    """Write ``edit.dsv``, every edited image and a strip (above: before, below: after) into ``out``; print a table.

    What was killed goes on when it is called again: its state lies in ``out``, for its user alone.

    Args:
        settings: of the synthesis.
        images: a picture, or a folder of them.
        target: the class, name or index.

    Raises:
        DsvError: as ``load_checkpoint``, ``class_index``, ``edit`` and ``new_folder``; a picture that cannot be read.
    """
    checkpoint, compute = load_checkpoint(teacher), settings.compute()
    task, config = checkpoint.task, settings.synthesis(settings.releases[0])
    label, state = class_index(target, task), state_in(out)
    paths, before = _pictures(images, task)
    new_folder(out)
    seen = predict(compute.place(checkpoint.model), before, task)
    found = edit(
        checkpoint.model,
        task,
        config,
        images=before,
        target=label,
        seed=settings.seed,
        teacher_architecture=str(checkpoint.spec),
        compute=compute,
        checkpointing=state,
        on_iteration=_reporter("edit", config.iterations, shown),
    )
    artefact.save(found, out / "edit.dsv")
    _write_images(out, [f"{i:04d}_{path.stem}" for i, path in enumerate(paths)], found.images)
    write_picture(out / STRIP, sheet([before, found.images], names=("before", "after")))
    wanted = escape(f"P({task.class_names[label]}) before")
    table = table_of("picture", "class before", "P(it) before", "after", wanted, "after", words=(0, 1))
    for path, old, new in zip(paths, seen, found.soft_labels, strict=True):
        own = int(old.argmax())
        shares = (old[own], new[own], old[label], new[label])
        table.add_row(Text(path.name), Text(task.class_names[own]), *(f"{float(share):.1%}" for share in shares))
    _print(table, out)
    state.clear()
    return found


def run_mix(
    teacher: Path, settings: RunSettings, *, release: Path, images: Path, wanted: str, shares: str, out: Path
) -> Tensor:
    """Write a strip of blends (a row for every picture, left to right: the shares) into ``out``; print a table.

    Args:
        settings: for the device.
        release: file of a set made from the teacher.
        images: a picture, or a folder of them.
        wanted: the DSV's class, name or index; empty takes the strongest DSV of all.
        shares: of the DSV, separated by commas.

    Returns:
        (S, N, K) float32, as ``mix``.

    Raises:
        DsvError: as ``load_checkpoint``, ``artefact.load``, ``class_index``, ``mix`` and ``new_folder``; a release of
            another task, a class that it has no DSV of, a picture that cannot be read.
    """
    checkpoint, support_set, compute = load_checkpoint(teacher), artefact.load(release), settings.compute()
    task, parts = checkpoint.task, numbers(shares, "shares")
    check_shares(parts, "share")
    if support_set.task != task:
        raise DsvError(f"{release} was not made for the task of {teacher}; name a release of this teacher")
    chosen = _strongest(support_set, wanted, release)
    paths, pictures = _pictures(images, task)
    new_folder(out)
    vectors = support_set.images[chosen].expand_as(pictures)
    model = compute.place(checkpoint.model)
    seen = mix(model, task, vectors=vectors, images=pictures, shares=parts)
    blends = torch.stack([to_uint8(blend(vectors, pictures, share)) for share in parts], dim=1)
    write_picture(out / STRIP, sheet(list(blends), headings=[f"{part:g}" for part in parts]))
    label = int(support_set.labels[chosen])
    unmixed = predict(model, pictures, task).argmax(dim=1)
    own = seen[:, torch.arange(len(paths)), unmixed].mean(dim=1)
    name = task.class_names[label]
    headings = "share of the DSV", f"mean P({name}), its class", "mean P(picture's class)", f"seen as {name}"
    table = table_of(*map(escape, headings), words=())
    for part, probabilities, kept in zip(parts, seen, own, strict=True):
        taken = int((probabilities.argmax(dim=1) == label).sum())
        mean = float(probabilities[:, label].mean())
        table.add_row(f"{part:g}", f"{mean:.1%}", f"{float(kept):.1%}", f"{taken} of {len(paths)}")
    _print(table, out)
    return seen


def _strongest(support_set: SupportSet, wanted: str, release: Path) -> int:
    """Index of the DSV with the largest multiplier."""
    eligible = torch.ones(len(support_set), dtype=torch.bool)
    if wanted:
        eligible = support_set.labels == class_index(wanted, support_set.task)
    if not bool(eligible.any()):
        raise DsvError(f"{release} holds no DSV of class {wanted!r}; choose another class")
    return int(torch.where(eligible, support_set.multipliers, -1.0).argmax())


def _pictures(path: Path, task: Task) -> tuple[list[Path], Tensor]:
    """Files and (N, C, H, W) uint8."""
    if not path.exists():
        raise DsvError(f"{path} does not exist; name a picture or a folder of pictures")
    paths = picture_paths(path) if path.is_dir() else [path]
    if not paths:
        raise DsvError(f"{path} holds no picture; add some or name another folder")
    return paths, torch.stack([read_picture(found, task) for found in paths])


def _reporter(name: str, iterations: int, shown: Display) -> Callable[[int, KktTerms], None]:
    def report(done: int, terms: KktTerms) -> None:
        note = f"loss {float(terms.total):.3f}; stationarity {float(terms.stationarity):.3f}"
        shown.update(name, done, iterations, f"{note}, primal {float(terms.primal):.3f}")

    return report


def _write_images(out: Path, names: list[str], images: Tensor) -> None:
    (out / "images").mkdir()
    for name, image in zip(names, images, strict=True):
        write_picture(out / "images" / f"{name}.png", image)


def _print(table: Table, out: Path) -> None:
    console = table_console()
    console.print(table)
    console.print(f"written to {out}; all at a glance: {out / STRIP}", soft_wrap=True, markup=False)
