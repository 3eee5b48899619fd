"""What ``--start`` means."""

import dataclasses

import pytest
import torch

from dsv import KNOWN_TASKS, Compute, Ranks, Start, SynthesisConfig, Task, write_picture
from dsv.pixel_optimiser import PixelOptimiser
from server.start_images import starts_of


def of_size(image_size_px, channels=3):
    return Task(channels, image_size_px, ("dark", "bright"), (0.5,) * channels, (0.5,) * channels)


def by_brightness(images):
    share = images.float().mean(dim=(1, 2, 3)) / 255
    return torch.stack([1 - share, share], dim=1)


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    monkeypatch.setattr("dsv.dead_leaves.POOL", 0)
    monkeypatch.setattr("dsv.dead_leaves._PART", 20)


@pytest.mark.parametrize(
    ("choice", "image_size_px", "name"),
    [
        ("auto", 8, None),
        ("auto", 16, "dead-leaves"),
        ("auto", 64, "dead-leaves"),
        ("auto", 65, None),
        ("noise", 32, None),
        ("dead-leaves", 8, "dead-leaves"),
    ],
)
def test_the_choices(choice, image_size_px, name):
    starts = starts_of(choice, of_size(image_size_px), (2, 1), seed=0, label=by_brightness)
    assert [start and start.name for start in starts.values()] == [name, name]


def test_a_coarse_start_is_the_mean_of_its_pixels(teacher, task):
    """A chequerboard seen from afar is grey."""
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 255
    config = SynthesisConfig(images_per_class=1, coarse_stages=2)
    run = PixelOptimiser(teacher.model, task, config, torch.arange(10), compute=Compute(), ranks=Ranks())
    run.begin(0, Start("board", board.to(torch.uint8).expand(10, 1, 8, 8)))
    pixels = run._pixels.detach()
    assert pixels.shape == (10, 1, 4, 4) and torch.allclose(pixels, torch.full_like(pixels, 0.5))


@pytest.mark.parametrize("name", ["noise", "dead-leaves", "auto", "given images", "pictures"])
def test_a_folder_never_passes_for_what_was_drawn_or_edited(name, tmp_path, monkeypatch):
    (tmp_path / name).mkdir()
    for number in range(2):
        write_picture(tmp_path / name / f"{number}.png", torch.zeros(3, 8, 8, dtype=torch.uint8))
    monkeypatch.chdir(tmp_path / name)
    for choice in (".", f"../{name}"):
        [start] = starts_of(choice, of_size(8), (1,), seed=0, label=by_brightness).values()
        assert start.name == (name if name == "pictures" else f"folder {name}")


def test_a_classes_name_does_not_lead_out_of_the_folder(tmp_path):
    """A teacher may be a stranger's file, and what a synthesis starts from may be recognised in its release."""
    for place, value in (("public/a", 0), ("public/b", 0), ("private", 255)):
        (tmp_path / place).mkdir(parents=True)
        for number in range(2):
            write_picture(tmp_path / place / f"{number}.png", torch.full((3, 8, 8), value, dtype=torch.uint8))
    for name in ("../private", str(tmp_path / "private"), "."):
        task = dataclasses.replace(of_size(8), class_names=(name, "a"))
        [start] = starts_of(str(tmp_path / "public"), task, (1,), seed=0, label=by_brightness).values()
        assert start.images.shape[0] == 2 and start.images.max() == 0


def test_the_teacher_chooses_each_classes_pictures():
    drawn = []
    starts = starts_of(
        "dead-leaves",
        of_size(16),
        (1, 3),
        seed=0,
        label=by_brightness,
        on_drawn=lambda *counts: drawn.append(counts),
    )
    dark, bright = starts[3].images.float().flatten(1).mean(dim=1).view(2, 3)
    assert dark.max() < 80 and bright.min() > 175
    assert torch.equal(starts[1].images, starts[3].images[[0, 3]])
    assert drawn == [(20, 120), (40, 120), (60, 120), (80, 120), (100, 120), (120, 120)]


def test_the_images_of_known_tasks():
    """Grey pictures on black are better from noise (docs/zero-shot.md)."""
    label = lambda images: torch.full((len(images), 10), 0.1)  # noqa: E731
    names = {
        name: starts_of("auto", KNOWN_TASKS[name], (1,), seed=0, label=label)[1] is not None
        for name in ("digits", "fashionmnist", "cifar10")
    }
    assert names == {"digits": False, "fashionmnist": False, "cifar10": True}
