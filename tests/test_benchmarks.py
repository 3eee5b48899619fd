"""What the benchmarks' scripts do before and besides measuring."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import precision, synthesis
from dsv import Compute

GPU = Path(synthesis.__file__).with_name("gpu.sh")
PARTS = ["pytest", "synthesis", "imagenet", "zero_shot", "rehearsal", "paper"]


def gpu(tmp_path, *arguments, fails="nothing"):
    """The exit code, what was said, and the modules that were started, each by a stand-in for Python."""
    stub = tmp_path / "python"
    stub.write_text(f'#!/bin/sh\necho "$2" >> {tmp_path}/started\ncase "$2" in *{fails}) exit 3 ;; esac\n')
    stub.chmod(0o755)
    done = subprocess.run(
        ["sh", GPU, *arguments], env={**os.environ, "PYTHON": str(stub)}, capture_output=True, text=True, check=False
    )
    started = (tmp_path / "started").read_text().split() if (tmp_path / "started").exists() else []
    return done.returncode, done.stderr, [name.removeprefix("benchmarks.") for name in started]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "sh benchmarks/gpu.sh DATA RESNET50.safetensors OUT"),
        (("data", "weights", "out", "tests", "pictures"), "unknown part pictures; choose of: tests, synthesis"),
        (("data", "weights", "out", "tests", "paper"), "data/cifar10 does not exist, which the part paper needs"),
        (("data", "weights", "out"), "weights does not exist, which the part imagenet needs"),
    ],
)
def test_what_is_missing_on_the_card_is_said_before_anything_is_started(tmp_path, arguments, said):
    code, error, started = gpu(tmp_path, *arguments)
    assert (code, started) == (2, []) and said in error


def test_a_part_that_fails_does_not_keep_the_others_from_being_run(tmp_path):
    for name in ("cifar10", "imagenet-sample", "weights"):
        (tmp_path / name).mkdir()
    given = (tmp_path, tmp_path / "weights", tmp_path / "out")
    code, error, started = gpu(tmp_path, *map(str, given), fails="pytest")
    assert (code, error) == (1, "failed: tests\n")
    assert list(dict.fromkeys(started)) == PARTS


def test_bfloat16_is_measured_in_bfloat16():
    printed = CliRunner().invoke(precision.main, ["--counts", "2"], catch_exceptions=False).output
    rounded, ours = (float(line.split("|")[3]) for line in printed.splitlines()[2:])
    assert rounded > 0.05 and ours < 0.002


def test_a_speed_that_is_there_already_is_not_measured_again(tmp_path, monkeypatch):
    measured = []

    def measure(case, count, compute):
        measured.append(count)
        known = dict(zip(synthesis.SAME, synthesis._same(case, count, compute), strict=True))
        zeros = dict.fromkeys(synthesis.Row.__dataclass_fields__, 0.0)
        return synthesis.Row(**{**zeros, **known, "plain_s": 1.0, "ours_s": 1.0})

    monkeypatch.setattr(synthesis, "measure", measure)
    out = tmp_path / "rows.json"
    for options in (["--counts", "10"], ["--counts", "10,50", "--missing"], ["--counts", "10"]):
        asked = ["--cases", "small", "--micro-batch", "7", "--out", str(out), *options]
        assert CliRunner().invoke(synthesis.main, asked, catch_exceptions=False).exit_code == 0
    assert measured == [10, 50, 10] and len(json.loads(out.read_text())["rows"]) == 2
    assert synthesis._same("small", 10, Compute(micro_batch=7))[-2:] == [10, 7]
