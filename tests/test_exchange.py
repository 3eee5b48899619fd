"""A part of the model trained and sent, from a backbone that both sides hold, and as what."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from in_process import federate, node
from safetensors.torch import save_file

from client.device import Device
from client.local import train_locally
from dsv import DsvError, ModelSpec, build_model, chosen_parameters, start_training, train_only
from protos import allowlist
from protos.exchange import as_record, starting_model
from protos.settings import RunSettings
from server.events import BytesMoved, RoundDone

pytestmark = pytest.mark.usefixtures("a_flower_task")

SETTINGS = RunSettings(
    data="imagefolder", classes="blue,red", image_size_px=8, architecture="convnet:4", local_epochs=2, rounds=1
)
HEAD = replace(SETTINGS, architecture="resnet18:4:batch", trainable="head")


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


def test_a_batch_norm_without_weights_goes_with_the_layer_before_it():
    layers = [torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4, affine=False)]
    layers += [torch.nn.Conv2d(4, 4, 1), torch.nn.BatchNorm2d(4, affine=False)]
    model = torch.nn.Sequential(*layers)
    train_only(model, "2.*")
    start_training(model)
    assert [layer.training for layer in model] == [True, False, True, True]
    first = torch.nn.Sequential(torch.nn.BatchNorm2d(3, affine=False), *layers)  # there is none before it
    start_training(first)
    assert [layer.training for layer in first] == [False, True, False, True, True]


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
