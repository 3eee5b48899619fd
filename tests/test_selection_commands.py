"""``dsv select`` and ``dsv characterise``."""

import json
from pathlib import Path

import pytest
import torch
from command_line import done, refused
from interruption import Interrupted, interrupt_at
from sets import of_classes

from client.selection import select_own_images
from dsv import Checkpointing, Compute, ModelSpec, SelectionConfig, Task, build_model
from protos import artefact
from protos.checkpoint import Checkpoint, save_checkpoint


def test_the_commands(teacher, support_set, tmp_path):
    save_checkpoint(tmp_path / "teacher.safetensors", teacher)
    (tmp_path / "set.dsv").write_bytes(artefact.encode(support_set))
    model = ("--teacher", tmp_path / "teacher.safetensors")
    out = tmp_path / "selection.json"
    printed = done("select", *model, "--steps", 2, "--per-class", 3, "--out", out)
    report = json.loads(out.read_text())
    assert len(report["coreset"]) == 30 and len(report["distances"]) == 3 and "sum of lambda" in printed
    first = report["coreset"][0]
    assert set(first) == {"index", "class", "class_name", "lambda"} and len(report["multipliers"]) == 1438
    assert report["multipliers"][first["index"]] == first["lambda"] and first["class_name"] == str(first["class"])
    printed = done("characterise", *model, "--release", tmp_path / "set.dsv")
    assert "rank correlation of sum of lambda and test accuracy" in printed
    assert refused("cannot read release", "characterise", *model, "--release", tmp_path / "none.dsv") == 1
    artefact.save(of_classes(support_set, [0, 1, 9]), tmp_path / "part.dsv")
    assert "over 3 classes" in done("characterise", *model, "--release", tmp_path / "part.dsv")


def test_ones_own_pictures_are_named(image_tree, tmp_path):
    task = Task(3, 8, ("blue", "red"), (0.5,) * 3, (0.5,) * 3)
    spec = ModelSpec.parse("convnet:4", task)
    save_checkpoint(tmp_path / "t.safetensors", Checkpoint(build_model(spec, seed=0), spec, task))
    own = ("--data", "imagefolder", "--data-root", image_tree)
    done(
        "select", "--teacher", tmp_path / "t.safetensors", *own, "--per-class", 1, "--steps", 1, "--out", tmp_path / "s"
    )
    for entry in json.loads((tmp_path / "s").read_text())["coreset"]:
        file = Path(entry["file"])
        assert file.exists() and file.parent == image_tree / "train" / entry["class_name"]


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


def test_the_command_goes_on_and_leaves_nothing_behind(teacher, tmp_path):
    save_checkpoint(tmp_path / "teacher.safetensors", teacher)

    def command(out):
        done("select", "--teacher", tmp_path / "teacher.safetensors", "--steps", 3, "--out", tmp_path / out)
        return json.loads((tmp_path / out).read_text())

    kept = Checkpointing(tmp_path / ".killed.json.state", every=1)
    with pytest.raises(Interrupted):
        select_own_images(
            *(teacher, "digits", "", SelectionConfig(iterations=3), Compute()),
            checkpointing=kept,
            on_iteration=interrupt_at(2),
        )
    assert kept.path.stat().st_mode & 0o777 == 0o600
    state = torch.load(kept.path, weights_only=True)
    torch.save(state | {"distances": (42.0, *state["distances"][1:])}, kept.path)  # a mark that shows who read it
    calm, killed = command("calm.json"), command("killed.json")
    assert killed["distances"] == [42.0, *calm["distances"][1:]] and killed["coreset"] == calm["coreset"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calm.json", "killed.json", "teacher.safetensors"]
