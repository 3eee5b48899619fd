import dataclasses
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file

from dsv import KNOWN_TASKS, NORMS, DsvError, ModelSpec, Task, build_model
from protos.checkpoint import METADATA_KEY, Checkpoint, load_checkpoint, save_checkpoint

COLOUR = KNOWN_TASKS["cifar10"]


@pytest.mark.parametrize("architecture", ["convnet:8", "resnet18:8", "torchvision.resnet18", "googlenet"])
@pytest.mark.parametrize("data", ["cifar10", "mnist"])
def test_images_to_logits(architecture, data):
    task = KNOWN_TASKS[data]
    model = build_model(ModelSpec.parse(architecture, task), seed=0).eval()
    assert model(torch.zeros(2, *task.image_shape)).shape == (2, task.classes)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("architecture", ["convnet", "resnet18"])
def test_every_norm(architecture, norm):
    model = build_model(ModelSpec.parse(f"{architecture}:8:{norm}", COLOUR), seed=0)
    assert torch.isfinite(model(torch.randn(4, 3, 32, 32))).all()


def test_the_convnet_of_dataset_condensation_has_its_published_size():
    count = sum(p.numel() for p in build_model(ModelSpec.parse("convnet", COLOUR), seed=0).parameters())
    assert count == 320_010


def test_threads_that_build_at_once_do_not_mix_their_seeds():
    spec = ModelSpec.parse("convnet:64", KNOWN_TASKS["digits"])
    alone = [build_model(spec, seed=seed).classifier.weight for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            together = pool.map(lambda seed: build_model(spec, seed=seed).classifier.weight, range(8))
            assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_the_seed_alone_decides_and_the_global_state_is_left():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, second, third = (build_model(ModelSpec.parse("convnet:4", COLOUR), seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(first.features[0].weight, third.features[0].weight)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nosuchnet", "unknown architecture 'nosuchnet'"),
        ("convnet:8:fancy", "unknown norm 'fancy'"),
        ("convnet:wide", "must have the form name"),
        ("convnet:8:batch:max:x", "must have the form name"),
        ("convnet:8:batch:x", "unknown pooling .x. of convnet"),
        ("resnet18:8:batch:max", "unknown pooling .max. of resnet18"),
        ("mobilenet_v3_small:32", "takes no width"),
        ("vit_b_16:0:batch", "takes no width and no norm"),
        ("maxvit_t", "maxvit_t does not take images of 32 px"),
    ],
)
def test_errors_name_the_thing(text, message):
    with pytest.raises(DsvError, match=message):
        build_model(ModelSpec.parse(text, COLOUR), seed=0)


@pytest.mark.parametrize("text", ["resnet18:4", "resnet18:8:instance", "vgg11", "vit_b_16"])
def test_a_network_that_is_too_deep_for_the_images_is_found_before_anything_is_trained(text, task):
    with pytest.raises(DsvError, match=f"^{text.split(':')[0]} does not take images of 8 px .*; use another"):
        build_model(ModelSpec.parse(text, task), seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": 5}, "architecture, norm and pooling must be text"),
        ({"norm": ["batch"]}, "architecture, norm and pooling must be text"),
        ({"width": -5}, "width must be a whole number from 0 to 4096, got -5"),
        ({"width": 1e3}, "width must be a whole number"),
        ({"width": 10**9}, "width must be a whole number"),
        ({"classes": -1}, "classes must be a whole number"),
        ({"classes": True}, "classes must be a whole number"),
        ({"image_size_px": 0}, "image_size_px must be a whole number"),
        ({"channels": 2}, "channels must be 1 .grey. or 3 .colour., got 2"),
        ({"channels": True}, "channels must be 1 .grey. or 3 .colour., got True"),
    ],
)
def test_specs_out_of_files_that_strangers_wrote(change, message, tmp_path):
    spec = {"architecture": "convnet", "channels": 1, "image_size_px": 8, "classes": 10, **change}
    with pytest.raises(DsvError, match=message):
        ModelSpec(**spec)
    described = {"spec": spec, "task": dataclasses.asdict(KNOWN_TASKS["digits"])}
    save_file({"x": torch.zeros(1)}, tmp_path / "m.safetensors", {METADATA_KEY: json.dumps(described)})
    with pytest.raises(DsvError, match=message):
        load_checkpoint(tmp_path / "m.safetensors")


def test_why_a_model_cannot_be_read(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    loop, folder = tmp_path / "loop", tmp_path
    for path, reason in ((folder, "Is a directory"), ("none", "No such file"), (loop, "Too many levels")):
        with pytest.raises(DsvError, match=rf"cannot read model {path}: {reason}.*; name a \.safetensors file"):
            load_checkpoint(path)
    save_file({"x": torch.zeros(1)}, tmp_path / "deep.safetensors", {METADATA_KEY: "[" * 100_000})
    with pytest.raises(DsvError, match=r"deep.safetensors is not a model written by dsv"):
        load_checkpoint(tmp_path / "deep.safetensors")


@pytest.mark.parametrize(
    ("spec", "more", "message"),
    [
        ({"classes": 5}, {}, "is built for other images or classes than its task's"),
        ({"image_size_px": 16}, {}, "is built for other images or classes than its task's"),
        ({"channels": 3}, {}, "is built for other images or classes than its task's"),
        ({"width": 64}, {}, "do not fit its architecture convnet"),
        ({}, {"examples": -5}, "is not a model written by dsv"),
        ({}, {"examples": "7"}, "is not a model written by dsv"),
        ({}, {"examples": True}, "is not a model written by dsv"),
    ],
)
def test_checkpoints_that_contradict_themselves(spec, more, message, teacher, tmp_path):
    described = {"spec": dataclasses.asdict(teacher.spec) | spec, "task": dataclasses.asdict(teacher.task), **more}
    save_file(teacher.model.state_dict(), tmp_path / "m.safetensors", {METADATA_KEY: json.dumps(described)})
    with pytest.raises(DsvError, match=message):
        load_checkpoint(tmp_path / "m.safetensors")


def test_a_checkpoint_of_a_model_that_asks_its_weights_while_it_is_built(tmp_path):
    task = KNOWN_TASKS["cifar10"]
    spec = ModelSpec.parse("regnet_x_400mf", task)
    save_checkpoint(tmp_path / "m.safetensors", Checkpoint(build_model(spec, seed=0), spec, task))
    assert load_checkpoint(tmp_path / "m.safetensors").spec == spec


@pytest.mark.parametrize(
    ("architecture", "width"),
    [("convnet", 4096), ("torchvision.resnet50", 0), ("vit_b_16", 0), ("googlenet", 0)],
)
def test_a_small_file_of_a_huge_model_takes_no_memory_and_no_time(tmp_path, architecture, width):
    task = dataclasses.asdict(Task(3, 4096, tuple(map(str, range(65_535))), (0.5,) * 3, (0.5,) * 3))
    spec = {"architecture": architecture, "channels": 3, "image_size_px": 4096, "classes": 65_535, "width": width}
    described = json.dumps({"spec": spec, "task": task})
    save_file({"x": torch.zeros(1)}, tmp_path / "m.safetensors", {METADATA_KEY: described})
    began = time.monotonic()
    with pytest.raises(DsvError, match=f"do not fit its architecture {architecture}"):
        load_checkpoint(tmp_path / "m.safetensors")
    assert time.monotonic() - began < 20


def test_too_small_an_image():
    task = Task(1, 4, ("a", "b"), (0.5,), (0.5,))
    with pytest.raises(DsvError, match="4 px is below its minimum of 8"):
        build_model(ModelSpec.parse("convnet", task), seed=0)


def test_other_generators_are_left(monkeypatch):
    seeded = []
    monkeypatch.setattr("torch.cuda.manual_seed_all", seeded.append)  # what torch.manual_seed calls
    build_model(ModelSpec.parse("convnet:4", KNOWN_TASKS["digits"]), seed=3)
    assert not seeded


@pytest.mark.parametrize("text", ["convnet", "resnet18:16", "convnet:64:batch", "convnet:0:batch"])
def test_a_spec_prints_as_it_is_read(text):
    assert str(ModelSpec.parse(text, COLOUR)) == text
