"""What ``import dsv`` gives in a notebook: look, train, export; with torch and numpy alone."""

import base64
import csv
import dataclasses
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import dsv
from dsv.png import png_bytes
from protos import artefact

TUTORIAL = Path(__file__).parent.parent / "docs" / "tutorial.ipynb"


@pytest.mark.parametrize("shape", [(1, 5, 9), (3, 4, 2), (1, 1, 1)])
def test_png_files_are_right(shape):
    image = torch.randint(256, shape, dtype=torch.uint8)
    read = Image.open(io.BytesIO(png_bytes(image)))
    read.load()
    assert read.mode == ("L" if shape[0] == 1 else "RGB")
    pixels = torch.frombuffer(bytearray(read.tobytes()), dtype=torch.uint8)
    assert torch.equal(pixels.reshape(*shape[1:], shape[0]).permute(2, 0, 1), image)


def test_show_is_a_picture_with_names_and_multipliers(support_set):
    picture = support_set.show()
    drawn = Image.open(io.BytesIO(picture._repr_png_()))
    assert drawn.width > 2 * 66 + 2 and drawn.height == 10 * 66 + 2
    table = picture._repr_html_()
    assert table.count("<img") == 20 and table.count("<th") == 10
    first = support_set.multipliers[support_set.labels == 0].max()
    assert table.index(f"λ {float(first):.2f}") < table.index("<th", 20)
    encoded = re.search(r"base64,([^\"]*)", table)[1]
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (8, 8)
    assert repr(picture) == "20 Deep Support Vectors of 10 classes; λ is each one's multiplier"


def test_show_of_a_few(support_set, tmp_path):
    picture = support_set.show(per_class=1)
    assert "(shown: 10, of 10 classes)" in repr(picture)
    picture.save(tmp_path / "a.png")
    width, height = Image.open(tmp_path / "a.png").size
    assert 68 < width < 2 * 66 and height == 10 * 66 + 2
    with pytest.raises(dsv.DsvError, match="at least one image"):
        support_set.show(per_class=0)


def test_class_names_are_text_in_the_picture(support_set):
    names = ("<script>alert(1)</script>", '"><b>', *"23456789")
    named = dataclasses.replace(support_set, task=dataclasses.replace(support_set.task, class_names=names))
    table = named.show()._repr_html_()
    assert "<script" not in table and "<b>" not in table and "&lt;script&gt;" in table


class Tiny(nn.Module):
    """No architecture of ours."""

    def __init__(self, classes=10):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))

    def forward(self, images):
        return self.layers(images)


def test_six_lines_with_a_module_of_ones_own(task, tmp_path):
    torch.manual_seed(0)
    teacher = Tiny()
    found = dsv.synthesize(teacher, task, dsv.SynthesisConfig(images_per_class=1, iterations=5))
    found = found.with_views(teacher.train(), dsv.ViewPlan(30))
    newcomer = found.train(Tiny(), config=dsv.newcomer_training(20))
    assert found.label_kinds[-1] == "view" and not teacher.training
    assert not newcomer.training and found.provenance.teacher_architecture == "Tiny"
    assert found.export(tmp_path / "out") == 10
    digest = artefact.save(found, tmp_path / "out.dsv")
    assert artefact.digest((tmp_path / "out.dsv").read_bytes()) == digest


def test_training_learns_the_set_and_is_the_same_for_a_seed(support_set):
    accuracies = []
    for _ in range(2):
        torch.manual_seed(1)
        model = support_set.train(Tiny(), labels="hard", seed=3)
        accuracies.append(dsv.accuracy(model, support_set.images, support_set.labels, support_set.task))
    assert accuracies[0] == accuracies[1] > 0.5


def test_a_newcomer_that_does_not_fit(support_set):
    with pytest.raises(dsv.DsvError, match="7 outputs but the task has 10 classes"):
        support_set.train(Tiny(7))
    with pytest.raises(dsv.DsvError, match="does not take images of 1 x 8 x 8"):
        support_set.train(nn.Conv2d(3, 10, 3))
    with pytest.raises(dsv.DsvError, match=r"not give logits of shape \(images, classes\)"):
        support_set.train(nn.Conv2d(1, 10, 3))
    with pytest.raises(dsv.DsvError, match="is torch.float64, not float32; convert it"):
        support_set.train(Tiny().double())


def test_a_teacher_that_does_not_fit_labels_nothing(support_set):
    with pytest.raises(dsv.DsvError, match="7 outputs but the task has 10 classes"):
        support_set.with_views(Tiny(7), dsv.ViewPlan(30))
    assert support_set.views is None


def test_views_are_the_usual_ones_where_some_are(support_set):
    assert support_set.with_views(Tiny()).views.plan == dsv.usual_views(support_set.task)
    large = dataclasses.replace(support_set.task, image_size_px=96)
    images = torch.zeros(len(support_set), 1, 96, 96, dtype=torch.uint8)
    with pytest.raises(dsv.DsvError, match="no number of views is usual for 96 px"):
        dataclasses.replace(support_set, task=large, images=images).with_views(Tiny())


class _Asserting(nn.Linear):
    """As torchvision's vision transformers check their images."""

    def forward(self, images):
        torch._assert(images.shape[-1] == 224, "wrong height")


def test_a_newcomer_that_asserts_its_size(support_set):
    with pytest.raises(dsv.DsvError, match="does not take images of 1 x 8 x 8"):
        support_set.train(_Asserting(64, 10))


def test_export_and_its_table(support_set, tmp_path):
    support_set.export(tmp_path / "out")
    with (tmp_path / "out" / "images.csv").open(newline="") as opened:
        lines = list(csv.DictReader(opened))
    assert len(lines) == 20 and list(lines[0])[:3] == ["file", "class", "multiplier"]
    own = torch.nonzero(support_set.labels == 0).flatten()
    strongest = own[support_set.multipliers[own].argmax()]
    assert float(lines[0]["multiplier"]) == pytest.approx(float(support_set.multipliers[strongest]), rel=1e-4)
    task = support_set.task
    assert torch.equal(dsv.read_picture(tmp_path / "out" / lines[0]["file"], task), support_set.images[strongest])


def test_export_where_it_cannot(support_set, tmp_path):
    (tmp_path / "file").write_text("x")
    for path, message in (
        (tmp_path, "not an empty folder"),
        (tmp_path / "file", "not an empty folder"),
        (tmp_path / "file" / "below", "cannot write images"),
        (tmp_path / "a.dsv", "protos.artefact.save"),
    ):
        with pytest.raises(dsv.DsvError, match=message):
            support_set.export(path)
    with pytest.raises(dsv.DsvError, match="cannot write release"):
        artefact.save(support_set, tmp_path / "file" / "a.dsv")


def test_it_needs_torch_and_numpy_alone():
    code = (
        "import sys; sys.modules['PIL'] = None; sys.modules['torchvision'] = None\n"
        "import dsv, torch\n"
        "task = dsv.Task(1, 4, ('a', 'b'), (0.5,), (0.5,))\n"
        "model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))\n"
        "found = dsv.synthesize(model, task, dsv.SynthesisConfig(1, iterations=1))\n"
        "assert found.show()._repr_png_()\n"
        "assert not [m for m in ('flwr', 'grpc', 'safetensors', 'protos') if m in sys.modules]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_the_tutorial_runs_and_shows(tmp_path):
    notebook = pytest.importorskip("nbformat", reason="notebooks need nbclient and ipykernel").read(TUTORIAL, 4)
    kept = TUTORIAL.read_text(encoding="utf-8")
    assert len(kept) < 500_000 and "/home/" not in kept and "/tmp/" not in kept
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code), "commit it with its outputs: python -m benchmarks.tutorial"

    from benchmarks.tutorial import executed

    again = [cell for cell in executed(TUTORIAL).cells if cell.cell_type == "code"]
    [shown] = [cell for cell in again if cell.source == "support_set.show()"]
    assert {"image/png", "text/html"} <= set(shown.outputs[0].data)
    newcomer = next(cell for cell in again if "support_set.train" in cell.source).outputs[0].data["text/plain"]
    assert float(re.search(r"([\d.]+)%", newcomer)[1]) > 85


def test_a_set_prints_as_a_line(support_set, teacher):
    assert repr(support_set) == "<SupportSet: 20 images, 1 x 8 x 8, of 10 classes>"
    views = support_set.with_views(teacher.model, dsv.ViewPlan(20))
    assert repr(views) == "<SupportSet: 20 images, 1 x 8 x 8, of 10 classes, 20 labelled views>"


def test_images_per_class_are_of_the_classes_that_there_are(support_set):
    some = dataclasses.replace(support_set, labels=support_set.labels % 4)
    assert some.images_per_class == 5
