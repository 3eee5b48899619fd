"""dsv savings on a small finished run: what it trains, tests, keeps and shows; and what is wrong with other folders."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import asdict, replace

import pytest
from command_line import dsv

from client.data import open_split
from client.partition import write_partition
from deploy import savings_bench
from deploy.finished_run import FinishedRun
from deploy.options import HarnessSettings
from deploy.result import LedgerRow, NewcomerRow, Result, RivalRow, Seconds, TeacherRow
from deploy.savings import Kind
from deploy.savings_bench import SavingsBench, one_shots_to_measure
from deploy.savings_file import read_measured
from deploy.savings_ways import federated, one_upload
from dsv import synthesize
from protos import artefact
from protos.checkpoint import save_checkpoint
from protos.settings import RunSettings
from server.resume import round_path

SMALL = RunSettings(rounds=2, local_epochs=1, architecture="convnet:16", images_per_class="1", iterations=3)
HARNESS = HarnessSettings(clients=3, newcomers="convnet:8", newcomer_seeds=2, newcomer_steps=3)


@pytest.fixture(scope="module")
def data(task):
    return open_split("digits", "", "train", task), open_split("digits", "", "test", task)


@pytest.fixture(scope="module")
def parts(data):
    return [list(range(start, 600, 3)) for start in range(3)]


@pytest.fixture(scope="module")
def run(trained, task, parts, tmp_path_factory):
    """A folder as a run leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    for name in ("rounds", "releases"):
        (folder / name).mkdir(parents=True)
    for number in range(3):
        save_checkpoint(round_path(folder, number), trained)
    save_checkpoint(folder / "teacher.safetensors", trained)
    write_partition(folder / "partition.json", parts)
    content = artefact.encode(
        synthesize(trained.model, task, SMALL.synthesis(1), seed=0, teacher_architecture="convnet:16")
    )
    digest = artefact.digest(content)
    (folder / "releases" / f"{digest}.dsv").write_bytes(content)
    moved = [LedgerRow(n, c, "weights", d, 20_000) for n in (1, 2) for c in range(3) for d in ("up", "down")]
    moved += [
        LedgerRow(0, "newcomer", "dsv_download", "up", 74),
        LedgerRow(0, "newcomer", "dsv_download", "down", 2044),
    ]
    moved += [LedgerRow(0, c, "raw_images_instead", "up", 200 * 64) for c in range(3)]
    Result(
        TeacherRow("convnet:16", 0.95, 20_000),
        [NewcomerRow("convnet:8", 1, "hard", 0.12, 0.01, 2044, digest)],
        [RivalRow("random_real_hard", "convnet:8", 1, 0.11, 0.01, 660)],
        moved,
        Seconds(1.0, 1.0, 0.1, 1.0),
        settings={**replace(SMALL, partition_file="/gone/partition.json").to_run_config(), **asdict(HARNESS)},
    ).write(folder / "result.json")
    return folder


def swap(path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.fixture(scope="module")
def measured(run):
    done = dsv("savings", run, "--quiet")
    assert done.exit_code == 0, done.output
    return json.loads((run / "savings.json").read_text()), done.output


def test_every_way_is_there_and_its_bytes_are_the_ledgers(measured):
    ways = {row["kind"]: row for row in measured[0]["ways"]}
    assert len(ways) == 9
    assert ways["raw_images"]["clients_up_bytes"] == 600 * 64 and ways["raw_images"]["images_leave"]
    assert ways["fedavg"]["clients_up_bytes"] == 6 * 20_000 and ways["fedavg"]["newcomer_up_bytes"] == 40_000
    assert ways["one_shot_dsv"]["clients_up_bytes"] == 3 * 20_000  # one round
    assert ways["fedavg_dsv"]["newcomer_down_bytes"] == 2044
    assert ways["one_shot_weights"]["newcomer_down_bytes"] > 2 * ways["weights_int8"]["newcomer_down_bytes"]
    sizes = [ways[f"weights_{kind}"]["newcomer_down_bytes"] for kind in ("float32", "float16", "int8")]
    assert sizes[0] > 1.7 * sizes[1] > 2.5 * sizes[2]
    assert ways["fedavg"]["accuracy_mean"] > 0.8 and abs(ways["weights_int8"]["accuracy_mean"] - 0.95) < 0.1
    teachers = [row["variant"] for row in measured[0]["ways"] if row["kind"] == "one_shot_dsv"]
    assert [teacher.split()[0] for teacher in teachers] == ["average", "ensemble"]


def test_a_call_that_was_cut_off_measures_the_rest_alone(run, measured):
    path = run / "savings.json"
    whole = json.loads(path.read_text())
    before = whole["ways"]
    path.write_text(json.dumps({**whole, "ways": [row for row in before if row["kind"] != "raw_images"]}))
    done = dsv("savings", run, "--quiet")
    assert done.exit_code == 0, done.output
    assert "all images on the server" in done.output and "one shot" not in done.output
    after = json.loads(path.read_text())["ways"]
    assert sorted(map(str, after)) == sorted(map(str, before))


def test_one_shot_dsvs_are_made_as_the_runs_releases_were(run, measured, tmp_path, monkeypatch):
    again = tmp_path / "run"
    shutil.copytree(run, again)
    result = json.loads((again / "result.json").read_text())
    result["settings"] |= {"start": "dead-leaves", "views": "20"}
    (again / "result.json").write_text(json.dumps(result))
    kept = [row for row in measured[0]["ways"] if not row["kind"].startswith("one_shot")]
    (again / "savings.json").write_text(json.dumps({**measured[0], "ways": kept}))
    monkeypatch.setattr("dsv.dead_leaves.POOL", 0)
    made, downloaded = [], savings_bench._downloaded
    monkeypatch.setattr(savings_bench, "_downloaded", lambda content: made.append(content) or downloaded(content))
    done = dsv("savings", again, "--quiet")
    assert done.exit_code == 0, done.output
    releases = [artefact.decode(content) for content in made]
    assert [(r.provenance.start, r.views.plan.count) for r in releases] == [("dead-leaves", 20)] * 2


def test_random_real_images_are_tried_until_they_are_good_enough(measured):
    tried = [row for row in measured[0]["ways"] if row["kind"] == "random_real"]
    assert tried[0]["accuracy_mean"] == 0.11 and tried[0]["newcomer_down_bytes"] == 10 * 17  # the run's own row
    assert all(row["accuracy_mean"] < measured[0]["target"] for row in tried[:-1])


def test_another_accuracy_has_what_stops_there_measured_anew(run, measured, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(run, again)

    def found(*options: object) -> list[str]:
        done = dsv("savings", again, "--quiet", *options)
        assert done.exit_code == 0 and "one shot" not in done.output, done.output
        ways = json.loads((again / "savings.json").read_text())["ways"]
        assert {way["kind"] for way in ways} == {kind.value for kind in Kind}
        return [way["variant"] for way in ways if way["kind"] == "random_real"]

    few = found()
    many = found("--accuracy", 0.999)
    assert len(few) < len(many) and many[-1] == "100/class"
    assert found() == few


def test_the_words_name_crossings_and_losses(measured):
    words, printed = measured[0]["words"], measured[1]
    assert any("newcomers" in line for line in words["newcomers"])
    assert all("parameters" in line for line in words["size"]) and len(words["size"]) == 3
    assert any("more accurate by" in line for line in words["losses"])
    for wanted in ("NB-IoT", "LoRa-class", "Where DSVs lose", "1,000,000 ↑", "private images leave their device"):
        assert wanted in printed.replace("\n", " "), wanted
    assert "Traceback" not in printed


def test_what_was_measured_is_kept_and_written_in_every_format(run, measured, tmp_path):
    files = [tmp_path / name for name in ("s.json", "s.csv", "s.parquet")]
    options = [word for path in files for word in ("--out", path)]
    done = dsv("savings", run, "--quiet", "--markdown", tmp_path / "s.md", *options)
    assert done.exit_code == 0 and "measured before" in done.output, done.output
    rows = json.loads(files[0].read_text())
    assert len(rows) == 3 * len(measured[0]["ways"])
    with files[1].open(newline="") as opened:
        table = list(csv.DictReader(opened))
    assert [row["kind"] for row in table] == [row["kind"] for row in rows]
    assert {row["newcomers"] for row in table} == {"10", "1000", "1000000"}
    parquet = pytest.importorskip("pyarrow.parquet").read_table(files[2])
    assert parquet.column("up_bytes").to_pylist() == [row["up_bytes"] for row in rows]
    assert str(parquet.schema.field("images_leave").type) == "bool"
    assert "| way | variant |" in (tmp_path / "s.md").read_text()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "result.json").unlink(), "name the folder of a finished run"),
        (lambda folder: (folder / "result.json").write_text("{"), "is not JSON; name the folder of a run"),
        (lambda folder: (folder / "savings.json").write_text("[]"), "is not what dsv savings wrote"),
        (lambda folder: (folder / "savings.json").write_text('{"ways": []}'), "is not what dsv savings wrote"),
        (lambda folder: swap(folder / "savings.json", '"clients": 3', '"clients": 0'), "is not what dsv savings wrote"),
        (lambda folder: swap(folder / "result.json", '"rounds": 2', '"rounds": "many"'), "must be of type int"),
        (lambda folder: swap(folder / "result.json", '"clients": 3', '"clients": [3]'), "has settings that are none"),
    ],
)
def test_a_folder_that_is_no_finished_run_is_one_clear_line(damage, message, run, measured, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("result.json", "savings.json", "teacher.safetensors"):
        (folder / name).write_bytes((run / name).read_bytes())
    damage(folder)
    done = dsv("savings", folder)
    assert done.exit_code == 1 and message in done.output.replace("\n", " "), done.output
    assert "Traceback" not in done.output


def test_outputs_are_checked_before_minutes_of_training(run, tmp_path):
    done = dsv("savings", run, "--again", "--out", tmp_path / "x.xls")
    assert done.exit_code == 1 and "must end in one of" in done.output
    for option in ("--out", "--markdown"):
        done = dsv("savings", run, "--again", option, tmp_path / "none" / "x.csv")
        assert done.exit_code == 1 and "there is no folder" in done.output


def test_one_upload_is_every_clients_also_where_a_round_asked_some(run):
    finished = FinishedRun.open(run)
    ledger = [row for row in finished.result.ledger if row.round != 1 or row.client == 0]
    some = replace(finished, result=replace(finished.result, ledger=ledger))
    whole, first = one_upload(finished), federated(ledger, 1)
    assert one_upload(some).up == first.up * finished.harness.clients
    assert whole == federated(finished.result.ledger, 1)


def test_who_trains_from_classes_trains_for_as_long_as_that_takes(measured, monkeypatch, run):
    asked = []
    monkeypatch.setattr(SavingsBench, "_timed", lambda self, found, targets: asked.append(targets) or float(len(asked)))
    bench = SavingsBench(FinishedRun.open(run), None)  # type: ignore[arg-type]
    assert [bench._training_s(kind) for kind in ("hard", "soft", "hard")] == [1.0, 2.0, 1.0]
    assert asked[0].ndim == 1 and asked[1].ndim == 2


def test_a_one_shot_teacher_that_was_left_out_is_measured_later(run, measured):
    finished, ways = FinishedRun.open(run), read_measured(run / "savings.json").ways
    without = [way for way in ways if not (way.kind is Kind.ONE_SHOT_DSV and way.variant.startswith("average"))]
    assert len(without) == len(ways) - 1
    assert one_shots_to_measure(finished, without, ("average", "ensemble")) == ["average"]
    assert one_shots_to_measure(finished, ways, ("average", "ensemble")) == []
    assert one_shots_to_measure(finished, without, ("ensemble",)) == []
