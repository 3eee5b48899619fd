"""The whole loop through Flower's own door, small."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from protos import artefact

ROOT = Path(__file__).resolve().parent.parent
SMALL = (
    "--clients 3 --rounds 2 --local-epochs 1 --architecture convnet:8 --images-per-class 1,2 --iterations 4 "
    "--newcomers convnet:8,resnet18:8 --newcomer-seeds 2 --newcomer-steps 3 --views 40 --tensorboard"
).split()


def start(out: Path, home: Path, *options: str) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).parent / "dsv"), "simulate", "--out", str(out), *SMALL, *options]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def simulate(out: Path, home: Path, *options: str) -> tuple[dict, str]:
    process = start(out, home, *options)
    printed, _ = process.communicate(timeout=500)
    assert process.returncode == 0, printed
    return json.loads((out / "latest" / "result.json").read_text()), printed


def processes_of(home: Path) -> list[str]:
    """Command lines of running processes whose HOME is ``home``."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and f"HOME={home}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base = tmp_path_factory.mktemp("run")
    home = base / "home"
    home.mkdir()
    result, printed = simulate(base / "runs", home)
    return base, home, result, printed


def test_the_result_keeps_its_schema(run):
    jsonschema.validate(run[2], json.loads((ROOT / "docs" / "result.schema.json").read_text()))


def test_every_newcomer_and_every_rival_is_there(run):
    result = run[2]
    rows = {(n["architecture"], n["images_per_class"], n["labels"]) for n in result["newcomers"]}
    compared = {("convnet:8", "hard"), ("convnet:8", "view"), ("resnet18:8", "view")}
    assert rows == {(architecture, count, kind) for architecture, kind in compared for count in (1, 2)}
    rivals = {(r["name"], r["images_per_class"]) for r in result["rivals"]}
    drawn = ("noise_view", "random_real_hard", "random_real_view")
    once = ("untrained", "teacher_weights", "teacher_weights_int8")
    assert rivals == {(n, c) for n in drawn for c in (1, 2)} | {(n, 0) for n in once}


def test_the_ledger_has_every_client_and_round_and_download(run):
    ledger = run[2]["ledger"]
    weights = {(r["round"], r["client"], r["direction"]) for r in ledger if r["purpose"] == "weights"}
    assert weights == {(r, c, d) for r in (1, 2) for c in range(3) for d in ("up", "down")}
    control = {(r["round"], r["client"], r["direction"]): r["bytes"] for r in ledger if r["purpose"] == "control"}
    assert set(control) == weights and all(0 < size < 400 for size in control.values())
    newcomers = {r["client"] for r in ledger if r["purpose"] == "dsv_download"}
    assert newcomers == {"newcomer convnet:8", "newcomer resnet18:8"}
    raw = [r["bytes"] for r in ledger if r["purpose"] == "raw_images_instead"]
    assert len(raw) == 3 and sum(raw) == 1438 * 64


def test_releases_are_what_the_result_names(run):
    base, _, result, _ = run
    for row in result["newcomers"]:
        path = base / "runs" / "latest" / "releases" / f"{row['release_digest']}.dsv"
        assert artefact.digest(path.read_bytes()) == row["release_digest"]
        assert artefact.load(path).images_per_class == row["images_per_class"]
        assert path.stat().st_size < row["downloaded_bytes"] < path.stat().st_size + 100


def test_what_is_printed(run):
    printed = run[3]
    for wanted in (
        "federation rounds 2/2",
        "synthesis 2/class 4/4",
        "views 2/class 40/40",
        "stationarity",
        "teacher's weights",
        "report: ",
    ):
        assert wanted in printed
    assert "Traceback" not in printed


def test_the_report_has_frames_and_confusions(run):
    base, _, result, _ = run
    page = (base / "runs" / "latest" / "report.html").read_text()
    assert "<h3>How they grew</h3>" in page and "What this page cannot show" not in page
    assert [row["model"] for row in result["confusions"]] == ["teacher"] + ["newcomer"] * len(result["newcomers"])
    tested = [sum(count for _, _, count in row["counts"]) for row in result["confusions"]]
    assert tested[0] == 359 and set(tested[1:]) == {2 * 359}


def test_the_curves_are_written_while_the_run_goes_on(run):
    [events] = (run[0] / "runs" / "latest" / "tensorboard").glob("events.out.tfevents.*")
    assert events.stat().st_size > 500


def test_nothing_is_left_behind(run):
    _, home, _, _ = run
    deadline = time.monotonic() + 10
    while processes_of(home) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert processes_of(home) == []
    # flwr-datasets imports matplotlib, which caches the machine's fonts; nothing else may be there.
    left = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    assert all(name.startswith((".cache/matplotlib/", ".config/matplotlib/")) for name in left), left


@pytest.mark.slow
def test_same_seed_same_digests_and_another_seed_others(run, tmp_path):
    def digests(result):
        return {row["release_digest"] for row in result["newcomers"]}

    again, _ = simulate(tmp_path / "again", tmp_path)
    other, _ = simulate(tmp_path / "other", tmp_path, "--seed", "1")
    assert digests(again) == digests(run[2])
    assert digests(other).isdisjoint(digests(run[2]))


@pytest.mark.slow
def test_images_of_ones_own(image_tree, tmp_path):
    options = ("--data", "imagefolder", "--data-root", str(image_tree), "--image-size-px", "8", "--partitioner", "iid")
    result, _ = simulate(tmp_path / "runs", tmp_path / "tree", *options)
    assert {row["images_per_class"] for row in result["newcomers"]} == {1, 2}
    found = artefact.load(tmp_path / "runs/latest/releases" / (result["newcomers"][0]["release_digest"] + ".dsv"))
    assert found.task.class_names == ("blue", "red") and found.task.channels == 3


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_leaves_no_process(number, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    process = start(tmp_path / "runs", home, "--rounds", "1000")
    assert process.stdout is not None
    while "federation rounds 1/1000" not in process.stdout.readline():
        assert process.poll() is None
    os.kill(process.pid, number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and "Traceback" not in printed, printed
    time.sleep(5)
    assert processes_of(home) == []
