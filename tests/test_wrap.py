"""Weights from elsewhere become a teacher: ``dsv wrap``."""

import pytest
import torch
from command_line import done, refused
from safetensors.torch import save_file

from dsv import ModelSpec, build_model, predict
from protos.checkpoint import load_checkpoint


@pytest.fixture
def plain(tmp_path, task):
    """A state dict as training code leaves it, the class names beside it, and the command's arguments."""
    model = build_model(ModelSpec.parse("convnet:8:batch", task), seed=3)
    tensors = {n: t.clone() for n, t in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    save_file(tensors, tmp_path / "plain.safetensors")
    (tmp_path / "classes.txt").write_text("\n".join(["crane", "crane", *"abcdefgh"]) + "\n")
    arguments = {
        "--weights": tmp_path / "plain.safetensors",
        "--architecture": "convnet:8:batch",
        "--class-names": tmp_path / "classes.txt",
        "--image-size": 8,
        "--mean": "0.3",
        "--std": "0.4",
        "--out": tmp_path / "teacher.safetensors",
    }
    return model, arguments


def command(arguments):
    return ["wrap", *(str(part) for pair in arguments.items() for part in pair)]


def test_a_wrapped_model_answers_as_before(plain):
    model, arguments = plain
    assert "convnet:8:batch, 10 classes, images of 8 px" in done(*command(arguments))
    loaded = load_checkpoint(arguments["--out"])
    assert loaded.task.class_names[:3] == ("crane_0", "crane_1", "a") and loaded.task.std == (0.4,)
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(predict(loaded.model, images, loaded.task), predict(model, images, loaded.task))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("--weights", "nowhere.safetensors", "cannot read nowhere.safetensors as safetensors"),
        ("--weights", __file__, "as safetensors"),
        ("--architecture", "convnet:16:batch", "holds no weights of convnet:16:batch"),
        ("--architecture", "resnet18:16", "name the architecture that it was trained as"),
        ("--architecture", "brain", "brain"),
        ("--class-names", "nowhere.txt", "cannot read nowhere.txt"),
        ("--class-names", "", "cannot read"),
        ("--mean", "a", "mean must be numbers separated by commas, one a channel, got 'a'"),
        ("--std", "0.1,0.2", "std"),
    ],
)
def test_what_does_not_fit(plain, name, value, message):
    arguments = plain[1] | {name: value}
    refused(message, *command(arguments))
    assert not arguments["--out"].exists()
