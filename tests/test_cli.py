"""The command line as its users meet it: one clear line for every mistake, exit code not 0, no traceback."""

from __future__ import annotations

import socket

import pytest
import torch
from command_line import done, dsv, refused
from PIL import Image

from deploy.cli import cli
from dsv import contact_sheet
from protos import artefact
from protos.checkpoint import load_checkpoint, save_checkpoint
from server.distribution import run_server
from server.store import DirectoryStore


def test_help_names_every_command_and_every_option_has_a_description():
    top = dsv("--help").output
    for name in ("demo", "simulate", "synthesize", "serve", "bootstrap", "watch", "inspect", "export"):
        assert name in top
        assert dsv(name, "--help").exit_code == 0
        for parameter in cli.commands[name].params:
            assert parameter.param_type_name == "argument" or parameter.help, (name, parameter.name)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("Invalid value for '--data'", ["--data", "imagenet"]),
        ("Invalid value for '--rounds'", ["--rounds", "many"]),
        ("No such option", ["--colour", "red"]),
        ("images per class must be at least 1, got 0", ["--images-per-class", "0"]),
        ("unknown architecture 'nosuchnet'", ["--architecture", "nosuchnet"]),
        ("width must be a whole number from 0 to 4096", ["--architecture", "convnet:99999999"]),
        ("unknown architecture 'other'", ["--newcomers", "convnet:8,other"]),
        ("at least 2 clients", ["--clients", "1"]),
        ("cannot be split over 5000 clients", ["--clients", "5000"]),
        ("needs the option data-root", ["--data", "imagefolder"]),
        ("needs the option data-root", ["--data", "cifar10"]),
        ("choose cpu, cuda or cuda:N", ["--device", "toaster"]),
        ("nowhere does not exist; name a folder of images", ["--start", "nowhere"]),
        ("start is empty", ["--start", ""]),
        ("min-available-nodes 9 is more than the 8 clients", ["--min-available-nodes", "9"]),
        ("views must be a number or auto, got 'many'", ["--views", "many"]),
        ("view plan's count must be", ["--views", "2000000"]),
        ("micro-batch must be at least 1", ["--micro-batch", "-1"]),
        ("no parameter of the model fits 'nosuch.*'", ["--stationary-parameters", "nosuch.*"]),
        ("no parameter of the model fits 'nosuch.*'", ["--trainable", "nosuch.*"]),
        ("channels is for data imagefolder alone; digits has its own", ["--channels", "7"]),
        ("digits comes with scikit-learn and is not read from", ["--data-root", "."]),
        ("dirichlet-alpha is for partitioner dirichlet alone", ["--partitioner", "iid", "--dirichlet-alpha", "0.1"]),
        ("image-size-px is for data imagefolder alone", ["--image-size-px", "16"]),
        ("classes is for data imagefolder alone", ["--classes", "a,b"]),
        ("backbone-sha256 is of no backbone", ["--backbone-sha256", "zz"]),
        ("would be too large; use 4-bit or raw", ["--images-per-class", "200000", "--image-encoding", "webp"]),
        ("are above the limits", ["--images-per-class", "2000000"]),
        ("width must be a whole number from 0 to 4096", ["--architecture", "convnet:" + 5000 * "9"]),
    ],
)
def test_mistakes_in_options(message, arguments, tmp_path):
    refused(message, "simulate", "--out", tmp_path, "--quiet", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_cuda_where_there_is_none(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    refused("this machine has 0 CUDA devices", "simulate", "--out", tmp_path, "--device", "cuda")


def test_mistakes_in_the_data(image_tree, tmp_path):
    options = ("simulate", "--out", tmp_path / "runs", "--quiet", "--data", "imagefolder", "--image-size-px", 8)
    refused("does not exist; name a folder with train/ and test/", *options, "--data-root", tmp_path / "none")
    (image_tree / "train" / "red" / "3.png").write_bytes(b"broken")
    refused("red/3.png cannot be decoded; replace or remove it", *options, "--data-root", image_tree)
    for path in (image_tree / "train" / "red").iterdir():
        path.unlink()
    refused("holds no image; add images or remove the class", *options, "--data-root", image_tree)
    assert not (tmp_path / "runs").exists()


def test_synthesize_then_inspect_then_export(teacher, tmp_path):
    save_checkpoint(tmp_path / "t.safetensors", teacher)
    store = tmp_path / "store"
    common = ("synthesize", "--teacher", tmp_path / "t.safetensors", "--store", store)
    ended = dsv(*common, "--images-per-class", "1,2", "--iterations", 2, "--quiet")
    assert ended.exit_code == 0, ended.output
    assert "synthesis 2/class 2/2" in ended.output and "stationarity" in ended.output
    paths = sorted(store.glob("*.dsv"), key=lambda p: p.stat().st_size)
    assert len(paths) == 2 and all(p.stem in ended.output for p in paths)
    shown = dsv("inspect", paths[1]).output
    for wanted in (paths[1].stem, "20 of 1 x 8 x 8", "convnet:8", "noise, seed 0", "layer-cosine", "sum of lambda"):
        assert wanted in shown
    out = dsv("export", paths[1], tmp_path / "pictures")
    assert "20 images" in out.output
    assert len(list((tmp_path / "pictures" / "images" / "0003_3").glob("*.png"))) == 2
    width, height = Image.open(tmp_path / "pictures" / "contact-sheet.png").size
    assert height == 10 * 66 + 2 and 2 * 66 + 2 < width < 3 * 66, "names before the rows"
    refused("is not an empty folder", "export", paths[1], tmp_path / "pictures")


def test_synthesis_may_start_from_pictures(teacher, tmp_path):
    save_checkpoint(tmp_path / "t.safetensors", teacher)
    folder = tmp_path / "public"
    folder.mkdir()
    common = ("synthesize", "--teacher", tmp_path / "t.safetensors", "--store", tmp_path / "s", "--iterations", 1)
    options = (*common, "--images-per-class", 1, "--start", folder)
    refused("has 0 images, 10 are needed", *options)
    for number in range(10):
        Image.new("RGB", (12, 20), (number * 20, 0, 0)).save(folder / f"{number}.png")
    ended = dsv(*options)
    assert ended.exit_code == 0, ended.output
    [path] = (tmp_path / "s").glob("*.dsv")
    assert artefact.load(path).provenance.start == "public"
    refused("start folder nowhere does not exist", *common, "--start", "nowhere")


def test_synthesis_of_some_classes(teacher, tmp_path):
    """Of a teacher of a thousand classes nobody wants a thousand images to see ten."""
    save_checkpoint(tmp_path / "t.safetensors", teacher)
    common = ("synthesize", "--teacher", tmp_path / "t.safetensors", "--store", tmp_path / "s", "--iterations", 2)
    options = (*common, "--images-per-class", 2)
    done(*options, "--classes", "7,3")
    [path] = (tmp_path / "s").glob("*.dsv")
    assert artefact.load(path).labels.tolist() == [3, 3, 7, 7]
    assert path.stem in done(*options, "--classes", "3, 7"), "the order does not matter"
    done(*options, "--classes", "3,8")
    done(*options)
    assert len(list((tmp_path / "s").glob("*.dsv"))) == 3
    shown = done("inspect", path)
    assert "4 of 1 x 8 x 8" in shown and "no image of 8 more classes" in shown
    assert "4 images" in done("export", path, tmp_path / "pictures")
    folders = sorted(folder.name for folder in (tmp_path / "pictures" / "images").iterdir())
    assert folders == ["0003_3", "0007_7"]
    with run_server(DirectoryStore(tmp_path / "s")) as address:
        done("bootstrap", "--server", address, "--release", path.stem, "--newcomer-steps", 2, "--quiet")
    refused("there is no class '10'; give 0 to 9", *options, "--classes", "3,10")
    refused("'3' was given twice", *options, "--classes", "3,3")

    folder = tmp_path / "public"
    for name in ("3", "7"):
        (folder / name).mkdir(parents=True)
        Image.new("L", (8, 8), 30 * int(name)).save(folder / name / "a.png")
    begun = (*common, "--images-per-class", 1, "--start", folder, "--image-step", 1e-9, "--image-encoding", "raw")
    done(*begun, "--classes", "3,7")
    [path] = (p for p in (tmp_path / "s").glob("*.dsv") if artefact.load(p).provenance.start == "public")
    assert artefact.load(path).images.flatten(1).float().mean(1).tolist() == [90, 210]


def test_synthesis_may_start_from_dead_leaves(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("dsv.dead_leaves.POOL", 0)
    save_checkpoint(tmp_path / "t.safetensors", teacher)
    common = ("synthesize", "--teacher", tmp_path / "t.safetensors", "--store", tmp_path / "s", "--iterations", 1)
    ended = dsv(*common, "--images-per-class", 1, "--start", "dead-leaves")
    assert ended.exit_code == 0, ended.output
    [path] = (tmp_path / "s").glob("*.dsv")
    assert artefact.load(path).provenance.start == "dead-leaves"


def test_labelled_views_from_synthesis_to_newcomer(teacher, tmp_path):
    save_checkpoint(tmp_path / "t.safetensors", teacher)
    store = tmp_path / "store"
    common = ("synthesize", "--teacher", tmp_path / "t.safetensors", "--store", store, "--images-per-class", 1)
    ended = dsv(*common, "--iterations", 1, "--views", 40, "--quiet")
    assert ended.exit_code == 0 and "views 1/class 40/40" in ended.output, ended.output
    [path] = store.glob("*.dsv")
    assert artefact.load(path).label_kinds == ("hard", "soft", "view")
    assert "teacher's logits for 40 views" in dsv("inspect", path).output
    with run_server(DirectoryStore(store)) as address:
        steps = ("bootstrap", "--server", address, "--newcomer-steps", 2, "--quiet")
        for labels in ((), ("--labels", "view"), ("--labels", "hard")):
            assert dsv(*steps, *labels).exit_code == 0


def test_a_release_without_labelled_views(content, tmp_path):
    store = DirectoryStore(tmp_path / "store")
    store.publish(content)
    with run_server(store) as address:
        refused("has hard, soft labels, not 'view'", "bootstrap", "--server", address, "--labels", "view")


def test_a_contact_sheet_shows_the_largest_multiplier_first(support_set):
    sheet = contact_sheet(support_set)
    own = torch.nonzero(support_set.labels == 0).flatten()
    first = own[support_set.multipliers[own].argmax()]
    left = sheet.shape[2] - 2 * 66  # behind the names
    assert torch.equal(sheet[:, 2:66:8, left : left + 64 : 8], support_set.images[first])
    assert (sheet[:, 2:66, :left] < 128).any(), "the class is written before its row"


@pytest.mark.parametrize("length", [10, -1])
def test_a_truncated_release(release, length, tmp_path):
    release.write_bytes(release.read_bytes()[:length])
    for command in (("inspect", release), ("export", release, tmp_path / "out")):
        refused("r.dsv: not a release file, or a truncated one", *command)


def test_an_altered_release(release):
    data = bytearray(release.read_bytes())
    position = data.index(b"feddsv/1")
    data[position + 7 : position + 8] = b"9"
    release.write_bytes(data)
    refused("has format 'feddsv/9'", "inspect", release)


def test_files_that_are_not_there(tmp_path):
    refused("cannot read release", "inspect", tmp_path / "none.dsv")
    missing = tmp_path / "none.safetensors"
    refused("cannot read model", "synthesize", "--teacher", missing, "--store", tmp_path / "s")
    refused("does not exist; name a folder of releases", "serve", "--store", tmp_path / "none")


def test_a_model_file_that_is_none(release, tmp_path):
    refused("is not a model written by dsv", "synthesize", "--teacher", release, "--store", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_serving_on_a_port_in_use(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(f"cannot listen on 127.0.0.1:{port}: it is in use", "serve", "--store", tmp_path, "--port", port)


def test_an_unreachable_server():
    refused("server 127.0.0.1:1 cannot be reached", "bootstrap", "--server", "127.0.0.1:1")


def test_bootstrap(content, tmp_path):
    store = DirectoryStore(tmp_path / "store")
    with run_server(store) as address:
        refused("has no release yet", "bootstrap", "--server", address)
        name = store.publish(content)
        common = ("bootstrap", "--server", address, "--newcomer-steps", 2, "--quiet")
        kept = ("--save-release", tmp_path / "r.dsv", "--save-model", tmp_path / "m.safetensors")
        ended = dsv(*common, "--architecture", "resnet18:8", "--data", "digits", *kept)
        assert ended.exit_code == 0, ended.output
        assert f"downloaded {name}: 20 images" in ended.output and "test accuracy on digits" in ended.output
        assert (tmp_path / "r.dsv").read_bytes() == content
        assert load_checkpoint(tmp_path / "m.safetensors").spec.architecture == "resnet18"
        refused("has no release abc", *common, "--release", "abc")
        refused("unknown architecture", *common, "--architecture", "nonesuch")
        refused("does not fit a model of 10 classes of (1, 8, 8)", *common, "--data", "cifar10")


def test_a_release_or_model_that_cannot_be_kept_is_told_before_the_download(tmp_path):
    common = ("bootstrap", "--server", "127.0.0.1:1")
    refused("cannot write model", *common, "--save-model", tmp_path / "no" / "m")
    refused("cannot write release", *common, "--save-release", tmp_path)
    refused("is not in the range", *common, "--seed", "-1")
    refused("is not in the range", *common, "--seed", "99999999999999999999")


def test_options_that_would_do_nothing_are_refused(tmp_path):
    refused("of the images that --selected names", "report", tmp_path, "--data-root", tmp_path)
    refused("of the data that --data names", "bootstrap", "--server", "localhost:1", "--data-root", tmp_path)
    refused("name an architecture twice", "simulate", "--newcomers", "convnet:8,convnet:8")
