"""The pages of runs and folders: what stands in them, whatever the folder holds. Browsers: test_pages_in_browser.py."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import dsv, refused
from run_folders import a_result, a_run, a_task

from deploy.ledger import write_ledger
from deploy.pages import words
from deploy.pages.headline import best_newcomer, headline
from deploy.pages.html import LIMIT_BYTES
from deploy.pages.provenance import commands_of, options_of
from deploy.pages.run_page import write_report
from deploy.result import LedgerRow, RivalRow, read_result
from dsv import (
    ModelSpec,
    build_model,
)
from protos.checkpoint import Checkpoint, save_checkpoint
from protos.settings import RunSettings
from server.events import EventLog, Failed
from server.run_folder import RESULT_FILE

SAID = (
    "70.0 %",
    "the rival better in both",
    "control",
    "Clients&#39; training loss",
    "Entropy of the candidates",
    "Sum of λ against accuracy",
    "Confusion between classes",
    "How they grew",
    "…/parts.json",
    "default-src 'none'",
)


SPEC = ModelSpec("convnet", 1, 8, 3, 8)
DEPLOYED = [
    LedgerRow(number, client, purpose, way, size)
    for client in (0, 1)
    for number, purpose, way, size in (
        (1, "weights", "up", 61_500),
        (1, "weights", "down", 1234),
        (1, "transport", "up", 7),
    )
]


class Elements(HTMLParser):
    """Names and attributes of a page's elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def elements(page: Path) -> list[tuple[str, dict[str, str | None]]]:
    return Elements(page.read_text()).found


def test_a_result_is_read_as_it_was_written(tmp_path):
    result = a_result(a_task(), (1, 4))
    result.write(tmp_path / RESULT_FILE)
    assert read_result(tmp_path / RESULT_FILE) == result
    text = json.loads((tmp_path / RESULT_FILE).read_text())
    del text["confusions"]
    text["newcomers"][0]["of_a_newer_version"] = 1
    (tmp_path / RESULT_FILE).write_text(json.dumps(text))
    assert read_result(tmp_path / RESULT_FILE).confusions == []


def test_of_a_rivals_kinds_of_labels_the_strongest_speaks():
    """The smallest that is as good as the newcomer, or else the best."""
    result = a_result(a_task(), (1, 4))
    row = best_newcomer(result)

    def told(*pairs):
        rivals = [
            RivalRow(f"random_real_{kind}", row.architecture, row.images_per_class, accuracy, 0.0, size)
            for kind, accuracy, size in pairs
        ]
        return headline(replace(result, rivals=rivals)).savings

    good, bad = row.accuracy_mean + 0.01, row.accuracy_mean - 0.2
    assert "for 1.7 kB" in told(("hard", good, 1_700), ("view", good + 0.02, 21_000))
    assert "for 21.0 kB" in told(("hard", bad, 1_700), ("view", good, 21_000))
    assert "for 21.0 kB" in told(("hard", bad - 0.1, 1_700), ("view", bad, 21_000))


def test_the_headline_names_every_rival_and_where_dsvs_lose():
    found = headline(a_result(a_task(), (1, 4)))
    assert found is not None and found.accuracy == "64.0 %" and found.size == "3.6 kB"
    assert found.lost_to == ["as many random real images"]
    assert "25 times fewer bytes than the teacher's weights (98.0 % for 90.0 kB)" in found.savings
    assert "41\N{NO-BREAK SPACE}% more bytes than as many random real images (80.0 % for 2.6 kB)" in found.savings
    verdicts = {c.rival: c.verdict for c in found.comparisons}
    assert verdicts["the teacher's weights"] == "DSVs smaller, but less accurate"
    assert verdicts["as many random real images"] == "the rival better in both"


def test_the_page_says_it_all_and_asks_for_nothing(pages):
    page = pages["report"]
    text = page.read_text()
    for wanted in SAID:
        assert wanted in text, wanted
    assert "/home/" not in text and str(page.parent) not in text and "holds private" not in text
    for tag, attributes in elements(page):
        assert tag not in ("link", "iframe", "object", "embed", "video", "base")
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("data:image/webp;base64,", "#")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    images = [attributes for tag, attributes in elements(page) if tag == "img" and attributes.get("src")]
    tiles = [a["alt"] for a in images if (a["alt"] or "").startswith("DSV of class class 0")]
    assert len(tiles) == 11 and all("multiplier" in alt and "confidence" in alt for alt in tiles)
    multipliers = [float(re.search(r"multiplier ([\d.e-]+)", alt)[1]) for alt in tiles[:10]]
    assert multipliers == sorted(multipliers, reverse=True)


def test_hostile_names_stay_text(pages):
    page = pages["hostile"]
    text = page.read_text()
    assert "<script>alert" not in text and "</style><img" not in text
    assert sum(tag == "script" and "type" not in attributes for tag, attributes in elements(page)) == 1


@pytest.mark.parametrize(
    ("classes", "side", "channels", "counts"),
    [
        (100, 32, 3, (1, 10)),
        (3, 224, 3, (4,)),
        pytest.param(10, 32, 3, (50,), marks=pytest.mark.slow),
        pytest.param(10, 224, 3, (50,), marks=pytest.mark.slow),
        pytest.param(300, 8, 1, (1,), marks=pytest.mark.slow),
    ],
    ids=["100 classes", "224 px", "500 DSVs", "500 DSVs of 224 px", "300 classes"],
)
def test_large_runs_stay_small_pages(classes, side, channels, counts, tmp_path):
    page = write_report(a_run(tmp_path / "run", a_task(classes, side, channels), counts))
    assert page.stat().st_size < LIMIT_BYTES
    if side == 224 or classes > 10:
        assert "To keep this file small" in page.read_text() or "are shown" in page.read_text()


def test_unfinished_and_old_runs_say_what_is_missing(tmp_path):
    unfinished = a_run(tmp_path / "unfinished", a_task(), (1,))
    (unfinished / RESULT_FILE).unlink()
    text = write_report(unfinished).read_text()
    assert "the run is not finished" in text and "A release of Deep Support Vectors: <strong>" in text
    old = a_run(tmp_path / "old", a_task(), frames=False)
    (old / "events.jsonl").write_text('{"event": "IterationDone", "of": "another version"}\n')
    [first, *_] = sorted((old / "releases").glob("*.dsv"))
    first.write_bytes(b"harm")
    text = write_report(old).read_text()
    for wanted in ("of another version", "No frames of the synthesis", "its file was altered"):
        assert wanted in text
    ended = a_run(tmp_path / "ended", a_task(), (1,))
    EventLog(ended).write(Failed("start folder /home/alice/scans has 3 images, 10 are needed; add images"))
    text = write_report(ended).read_text()
    assert "start folder …/scans has 3 images" in text and "alice" not in text
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "settings.json").write_text("{}")
    text = write_report(bare).read_text()
    assert "has published no release yet" in text and "published no Deep Support Vectors yet" in text


def test_the_folder_of_a_deployment(tmp_path):
    """``dsv deploy local`` leaves the run in ``run/``, its releases beside it, and no result."""
    folder = tmp_path / "runs" / "2026-11-25T10-57-33.579600Z"
    a_run(folder / "run", a_task(), (1,))
    (folder / "run" / RESULT_FILE).unlink()
    (folder / "run" / "releases").rename(folder / "releases")
    (folder / "certs").mkdir()
    done = dsv("report", folder)
    assert done.exit_code == 0, done.output
    text = (folder / "report.html").read_text()
    assert "the run is not finished" in text and folder.name in text and "is not in the folder" not in text
    assert "dsv simulate" not in text, "devices are not to be had by a command"
    assert "there is no ledger and no message" in text and 'id="bytes"' not in text
    write_ledger(folder / "ledger.json", DEPLOYED)
    save_checkpoint(folder / "run" / "teacher.safetensors", Checkpoint(build_model(SPEC, seed=0), SPEC, a_task()))
    text = write_report(folder).read_text()
    assert "The federation&#39;s 2 clients moved 123 kB up and 2.5 kB down in 1 round." in text
    others = [
        LedgerRow(0, "operator", "transport", "up", 10**6),
        LedgerRow(0, "newcomers", "dsv_download", "down", 10**8),
    ]
    write_ledger(folder / "ledger.json", DEPLOYED + others)
    assert "moved 123 kB up and 2.5 kB down in 1 round." in write_report(folder).read_text()
    (folder / "ledger.json").write_text("{")
    assert "ledger.json is not a ledger that dsv wrote, or it is truncated" in write_report(folder).read_text()
    write_ledger(folder / "ledger.json", DEPLOYED)
    text = write_report(folder).read_text()
    assert "can run its architecture (convnet:8), are" in text and "A release of Deep Support Vectors" in text
    assert "What crossed every party&#39;s sockets" in text and "transport (TLS" in text and "Hollow" not in text
    assert dsv("gallery", tmp_path / "runs").exit_code == 0
    gallery = (tmp_path / "runs" / "gallery.html").read_text()
    assert "1 run and 0 releases" in gallery and folder.name in gallery
    refused("is a deployment's and has no newcomers", "savings", folder)


def test_the_commands_of_a_run_are_whole():
    settings = RunSettings(data="imagefolder", classes=",".join(f"class{number:03}" for number in range(200)))
    run = SimpleNamespace(result=object(), settings={**settings.to_run_config(), "compiled": True})
    [command, _] = commands_of(run)
    assert settings.classes in command and "--compiled" in command and "…" not in command


def test_options_that_a_known_data_set_does_not_read_are_not_told():
    names = {option.name for option in options_of(RunSettings().to_run_config())}
    assert "architecture" in names and not names & {"classes", "channels", "image-size-px"}
    folders = RunSettings(data="imagefolder", classes="a,b").to_run_config()
    assert {option.name for option in options_of(folders)} == names | {"classes", "channels", "image-size-px"}


def test_what_is_no_run_is_refused(tmp_path):
    refused("there is no run folder", "report", tmp_path / "none")
    refused("holds no run", "report", tmp_path)
    refused("there is no folder", "gallery", tmp_path / "none")
    refused("holds neither a run nor a .dsv file", "gallery", tmp_path)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / RESULT_FILE).write_text('{"teacher": 1}')
    assert dsv("report", damaged).exit_code == 0
    assert "is no result of a run" in (damaged / "report.html").read_text()
    (damaged / "events.jsonl").write_text('{"event": "SynthesisDone", "seconds": "x"}\n')
    assert dsv("report", damaged).exit_code == 0
    assert "events.jsonl is damaged" in (damaged / "report.html").read_text()
    refused("cannot write the page", "report", damaged, "--out", tmp_path / "no" / "such.html")


def test_selected_real_images(tmp_path, trained, task):
    run = a_run(tmp_path / "run", task)
    save_checkpoint(tmp_path / "teacher.safetensors", trained)
    chosen = tmp_path / "chosen.json"
    done = dsv("select", "--teacher", tmp_path / "teacher.safetensors", "--steps", 1, "--out", chosen, "--quiet")
    assert done.exit_code == 0, done.output
    done = dsv("report", run, "--selected", chosen, "--out", tmp_path / "private.html")
    assert done.exit_code == 0 and "holds private images" in done.output
    assert {path.stat().st_mode & 0o777 for path in (chosen, tmp_path / "private.html")} == {0o600}
    text = (tmp_path / "private.html").read_text()
    assert "This file holds private images." in text and text.count("private image of class") > 50
    refused("cannot read the selection", "report", run, "--selected", tmp_path / "none.json")
    wrong = json.loads(chosen.read_text())
    wrong["coreset"][0]["class"] = 9
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    refused("was not made from these images", "report", run, "--selected", tmp_path / "wrong.json")
    (tmp_path / "wrong.json").write_text("[]")
    refused("is no selection", "report", run, "--selected", tmp_path / "wrong.json")


def test_how_many_images_a_class_has():
    assert [words.per_class(images) for images in (10.0, 5 / 3, 1234.0)] == [
        "10 per class",
        "1.7 per class",
        "1234 per class",
    ]
