"""The commands ``dsv interpolate``, ``dsv edit``, ``dsv mix``, and the pictures they write."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from command_line import done, dsv, refused
from PIL import Image

from deploy.arguments import class_index, class_indices
from deploy.cli import cli
from deploy.picture_folder import new_folder, state_in
from dsv import DsvError, sheet, write_picture
from protos import artefact
from protos.checkpoint import save_checkpoint


def test_classes_by_name_and_by_index(task):
    named = replace(task, class_names=("7", *"abcdefgh", "0"))
    assert [class_index(text, named) for text in ("7", "a", "1", "0")] == [0, 1, 1, 9]
    for text in ("10", "-1", "", "z", "1.0"):
        with pytest.raises(DsvError, match="give 0 to 9 or a name such as 7, a, b"):
            class_index(text, named)
    assert class_indices("b, 9 ,7", named) == [2, 9, 0]
    for text, message in (("a,1", "'a' was given twice in 'a,1'"), ("a,", "there is no class ''")):
        with pytest.raises(DsvError, match=message):
            class_indices(text, named)


def test_a_sheet_puts_every_image_where_it_belongs():
    rows = [torch.full((n, 3, 40, 40), value, dtype=torch.uint8) for n, value in ((1, 10), (2, 20))]
    drawn = sheet(rows)
    assert drawn.shape == (3, 2 * 82 + 2, 2 * 82 + 2)
    assert (drawn[:, 2:82, 2:82] == 10).all() and (drawn[:, 2:82, 84:164] == 255).all()
    assert (drawn[:, 84:164, 84:164] == 20).all()


def test_captions_leave_the_images_as_they_are():
    rows = [torch.randint(256, (2, 3, 40, 40), dtype=torch.uint8) for _ in range(2)]
    plain, named = sheet(rows), sheet(rows, names=("before", "nach\u00e4her"), headings=("0", "far too long a heading"))
    head, margin = named.shape[1] - plain.shape[1], named.shape[2] - plain.shape[2]
    assert 10 < head < 30 and 40 < margin < 100
    assert torch.equal(named[:, head + 2 :, margin + 2 :], plain[:, 2:, 2:])
    assert (named[:, :head] < 128).any() and (named[:, 84:164, :margin] < 128).any()
    assert sheet(rows, names=("", "")).shape[1] == plain.shape[1]


def test_a_strangers_name_takes_no_more_room_than_forty_letters():
    rows = [torch.zeros(2, 3, 40, 40, dtype=torch.uint8)]
    for name in ("x" * 1_000_000, "\ufdfa" * 39):  # the latter has eighteen plain letters for each
        assert sheet(rows, names=(name,)).shape[2] < 700
    assert sheet(rows, names=("",)).shape[2] < sheet(rows).shape[2] + 10


def test_without_pillow_or_its_fonts_images_have_no_captions(monkeypatch):
    rows = [torch.randint(256, (2, 3, 40, 40), dtype=torch.uint8)]

    def no_fonts(size):
        raise ModuleNotFoundError("No module named 'PIL._imagingft'")

    monkeypatch.setattr("PIL.ImageFont.load_default", no_fonts)
    assert torch.equal(sheet(rows, names=("before",), headings=("0", "1")), sheet(rows))
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert torch.equal(sheet(rows, names=("before",), headings=("0", "1")), sheet(rows))


def test_folders_to_write_into(tmp_path):
    new_folder(tmp_path / "a" / "b")
    new_folder(tmp_path / "a" / "b")
    with pytest.raises(DsvError, match="is not an empty folder; name a new one"):
        new_folder(tmp_path / "a")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DsvError, match="folder"):
            new_folder(path)


@pytest.fixture(scope="module")
def files(trained, interpolated, pictures, tmp_path_factory) -> Path:
    """A teacher, a release and three pictures."""
    folder = tmp_path_factory.mktemp("latents")
    save_checkpoint(folder / "t.safetensors", trained)
    (folder / "r.dsv").write_bytes(artefact.encode(interpolated))
    (folder / "pictures").mkdir()
    for number, image in enumerate(pictures[:3]):
        write_picture(folder / "pictures" / f"p{number}.png", image)
    return folder


def test_dsv_interpolate(files, task, tmp_path):
    options = ("--teacher", files / "t.safetensors", "--classes", "3, 8", "--weights", "0,1", "--iterations", 30)
    shown = done("interpolate", *options, "--images-per-weight", 2, "--out", tmp_path / "out")
    for wanted in ("interpolation 30/30", "weight", "P(3)", "P(8)", "most probable", "strip.png"):
        assert wanted in shown
    release = artefact.load(tmp_path / "out" / "interpolation.dsv")
    assert release.labels.tolist() == [3, 3, 8, 8] and release.provenance.teacher_architecture == "convnet:16"
    names = [path.name for path in sorted((tmp_path / "out" / "images").iterdir())]
    assert names == ["0000_weight-0.png", "0001_weight-0.png", "0002_weight-1.png", "0003_weight-1.png"]
    strip = torch.from_numpy(numpy.array(Image.open(tmp_path / "out" / "strip.png")))[None]
    top = strip.shape[1] - 2 * 66  # below the weights
    assert torch.equal(strip[:, top : top + 64 : 8, 68:132:8], release.images[2])


def test_dsv_edit(files, task, tmp_path):
    options = ("--teacher", files / "t.safetensors", "--target", "8", "--iterations", 20, "--preset", "imagenet")
    shown = done("edit", *options, "--images", files / "pictures", "--out", tmp_path / "out")
    for wanted in ("edit 20/20", "P(8) before", "p2.png", "may still show the pictures that you gave"):
        assert wanted in shown
    release = artefact.load(tmp_path / "out" / "edit.dsv")
    assert len(release) == 3 and release.provenance.config["primal_weight"] == 1.0
    assert len(list((tmp_path / "out" / "images").glob("*_p?.png"))) == 3
    assert (tmp_path / "out" / "strip.png").is_file()
    shown = done("edit", *options, "--images", files / "pictures" / "p1.png", "--out", tmp_path / "one")
    assert "p1.png" in shown and "p2.png" not in shown


@pytest.mark.parametrize("command", ["interpolate", "edit"])
def test_what_was_cut_off_goes_on_in_its_folder(files, tmp_path, monkeypatch, command):
    own = {"interpolate": ("--classes", "3,8"), "edit": ("--images", files / "pictures", "--target", "8")}[command]
    options = (command, "--teacher", files / "t.safetensors", *own, "--iterations", 10, "--seed", 3)
    done(*options, "--out", tmp_path / "undisturbed")
    monkeypatch.setattr("deploy.latents.state_in", lambda folder: replace(state_in(folder), every=4))
    seen = []

    def cut_off(name, iterations, shown):
        def report(iteration, terms):
            seen.append(iteration)
            if seen == list(range(1, 8)):
                raise DsvError("cut off")

        return report

    monkeypatch.setattr("deploy.latents._reporter", cut_off)
    out = tmp_path / "out"
    refused("cut off", *options, "--out", out)
    [state] = out.iterdir()
    assert state.stat().st_mode & 0o777 == 0o600, "it shows what is being edited"
    done(*options, "--out", out)
    assert seen[7:] == [5, 6, 7, 8, 9, 10]
    for path in (tmp_path / "undisturbed").rglob("*.*"):
        assert (out / path.relative_to(tmp_path / "undisturbed")).read_bytes() == path.read_bytes()
    assert not state.exists()
    refused("is not an empty folder", *options, "--out", out)


def test_dsv_mix(files, tmp_path):
    options = ("--teacher", files / "t.safetensors", "--release", files / "r.dsv", "--images", files / "pictures")
    shown = done("mix", *options, "--class", "7", "--shares", "0,0.5,1", "--out", tmp_path / "out")
    assert "may still show the pictures that you gave" in shown
    rows = [line.split() for line in shown.splitlines() if " of 3" in line]
    assert [row[0] for row in rows] == ["0", "0.5", "1"]
    assert rows[0][-3:] == ["0", "of", "3"] and rows[-1][-3:] == ["3", "of", "3"]
    assert (tmp_path / "out" / "strip.png").is_file()
    done("mix", *options, "--out", tmp_path / "any")


@pytest.mark.parametrize(
    ("message", "command", "change"),
    [
        ("two classes are needed", "interpolate", {"--classes": "1"}),
        ("there is no class 'ten'; give 0 to 9", "interpolate", {"--classes": "1,ten"}),
        ("was given twice", "interpolate", {"--classes": "1,1"}),
        ("weights must be numbers separated by commas", "interpolate", {"--weights": "0;1"}),
        ("a weight must lie in 0 to 1, got 2.0", "interpolate", {"--weights": "2"}),
        ("a weight must lie in 0 to 1, got nan", "interpolate", {"--weights": "nan"}),
        ("cannot read model", "interpolate", {"--teacher": "none"}),
        ("is not an empty folder", "interpolate", {"--out": "pictures"}),
        ("is not an empty folder", "edit", {"--out": "pictures"}),
        ("is not an empty folder", "mix", {"--out": "pictures"}),
        ("there is no class '11'", "edit", {"--target": "11"}),
        ("nowhere does not exist; name a picture", "edit", {"--images": "nowhere"}),
        ("cannot be decoded", "edit", {"--images": "r.dsv"}),
        ("iterations must be at least 1", "edit", {"--iterations": "0"}),
        ("shares must be numbers", "mix", {"--shares": "half"}),
        ("holds no DSV of class '5'", "mix", {"--class": "5"}),
        ("cannot read release", "mix", {"--release": "none.dsv"}),
        ("not a release file", "mix", {"--release": "pictures/p0.png"}),
    ],
)
def test_mistakes_get_one_line(files, monkeypatch, message, command, change):
    monkeypatch.chdir(files)
    given = {
        "interpolate": {"--classes": "1,2"},
        "edit": {"--images": "pictures", "--target": "8"},
        "mix": {"--release": "r.dsv", "--images": "pictures"},
    }[command]
    options = {"--teacher": "t.safetensors", "--out": "out", **given, **change}
    result = dsv(command, *(part for pair in options.items() for part in pair))
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1, result.output
    assert message in result.output
    assert not Path("out").exists()


def test_a_folder_without_pictures_and_a_release_of_another_task(files, task, interpolated, tmp_path):
    common = ("--teacher", files / "t.safetensors", "--out", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    result = dsv("edit", *common, "--images", tmp_path / "empty", "--target", 1)
    assert result.exit_code == 1 and "holds no picture; add some" in result.output
    other = replace(interpolated, task=replace(task, class_names=tuple("abcdefghij")))
    (tmp_path / "o.dsv").write_bytes(artefact.encode(other))
    result = dsv("mix", *common, "--release", tmp_path / "o.dsv", "--images", files / "pictures")
    assert result.exit_code == 1 and "was not made for the task of" in result.output


def test_help_describes_every_option():
    for name in ("interpolate", "edit", "mix"):
        assert dsv(name, "--help").exit_code == 0
        assert all(parameter.help for parameter in cli.commands[name].params)


def test_class_names_of_strangers_are_shown_as_they_are(trained, task, tmp_path, pictures):
    """They may look like a terminal's markup."""
    names = ("a[/b]", "[bold]b", *task.class_names[2:])
    save_checkpoint(tmp_path / "t.safetensors", replace(trained, task=replace(task, class_names=names)))
    write_picture(tmp_path / "p.png", pictures[0])
    options = ("--teacher", tmp_path / "t.safetensors", "--iterations", 1)
    assert "P([bold]b)" in done("interpolate", *options, "--classes", "0,1", "--weights", "0", "--out", tmp_path / "i")
    assert "P(a[/b])" in done(
        "edit", *options, "--images", tmp_path / "p.png", "--target", "0", "--out", tmp_path / "e"
    )
