"""Pictures in a terminal: they fit, they fall back, and they are the pixels."""

import dataclasses
import io

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from rich.text import Text

from deploy import cli
from deploy.terminal import layout, print_pictures
from protos import artefact


def console(width=80, colours="truecolor", **options):
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=colours, **options)


def drawn(support_set, shown):
    print_pictures(support_set, shown)
    return shown.file.getvalue()


def bigger(support_set, side_px):
    task = dataclasses.replace(support_set.task, image_size_px=side_px)
    images = torch.randint(256, (20, 1, side_px, side_px), dtype=torch.uint8)
    return dataclasses.replace(support_set, images=images, task=task)


def test_half_blocks_show_two_pixels_each(support_set):
    fitted = layout(support_set, console(width=20))
    assert (fitted.side_px, fitted.scale, fitted.in_a_row, fitted.colours) == (8, 1, 1, True)
    text = drawn(support_set, console(width=20))
    order = torch.nonzero(support_set.labels == 0).flatten()
    first = support_set.images[order[support_set.multipliers[order].argmax()], 0]
    upper, lower = int(first[0, 0]), int(first[1, 0])
    assert f"38;2;{upper};{upper};{upper};48;2;{lower};{lower};{lower}m▀" in text


@pytest.mark.parametrize("width", [10, 20, 80, 200])
@pytest.mark.parametrize("side_px", [1, 7, 8, 32, 224])
@pytest.mark.parametrize("colours", ["truecolor", "256", "standard", None])
def test_every_line_fits(support_set, width, side_px, colours):
    shown = Console(file=io.StringIO(), width=width, color_system=colours, no_color=colours is None)
    lines = drawn(bigger(support_set, side_px), shown).splitlines()
    assert lines and all(Text.from_ansi(line).cell_len <= width for line in lines)
    assert sum("λ" in line for line in lines) == 10


def test_few_colours_and_no_color_give_a_ramp(support_set, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert not layout(support_set, Console(force_terminal=True, width=80, file=io.StringIO())).colours
    monkeypatch.delenv("NO_COLOR")
    for colours in ("standard", None):
        text = drawn(support_set, console(colours=colours))
        assert "▀" not in text and "@@" in text
    ascii_only = Console(file=io.TextIOWrapper(io.BytesIO(), "ascii"), force_terminal=True, color_system="truecolor")
    assert not layout(support_set, ascii_only).colours
    print_pictures(support_set, ascii_only)


def test_what_does_not_fit_is_counted(support_set):
    labels = torch.zeros(20, dtype=torch.int64)
    text = drawn(dataclasses.replace(support_set, labels=labels), console(width=40, colours=None))
    assert "+18" in text


def test_inspect_draws_when_asked_and_in_a_terminal_alone(support_set, tmp_path):
    path = tmp_path / "a.dsv"
    artefact.save(support_set, path)
    plain, asked, refused = (
        CliRunner().invoke(cli.cli, ["inspect", str(path), *more]).output
        for more in ([], ["--pictures"], ["--no-pictures"])
    )
    assert "λ" not in plain and "λ" not in refused and asked.count("λ") == 20
    assert "20 of 1 x 8 x 8, raw" in plain
