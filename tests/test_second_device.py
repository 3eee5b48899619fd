"""Everything that takes ``device=`` works on a device that is not the CPU, on a machine that has no other.

What it shows is that nothing is forgotten on the way to a card: see ``second_device/device.cpp``. Speed, memory and
rounding are a real card's own.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.rehearsal_ways import WAYS
from dsv import write_picture
from protos import artefact
from protos.checkpoint import save_checkpoint

FOLDER = Path(__file__).with_name("second_device")
ROOT = FOLDER.parent.parent
MATHEMATICS = ("kkt_gradient", "distance_gradient", "layers", "synthesis", "selection", "views")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card"),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of processes that know the second device."""
    built = tmp_path_factory.mktemp("second-device") / "device.so"
    torch_folder = Path(torch.__file__).parent
    libraries = torch_folder / "lib"
    flags = ["-O0", "-std=c++20", "-shared", "-fPIC", f"-I{torch_folder / 'include'}"]
    link = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-ltorch_cpu", "-lc10"]
    subprocess.run(["g++", *flags, FOLDER / "device.cpp", "-o", built, *link], check=True, timeout=300)
    path = os.pathsep.join(filter(None, [str(FOLDER), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "SECOND_DEVICE": str(built), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def dsv(environment):
    """Runs a command on the second device that must end well, and returns what it printed."""

    def run(*arguments):
        command = [Path(sys.executable).with_name("dsv"), *map(str, arguments), "--device", "card"]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
        assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
        return ended.stdout

    return run


def python(environment, code):
    command = [sys.executable, "-c", f"import dsv, torch\n{code}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("torch.ones(2, device='card') + torch.ones(2)", "same device"),
        ("torch.ones(2, 2, device='card') @ torch.ones(2, 2)", "same device"),
        ("torch.nn.Conv2d(1, 1, 1)(torch.ones(1, 1, 2, 2, device='card'))", "two devices"),
        ("torch.rand(2, device='card', generator=torch.Generator())", "generator of another device"),
        ("torch.ones(2, device='card').numpy()", "can't convert"),
    ],
)
def test_what_was_not_moved_is_found(environment, code, message):
    ended = python(environment, code)
    assert ended.returncode == 1
    assert message in ended.stderr


def test_the_mathematics(environment):
    files = [f"tests/test_{name}.py" for name in MATHEMATICS]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "card", *files]
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert ended.returncode == 0, ended.stdout[-4000:]  # not 5: there are such tests


def test_the_commands(dsv, trained, support_set, pictures, tmp_path):
    model, release = tmp_path / "teacher.safetensors", tmp_path / "set.dsv"
    save_checkpoint(model, trained)
    release.write_bytes(artefact.encode(support_set))
    picture = tmp_path / "picture.png"
    write_picture(picture, pictures[0])
    teacher, short = ("--teacher", model, "--quiet"), ("--iterations", 3)
    dsv("synthesize", *teacher, *short, "--store", tmp_path / "a", "--images-per-class", "1,2", "--coarse-stages", 2)
    dsv("synthesize", *teacher, *short, "--store", tmp_path / "b", "--start", "dead-leaves", "--views", 100)
    dsv("select", *teacher, "--per-class", 1, "--steps", 1, "--out", tmp_path / "selection.json")
    dsv("interpolate", *teacher, *short, "--classes", "1,7", "--out", tmp_path / "between")
    dsv("edit", *teacher, *short, "--images", picture, "--target", "8", "--out", tmp_path / "edited")
    dsv("mix", "--teacher", model, "--release", release, "--images", picture, "--class", "8", "--out", tmp_path / "mix")
    dsv("characterise", "--teacher", model, "--release", release)


def test_new_classes_beside_old_ones(environment, dsv, release, image_tree, tmp_path):
    """The command, and every way of the benchmark."""
    given = ("--release", release, "--images", image_tree, "--save-model", tmp_path / "m.safetensors")
    dsv("rehearse", "--quiet", *given, "--architecture", "convnet:4", "--newcomer-steps", 2)
    command = [sys.executable, "-m", "benchmarks.rehearsal", "--data", "digits", "--teacher", "convnet:4"]
    command += ["--per-class", "1", "--steps", "2", "--seeds", "1", "--device", "card"]
    command += ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "rows.json")]
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert len(json.loads((tmp_path / "rows.json").read_text())["rows"]) == len(WAYS)


def test_a_simulation(dsv, tmp_path):
    """Clients, the synthesis from all of them, newcomers and rivals."""
    few = ("--clients", 2, "--rounds", 1, "--local-epochs", 1, "--images-per-class", 1, "--iterations", 3)
    newcomers = ("--newcomers", "convnet:8,resnet18:4:batch", "--newcomer-seeds", 1, "--newcomer-steps", 5)
    printed = dsv(
        *("simulate", "--quiet", "--out", tmp_path, "--architecture", "convnet:8:batch", *few, *newcomers),
        *("--synthesis-from", "clients", "--validation-share", 0.1),
    )
    assert "clients' ensemble" in printed
