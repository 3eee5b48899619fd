"""``dsv select`` and ``dsv characterise``."""

import json

import pytest
from command_line import done, refused

from protos import artefact
from protos.checkpoint import save_checkpoint


def test_the_commands(teacher, support_set, tmp_path):
    save_checkpoint(tmp_path / "teacher.safetensors", teacher)
    (tmp_path / "set.dsv").write_bytes(artefact.encode(support_set))
    model = ("--teacher", tmp_path / "teacher.safetensors")
    out = tmp_path / "selection.json"
    printed = done("select", *model, "--steps", 2, "--per-class", 3, "--out", out)
    report = json.loads(out.read_text())
    assert len(report["coreset"]) == 30 and len(report["distances"]) == 3 and "sum of lambda" in printed
    printed = done("characterise", *model, "--release", tmp_path / "set.dsv")
    assert "rank correlation of sum of lambda and test accuracy" in printed
    assert refused("cannot read release", "characterise", *model, "--release", tmp_path / "none.dsv") == 1


@pytest.fixture
def prepared(teacher, support_set, tmp_path):
    """A teacher and a release."""
    save_checkpoint(tmp_path / "t.safetensors", teacher)
    artefact.save(support_set, tmp_path / "r.dsv")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "change", "message"),
    [
        (
            "select",
            {"--out": "nowhere/s.json"},
            "cannot write the selection nowhere/s.json: there is no folder",
        ),
        ("select", {"--out": "."}, "something else than a file is there"),
        ("select", {"--per-class": "100000"}, "a class has 133 images; ask for 1 to 133"),
        (
            "select",
            {"--data": "fashionmnist"},
            "data fashionmnist (10 classes of (1, 28, 28)) does not fit a model of 10",
        ),
        ("select", {"--step": "inf"}, "a positive, finite step"),
        ("characterise", {"--data": "fashionmnist"}, "data fashionmnist (10 classes of (1, 28, 28)) does not fit"),
    ],
)
def test_mistakes_are_told_before_hours_of_work(prepared, monkeypatch, command, change, message):
    monkeypatch.chdir(prepared)
    monkeypatch.setattr("client.selection.select", lambda *arguments, **named: 1 / 0)
    given = {"select": {"--out": "s.json"}, "characterise": {"--release": "r.dsv"}}[command]
    options = {"--teacher": "t.safetensors", **given, **change}
    assert refused(message, command, *(part for pair in options.items() for part in pair)) == 1
