"""What a device's owner decides: its folder, its copy of the backbone, what is trained and sent, and as what."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from in_process import federate, node
from PIL import Image

import client.app
from client.class_folders import device_classes, device_folder
from client.data import device_images
from client.device import Device
from client.local import evaluate_locally, train_locally
from dsv import DsvError
from protos import allowlist
from protos.exchange import as_record, exchanged_tensors, starting_model
from protos.settings import RunSettings
from server.events import RoundDone, RoundEvaluated

pytestmark = pytest.mark.usefixtures("a_flower_task")

SETTINGS = RunSettings(
    data="imagefolder", classes="blue,red", image_size_px=8, architecture="convnet:4", local_epochs=2, rounds=1
)
HEAD = replace(SETTINGS, architecture="resnet18:4:batch", trainable="head")


def test_a_device_trains_on_its_own_folder_and_may_lack_a_class(image_tree, tmp_path):
    shutil.copytree(image_tree / "train" / "red", tmp_path / "other" / "red")
    clients = [node(SETTINGS, **{"data-root": str(root)}) for root in (image_tree, tmp_path / "other")]
    events, _ = federate(SETTINGS, clients)
    assert [(e.averaged, e.refused) for e in events if isinstance(e, RoundDone)] == [(2, 0)]


def test_a_device_reads_its_folder_with_and_without_train(image_tree):
    task = SETTINGS.task()
    assert len(device_images(str(image_tree), task)) == len(device_images(str(image_tree / "train"), task)) == 24
    assert device_images(str(image_tree), task).labels.tolist() == [0] * 12 + [1] * 12


def test_a_class_may_be_called_train(image_tree):
    root = image_tree / "test"
    (root / "red").rename(root / "train")
    assert device_folder(root) == root and device_classes(root) == ("blue", "train")
    assert device_images(str(root), replace(SETTINGS, classes="blue,train").task()).labels.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("path", ["../Pictures", "{}/Pictures", ".", "..", "red/../../../Pictures"])
def test_a_runs_list_of_classes_leads_to_no_folder_outside_the_devices(image_tree, tmp_path, path):
    """The list comes from whoever runs the federation."""
    shutil.copytree(image_tree / "train" / "red", image_tree / "Pictures")
    for number, root in enumerate((image_tree, image_tree / "train")):  # with and without train/
        asked = replace(SETTINGS, classes=f"blue,red,{path.format(image_tree)}").task()
        split = device_images(str(root), asked)
        assert split.labels.tolist() == [0] * 12 + [1] * 12, number
        assert all((image_tree / "train").resolve() in file.resolve().parents for file in split.paths)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "of this device does not exist"),
        (lambda root: (root / "train" / "green").mkdir(), "green is not one of the federation's classes .blue, red."),
        (
            lambda root: [f.unlink() for f in root.glob("train/*/*.png")],
            "has no class folder with an image in it; put images into",
        ),
    ],
)
def test_a_folder_that_does_not_fit_is_named(image_tree, spoil, message):
    spoil(image_tree)
    with pytest.raises(DsvError, match=message):
        device_images(str(image_tree), SETTINGS.task())


@pytest.mark.parametrize("place", ["train/red", "train", "train/red/deep"])
def test_a_folder_that_cannot_be_read_is_never_passed_over(image_tree, closed, place):
    (image_tree / "train" / "red" / "deep").mkdir()
    closed(image_tree / place)
    for reading in (lambda: device_images(str(image_tree), SETTINGS.task()), lambda: device_folder(image_tree)):
        with pytest.raises(DsvError, match=f"cannot read folder .*{place}: Permission denied; let this user read it"):
            reading()


def test_images_kept_from_training_test_every_round(image_tree):
    settings = replace(SETTINGS, validation_share=0.25)
    events, _ = federate(settings, [node(settings, **{"data-root": str(image_tree)})] * 2, rounds=2)
    found = [e for e in events if isinstance(e, RoundEvaluated)]
    assert [(e.round, e.evaluated, e.refused) for e in found] == [(1, 2, 0), (2, 2, 0)]
    assert all(0 <= e.accuracy <= 1 for e in found)
    device = Device(settings, data_root=str(image_tree))
    model = starting_model(settings)
    assert train_locally(model, device, round_number=1)[0] == 18 and evaluate_locally(model, device)[0] == 6
    with pytest.raises(DsvError, match="nothing to evaluate on"):
        evaluate_locally(model, replace(device, settings=SETTINGS))


def test_images_kept_from_training_are_not_trained_on(image_tree, monkeypatch):
    settings, seen = replace(SETTINGS, validation_share=0.25), {}
    monkeypatch.setattr("client.local.train", lambda model, images, *rest, **named: seen.update(train=images) or 0.5)
    monkeypatch.setattr("client.local.accuracy", lambda model, images, *rest: seen.update(kept=images) or 0.5)
    device, model = Device(settings, data_root=str(image_tree)), starting_model(settings)
    train_locally(model, device, round_number=1)
    evaluate_locally(model, device)
    split = device_images(str(image_tree), settings.task())
    both = [image.numpy().tobytes() for image in (*seen["train"], *seen["kept"])]
    assert sorted(both) == sorted(image.numpy().tobytes() for image in split.images())
    assert len(seen["train"]) == 18 and len(seen["kept"]) == 6


def test_a_device_looks_its_reply_over_before_it_leaves(image_tree, monkeypatch):
    def refuse(reply: RecordDict, layout: object) -> None:
        raise allowlist.RefusedError("array 'pixels' is not one of the model's")

    monkeypatch.setattr(client.app.allowlist, "check_reply", refuse)
    model = starting_model(SETTINGS)
    sent = RecordDict({"arrays": as_record(exchanged_tensors(model, "*")), "config": ConfigRecord({"server-round": 1})})
    with pytest.raises(allowlist.RefusedError, match="array 'pixels'"):
        client.app._train(sent, Context(1, 1, {"data-root": str(image_tree)}, RecordDict(), SETTINGS.to_run_config()))


def test_an_evaluation_may_tell_the_accuracy_alone():
    from flwr.app import ArrayRecord, MetricRecord

    good = {"num-examples": 3, "accuracy": 0.5}
    allowlist.check_evaluation(RecordDict({"metrics": MetricRecord(good)}))
    for change in ({"accuracy": 1.5}, {"accuracy": 1}, {"train-loss": 0.1}, {"num-examples": 0}):
        with pytest.raises(allowlist.RefusedError):
            allowlist.check_evaluation(RecordDict({"metrics": MetricRecord({**good, **change})}))
    with pytest.raises(allowlist.RefusedError, match="record 'arrays'"):
        arrays = ArrayRecord([numpy.zeros(3)])
        allowlist.check_evaluation(RecordDict({"metrics": MetricRecord(good), "arrays": arrays}))


def test_a_round_asks_a_share_of_the_clients(image_tree):
    settings = replace(SETTINGS, fraction_train=0.5)
    events, _ = federate(settings, [node(settings, **{"data-root": str(image_tree)})] * 4)
    assert [e.averaged for e in events if isinstance(e, RoundDone)] == [2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fraction_train": 0.0}, "fraction-train must lie above 0"),
        ({"validation_share": 0.51}, "validation-share from 0 to 0.5"),
        ({"min_available_nodes": 0}, "min-available-nodes must be at least 1"),
        ({"round_timeout_s": 0.0}, "round-timeout-s must be positive"),
        ({"upload_dtype": "int8"}, "upload-dtype 'int8' is unknown"),
    ],
)
def test_bad_settings_of_devices(change, message):
    with pytest.raises(DsvError, match=message):
        RunSettings(**change)


def test_a_node_config_of_another_kind():
    context = Context(1, 1, {"data-root": 3}, RecordDict(), SETTINGS.to_run_config())
    with pytest.raises(DsvError, match="must be paths, in quotes"):
        Device.of(context)


def test_a_device_needs_nothing_of_a_server(image_tree, tmp_path):
    """With everything blocked that extras other than ``client`` install, a device still trains."""
    script = """
import sys
for name in ("ray", "flwr_datasets", "datasets", "sklearn", "grpc_health", "tomli_w", "torchvision", "server"):
    sys.modules[name] = None
from client.device import Device
from client.local import train_locally
from protos.exchange import starting_model
from protos.settings import RunSettings
settings = RunSettings(data="imagefolder", classes="blue,red", image_size_px=8, architecture="convnet:4")
device = Device(settings, data_root=sys.argv[1])
print(train_locally(starting_model(settings), device, round_number=1)[0])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(image_tree)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "24", done.stderr


def test_a_picture_that_is_none_is_named_on_the_device_alone(image_tree):
    Image.new("RGB", (4, 4)).save(image_tree / "train" / "red" / "0.png")
    (image_tree / "train" / "red" / "1.png").write_bytes(b"no picture")
    with pytest.raises(RuntimeError, match="its own log says why") as caught:
        federated = node(SETTINGS, **{"data-root": str(image_tree)})
        content = RecordDict(
            {
                "arrays": as_record(exchanged_tensors(starting_model(SETTINGS), "*")),
                "config": ConfigRecord({"server-round": 1}),
            }
        )
        federated(Message(content, dst_node_id=1, message_type="train"))
    assert "1.png" not in str(caught.value)
