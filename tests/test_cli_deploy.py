"""Mistakes in the commands of a deployment: one line each, nothing started, nothing left."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import dsv, refused

import deploy.control
from client.data import device_images
from deploy.certificates import make_certificates
from deploy.cli import cli
from deploy.control import _say_lines
from deploy.device_folders import TASK, write_digit_folders
from deploy.local import LocalOptions, _of_data
from deploy.processes import free_port
from protos.settings import RunSettings


@pytest.fixture
def certs(tmp_path) -> Path:
    make_certificates(tmp_path / "certs", hosts=("localhost",), nodes=("a",), days=1)
    return tmp_path / "certs"


def test_a_federation_of_one(tmp_path):
    out = tmp_path / "runs"
    refused("at least 2 devices, got 1", "deploy", "local", "--out", out, "--nodes", 1)
    refused("at least 2 devices, got 1", "deploy", "local", "--out", out, "--device-data", tmp_path)
    refused("--image-size-px describes the devices' images", "deploy", "local", "--out", out, "--image-size-px", 64)
    assert not out.exists()


def test_options_that_do_not_fit_start_nothing(tmp_path, image_tree):
    out = tmp_path / "runs"
    local = ("deploy", "local", "--out", out)
    refused("min-available-nodes 3 is more than the 2 clients; rounds would wait", *local, "--min-available-nodes", 3)
    refused("unknown architecture 'nosuch'", *local, "--architecture", "nosuch")
    refused("views must be a number", *local, "--views", "many")
    devices = ("--device-data", image_tree, "--device-data", tmp_path / "none")
    refused("data folder", *local, *devices)
    for run in (("deploy", "run"), ("deploy", "run", "--classes", "a,b", "--architecture", "nosuch")):
        result = dsv(*run)
        assert result.exit_code == 1 and "started" not in result.output
    assert not out.exists()


def test_devices_may_see_different_classes_and_need_no_train_folder(tmp_path, image_tree):
    (image_tree / "train" / "blue").rename(tmp_path / "blue")
    device = tmp_path / "photos"
    device.mkdir()
    (tmp_path / "blue").rename(device / "blue")
    options = LocalOptions(tmp_path / "runs", (image_tree, device), None)
    settings = _of_data(RunSettings(), options)
    assert (settings.data, settings.classes) == ("imagefolder", "blue,red")
    assert _of_data(RunSettings(classes="red,blue,green"), options).classes == "red,blue,green"


@pytest.mark.parametrize("part", ["superlink", "proxy"])
def test_parts_without_certificates(part, tmp_path):
    refused("is missing; make it with 'dsv certs'", "deploy", part, "--certs", tmp_path, "--state", tmp_path / "s")


def test_a_supernode_without_data_or_with_a_broken_address(certs, tmp_path):
    keys = ("--keys", certs / "nodes" / "a", "--data", tmp_path, "--state", tmp_path / "s")
    refused("has no class folder with an image in it", "deploy", "supernode", *keys, "--server", "x:1")
    refused("is not HOST:PORT", "deploy", "supernode", *keys, "--server", "https://x")


def test_nobody_there(tmp_path, certs):
    address = f"127.0.0.1:{free_port()}"
    key = certs / "nodes" / "a" / "node.pub"
    unreached = f"cannot reach {address}: is 'dsv deploy operator' (or the SuperLink) up there"
    refused(unreached, "deploy", "register", "--control", address, key)
    authority = ("--control", address, "--authority", tmp_path / "none.crt")
    refused("none.crt is missing; make it with 'dsv certs'", "deploy", "nodes", *authority)
    refused("node.pub is missing", "deploy", "register", "--control", address, tmp_path / "node.pub")


def test_who_stops_looking_on_learns_that_the_run_goes_on(monkeypatch):
    class Running:
        def start(self, run_config):
            return 5

        def log_told(self, run, say):
            return nullcontext()

        def await_end(self, run, **how):
            raise KeyboardInterrupt

    monkeypatch.setattr(deploy.control, "control", lambda address, authority: nullcontext(Running()))
    ended = dsv("deploy", "run", "--classes", "a,b", "--control", "127.0.0.1:9")
    assert ended.exit_code == 1
    assert "run 5 goes on; to stop it: 'dsv deploy stop 5 --control 127.0.0.1:9'" in ended.output


def test_devices_are_counted_or_named_and_not_both(tmp_path, image_tree):
    named = ("--device-data", image_tree, "--device-data", image_tree)
    refused("--nodes is of devices with the bundled digits", "deploy", "local", "--nodes", 3, *named, "--out", tmp_path)


def test_an_empty_folder_is_not_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("--out is empty; name a file or a folder", "certs", "--out", "", "--nodes", 1)
    assert not list(tmp_path.iterdir())


def test_every_command_and_option_is_described():
    group = cli.commands["deploy"]
    for name, command in {**group.commands, "certs": cli.commands["certs"], "doctor": cli.commands["doctor"]}.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.param_type_name == "argument" or parameter.help, (name, parameter.name)


def test_the_digits_of_devices_that_differ(tmp_path):
    first, second = write_digit_folders(tmp_path, 2)
    splits = [device_images(str(root), TASK) for root in (first, second)]
    assert sum(len(split) for split in splits) == 1438
    assert set(splits[0].labels.tolist()) == set(range(9)) and set(splits[1].labels.tolist()) == set(range(10))
    assert splits[0].images().shape[1:] == TASK.image_shape


def test_a_log_that_nobody_listens_to_any_more_is_read_to_its_end():
    """``dsv deploy run … | head``: the child would wait for ever at a full pipe."""
    lines, told = iter([b"one\n", b"\n", b"two\n", b"three\n"]), []

    def say(line: str) -> None:
        told.append(line)
        if line == "two":
            raise BrokenPipeError

    _say_lines(SimpleNamespace(stdout=lines), say)  # type: ignore[arg-type]
    assert told == ["one", "two"] and next(lines, None) is None
