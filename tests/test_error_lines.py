"""Documented errors that no other test meets: each names the thing and the remedy."""

from __future__ import annotations

import socket
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from flwr.app import Context, Error, Message, RecordDict
from in_process import InProcessGrid
from torch import nn
from tuf.api.metadata import TargetFile

import deploy.newcomer
import deploy.pages.html
from client.verification import TrustError, _release
from deploy.addresses import Address
from deploy.flower_nodes import SuperNode, become
from deploy.pages.html import write_page
from deploy.picture_folder import new_folder
from deploy.processes import free_port
from deploy.proxy import OperatorGate, write_configuration
from deploy.tables import write_rows
from dsv import DsvError, Provenance, Task, chosen_parameters
from protos.encodings import ImageEncoding
from protos.settings import RunSettings
from server.app import main as server_main

pytestmark = pytest.mark.usefixtures("a_flower_task")
DIGEST = "a" * 64


def test_a_head_of_a_model_without_a_linear_layer():
    with pytest.raises(DsvError, match="has no linear layer, so it has no head; name its parameters by a pattern"):
        chosen_parameters(nn.Conv2d(1, 1, 1), "head")


def test_a_task_whose_classes_or_statistics_do_not_fit():
    with pytest.raises(DsvError, match="class names repeat"):
        Task(1, 8, ("a", "a"), (0.5,), (0.5,))
    with pytest.raises(DsvError, match=r"mean and std need one value per channel \(3\)"):
        Task(3, 8, ("a", "b"), (0.5,), (0.5,))


@pytest.mark.parametrize("change", [{"config": ["x"]}, {"config": {"x": None}}, {"versions": {"torch": 2}}])
def test_a_provenance_of_something_else_than_plain_values(change):
    [name] = change
    with pytest.raises(DsvError, match=f"a provenance's {name} must map names to plain values"):
        Provenance("convnet", DIGEST, "noise", 0, **change)


def test_images_of_another_length():
    with pytest.raises(DsvError, match="images take 4 bytes raw, got 3"):
        ImageEncoding("raw").decode(b"abc", (1, 1, 2, 2))


def test_an_export_that_would_be_a_release(support_set, tmp_path):
    with pytest.raises(DsvError, match=r"x.dsv would be a release: write it with protos.artefact.save"):
        support_set.export(tmp_path / "x.dsv")


def test_folders_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DsvError, match="cannot make the folder .*file/new: Not a directory; name another"):
        new_folder(tmp_path / "file" / "new")
    with pytest.raises(DsvError, match="cannot use the state folder .*file: .*; name another"):
        become(["/none"], tmp_path / "file" / "flower", Address("127.0.0.1", free_port()))


def test_a_port_that_is_in_use(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DsvError, match=f"127.0.0.1:{port} is in use; end what listens there, or choose another"):
            become(["/none"], tmp_path / "flower", Address("127.0.0.1", port))
    with pytest.raises(DsvError, match="cannot listen on 192.0.2.77:1.*; name an address of this machine"):
        become(["/none"], tmp_path / "flower", Address("192.0.2.77", 1))


def test_paths_that_flower_and_nginx_cannot_take(image_tree, tmp_path):
    strange = tmp_path / "it's"
    image_tree.rename(strange)
    node = SuperNode(tmp_path, Address("localhost", 1), strange, tmp_path / "state", 2)
    with pytest.raises(DsvError, match="Flower cannot take the path .*without quotes"):
        node.command()
    strange.rename(tmp_path / "plain")
    node = SuperNode(tmp_path, node.server, tmp_path / "plain", tmp_path / "state", 2, tmp_path / "none.safetensors")
    with pytest.raises(DsvError, match="none.safetensors does not exist; name this device's copy of it"):
        node.command()
    certs = tmp_path / "op$"
    certs.mkdir()
    for name in ("operator.crt", "operator.key", "authority.crt"):
        (certs / name).touch()
    gate = OperatorGate(certs, Address("127.0.0.1", 1), Address("localhost", 2))
    with pytest.raises(DsvError, match="nginx cannot take the path .*without quotes, backslashes or dollars"):
        write_configuration(gate, tmp_path / "state")
    plain = replace(gate, certificates=certs.rename(tmp_path / "op"))
    (tmp_path / "file").touch()
    with pytest.raises(DsvError, match="cannot write .*nginx.conf: .*; name another state folder"):
        write_configuration(plain, tmp_path / "file" / "proxy")


def test_a_page_that_nothing_makes_small_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(deploy.pages.html, "LIMIT_BYTES", 10)
    with pytest.raises(DsvError, match=r"the page for .*p.html would have 100 bytes; the limit is 10"):
        write_page(tmp_path / "p.html", lambda room: "x" * 100)


def test_parquet_without_its_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DsvError, match="Parquet needs pyarrow; install feddsv with its extra 'export', or write .csv"):
        write_rows(tmp_path / "rows.parquet", [{"a": 1}])


def test_a_digest_that_two_releases_begin_with(monkeypatch):
    found = [SimpleNamespace(digest=DIGEST[:-1] + end) for end in "bc"]
    monkeypatch.setattr(deploy.newcomer, "list_releases", lambda server: found)
    with pytest.raises(DsvError, match="aaa names 2 releases; give more digits"):
        deploy.newcomer._chosen(SimpleNamespace(server=None, release="aaa"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("custom", "length", "message"),
    [
        (None, 1, "does not describe release"),
        ({"images": 1, "classes": 2, "sequence": -1, "teacher_architecture": "x"}, 1, "that makes no sense"),
        (
            {"images": 1, "classes": 2, "sequence": 1, "teacher_architecture": "\x1b["},
            1,
            "that makes no sense",
        ),
        ({"images": 0, "classes": 2, "sequence": 1, "teacher_architecture": "x"}, 1, "that makes no sense"),
        ({"images": 1, "classes": 0, "sequence": 1, "teacher_architecture": "x"}, 1, "that makes no sense"),
        ({"images": 1, "classes": 2, "sequence": 1, "teacher_architecture": "x"}, 1 << 40, "above the limit of"),
    ],
)
def test_signed_metadata_of_another_software(custom, length, message):
    fields = {} if custom is None else {"custom": custom}
    with pytest.raises(TrustError, match=message):
        _release(f"{DIGEST}.dsv", TargetFile(length, {"sha256": DIGEST}, f"{DIGEST}.dsv", fields))
    with pytest.raises(TrustError, match="which is no release; update this software"):
        _release("readme.txt", TargetFile(1, {"sha256": DIGEST}, "readme.txt", {}))
    good = {"images": 1, "classes": 2, "sequence": 1, "teacher_architecture": "x"}
    for name in ("../up", DIGEST[:-1], DIGEST.upper()):
        with pytest.raises(TrustError, match="which is no release; update this software"):
            _release(f"{name}.dsv", TargetFile(1, {"sha256": name}, f"{name}.dsv", {"custom": good}))


def test_a_federation_in_which_nobody_trains(tmp_path):
    def failing(message: Message) -> Message:
        return Message(Error(0, "broken"), reply_to=message)

    settings = RunSettings(architecture="convnet:8", rounds=1, run_dir=str(tmp_path))
    config = dict(settings.to_run_config())
    with pytest.raises(DsvError, match="no client returned usable weights in any round; the log names each reason"):
        server_main(InProcessGrid([failing, failing]), Context(1, 1, {}, RecordDict(), config))
