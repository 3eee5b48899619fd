"""What a device's owner decides: its folder, its copy of the backbone, what is trained and sent, and as what."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from in_process import InProcessGrid
from PIL import Image
from safetensors.torch import save_file

import client.app
from client.class_folders import device_classes, device_folder
from client.data import device_images
from client.device import Device
from client.local import evaluate_locally, train_locally
from dsv import DsvError, ModelSpec, build_model, chosen_parameters, start_training, train_only
from protos import allowlist
from protos.exchange import as_record, exchanged_tensors, load_record, starting_model
from protos.settings import RunSettings
from server.events import BytesMoved, RoundDone, RoundEvaluated
from server.strategy import GuardedFedAvg, Participation

pytestmark = pytest.mark.usefixtures("a_flower_task")

SETTINGS = RunSettings(
    data="imagefolder", classes="blue,red", image_size_px=8, architecture="convnet:4", local_epochs=2, rounds=1
)
HEAD = replace(SETTINGS, architecture="resnet18:4:batch", trainable="head")


def node(settings, **node_config):
    context = Context(1, 1, node_config, RecordDict(), settings.to_run_config())
    return lambda message: client.app.app(message, context)


def federate(settings, clients, rounds=1):
    """Events and the global model of a federation in this process."""
    events, model = [], starting_model(settings)
    strategy = GuardedFedAvg(
        as_record(exchanged_tensors(model, settings.trainable)),
        rounds=rounds,
        participation=Participation(
            settings.fraction_train,
            settings.min_train_nodes,
            settings.min_available_nodes,
            settings.validation_share > 0,
        ),
        upload_dtype=settings.upload_dtype,
        on_event=events.append,
        on_round=lambda number, arrays: load_record(model, arrays),
    )
    initial = as_record(exchanged_tensors(model, settings.trainable))
    strategy.start(InProcessGrid(clients), initial, num_rounds=rounds)
    return events, model


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


def test_the_head_alone_is_trained_and_sent_and_the_rest_stays(image_tree):
    clients = [node(HEAD, **{"data-root": str(image_tree)})] * 2
    before = starting_model(HEAD).state_dict()
    events, model = federate(HEAD, clients)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    head_bytes = 4 * sum(p.numel() for p in chosen_parameters(model, "head").values())
    moved = [e for e in events if isinstance(e, BytesMoved) and e.direction == "up"]
    ups = [e.bytes for e in moved if e.purpose == "weights"]
    assert len(ups) == 2 and all(head_bytes < size < head_bytes + 1000 for size in ups)


def test_local_training_leaves_frozen_weights_and_their_statistics_alone(image_tree):
    device = Device(HEAD, data_root=str(image_tree))
    model = starting_model(HEAD)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train_locally(model, device, round_number=1)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_only_frozen_batch_norms_stay_in_eval_mode():
    model = build_model(ModelSpec("resnet18", 3, 8, 2, 4, "batch"), seed=0)
    start_training(model)
    assert all(module.training for module in model.modules())
    train_only(model, "features.1.*, head")
    start_training(model)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [m.training for m in norms] == [True] + [False] * (len(norms) - 1)


def test_stationarity_speaks_of_what_was_trained():
    assert HEAD.synthesis(1).stationary_parameters == "head"
    assert replace(HEAD, stationary_parameters="features.*").synthesis(1).stationary_parameters == "features.*"


@pytest.fixture
def backbone(tmp_path):
    """Weights of a model with another number of classes."""
    path = tmp_path / "backbone.safetensors"
    save_file(build_model(ModelSpec("resnet18", 3, 8, 7, 4, "batch"), seed=5).state_dict(), path)
    return path


def test_training_starts_from_the_backbone_that_both_sides_hold(backbone):
    digest = hashlib.sha256(backbone.read_bytes()).hexdigest()
    server = starting_model(replace(HEAD, backbone=str(backbone), backbone_sha256=digest))
    device = starting_model(replace(HEAD, backbone="not here", backbone_sha256=digest), str(backbone))
    for name, tensor in server.state_dict().items():
        assert torch.equal(tensor, device.state_dict()[name])
    without = starting_model(HEAD).features[0].weight
    assert not torch.equal(server.features[0].weight, without)
    same = starting_model(HEAD, str(backbone)).features[0].weight
    assert torch.equal(same, without), "a run without a backbone has none on a device either, whatever it holds"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone_sha256": "0" * 64}, "another file than the federation's"),
        ({"backbone": "/nowhere"}, "cannot read backbone /nowhere"),
        ({"architecture": "convnet:99", "trainable": "*"}, "holds no tensor of this model; name weights of its"),
        ({"architecture": "resnet18:8:batch"}, "lacks .*or it has another shape there"),
        ({"trainable": "*.nothing"}, "no parameter of the model fits"),
    ],
)
def test_a_backbone_that_does_not_fit(backbone, change, message):
    with pytest.raises(DsvError, match=message):
        starting_model(replace(HEAD, **{"backbone": str(backbone), **change}))


def test_a_truncated_backbone(backbone):
    backbone.write_bytes(backbone.read_bytes()[:-9])
    with pytest.raises(DsvError, match="no safetensors file, or it is truncated"):
        starting_model(replace(HEAD, backbone=str(backbone)))


def test_half_precision_halves_the_upload_and_is_averaged_in_full(image_tree):
    half = replace(SETTINGS, upload_dtype="float16")
    roots = {"data-root": str(image_tree)}
    sizes = {}
    for settings in (SETTINGS, half):
        events, model = federate(settings, [node(settings, **roots)] * 2)
        assert all(p.dtype == torch.float32 for p in model.parameters())
        assert [e.averaged for e in events if isinstance(e, RoundDone)] == [2]
        sizes[settings.upload_dtype] = max(e.bytes for e in events if isinstance(e, BytesMoved) and e.direction == "up")
    content = 4 * sum(t.numel() for t in starting_model(SETTINGS).state_dict().values())
    assert sizes["float32"] - sizes["float16"] > 0.45 * content


def test_weights_beyond_half_precision_are_refused_not_averaged():
    record = as_record({"w": torch.full((2,), 1e6)}, "float16")
    with pytest.raises(allowlist.RefusedError, match="NaN or infinity"):
        allowlist._check_arrays(record, allowlist.layout_of(record))


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
