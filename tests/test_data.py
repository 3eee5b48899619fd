"""Opening private images: every fault of a data root is one line that names the thing and the remedy."""

import json
from types import SimpleNamespace

import pytest
import torch

from client.class_folders import folder_classes
from client.data import check_images, open_split
from client.partition import partition_of, write_partition
from dsv import KNOWN_TASKS, DsvError, Task
from protos.settings import RunSettings

TWO = Task(3, 8, ("blue", "red"), (0.5,) * 3, (0.5,) * 3)


def ignore(done, total):
    pass


def test_digits_are_the_1797_of_scikit_learn():
    from sklearn.datasets import load_digits

    train, test = (open_split("digits", "", split, KNOWN_TASKS["digits"]) for split in ("train", "test"))
    assert len(train) + len(test) == 1797 and len(test) == 359
    ours = torch.cat([train.images(), test.images()]).double().sum()
    assert float(ours) == pytest.approx(load_digits().images.sum() / 16 * 255, rel=1e-2)
    assert (
        torch.cat([train.labels, test.labels]).bincount().tolist()
        == torch.tensor(load_digits().target).bincount().tolist()
    )


def test_a_data_set_that_nobody_knows():
    with pytest.raises(DsvError, match="data 'cifar' is unknown; choose one of: .*cifar10.*imagefolder"):
        open_split("cifar", "", "train", KNOWN_TASKS["digits"])


def test_an_image_folder(image_tree):
    assert folder_classes(str(image_tree)) == ("blue", "red")
    split = open_split("imagefolder", str(image_tree), "train", TWO)
    assert split.labels.tolist() == [0] * 12 + [1] * 12
    images = split.load([0, 12])
    assert images.shape == (2, 3, 8, 8) and images.dtype == torch.uint8
    assert images[0, 2].float().mean() > 150 > images[0, 0].float().mean()
    assert split.stored_bytes([0]) == (image_tree / "train" / "blue" / "0.png").stat().st_size
    grey = open_split("imagefolder", str(image_tree), "test", Task(1, 8, ("blue", "red"), (0.5,), (0.5,)))
    assert grey.images().shape == (8, 1, 8, 8)


def fails(message, **arguments):
    given = {"data": "imagefolder", "root": "", "split": "train", "task": TWO, **arguments}
    with pytest.raises(DsvError, match=message):
        check_images(open_split(given["data"], str(given["root"]), given["split"], given["task"]), ignore)


def test_no_root_named():
    fails("needs the option data-root")


def test_a_missing_root(tmp_path):
    fails("none does not exist; name a folder with train/ and test/", root=tmp_path / "none")


def test_an_empty_root(tmp_path):
    fails("has no train/ folder", root=tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DsvError, match="holds 0 class folders"):
        folder_classes(str(tmp_path))


def test_a_class_without_images(image_tree):
    for path in (image_tree / "train" / "red").iterdir():
        path.unlink()
    fails("class folder .*train/red holds no image", root=image_tree)


def test_classes_may_be_listed_with_spaces(image_tree):
    task = RunSettings(data="imagefolder", classes="blue, red").task()
    assert task.class_names == ("blue", "red") and len(open_split("imagefolder", str(image_tree), "train", task)) == 24
    assert RunSettings(data="imagefolder", classes="polar bear,dog").task().class_names == ("polar bear", "dog")


@pytest.mark.parametrize("name", ["a,b", " red", "red "])
def test_a_class_folder_whose_name_no_list_can_hold(image_tree, name):
    (image_tree / "train" / name).mkdir()
    with pytest.raises(DsvError, match="has a class folder with a comma in its name, or a space at an end; rename it"):
        folder_classes(str(image_tree))


def test_classes_that_are_not_the_tasks(image_tree):
    (image_tree / "test" / "green").mkdir()
    fails(r"missing: \[\], not a class: \['green'\]", root=image_tree, split="test")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_a_corrupt_image(image_tree, content):
    (image_tree / "train" / "red" / "3.png").write_bytes(content)
    fails(r"image .*red/3.png cannot be decoded; replace or remove it", root=image_tree)


def test_an_image_that_cannot_be_read_is_not_called_broken(image_tree):
    path = image_tree / "train" / "red" / "3.png"
    path.unlink()
    path.symlink_to(path)
    fails(r"image .*red/3.png cannot be read: Too many levels .*; let this user read it, or remove it", root=image_tree)


def test_a_class_folder_that_cannot_be_read(image_tree, closed):
    closed(image_tree / "train" / "red")
    fails("cannot read folder .*train/red: Permission denied; let this user read it", root=image_tree)


def test_a_truncated_image(image_tree):
    path = image_tree / "train" / "red" / "3.png"
    path.write_bytes(path.read_bytes()[:-60])
    fails(r"red/3.png cannot be decoded", root=image_tree)


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "svhn", "mnist", "fashionmnist"])
def test_a_torchvision_set_that_is_not_there(data, tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", no_network)
    root = tmp_path / "made" / "by torchvision"
    fails(f"data {data} is not in .* put torchvision's files of it into", data=data, root=root, task=KNOWN_TASKS[data])
    assert list(tmp_path.iterdir()) == []
    fails("needs the option data-root", data=data, task=KNOWN_TASKS[data])


def no_network(*arguments, **options):
    raise OSError("no network")


def test_a_torchvision_set_that_is_there(tmp_path):
    """MNIST's own raw layout, with images that the test makes."""
    import numpy

    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 6), ("t10k", 3)):
        pixels = numpy.arange(count * 28 * 28, dtype=numpy.uint8).reshape(count, 28, 28)
        header = b"".join(n.to_bytes(4, "big") for n in (0x803, count, 28, 28))
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = bytes(range(count))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(b"\x00\x00\x08\x01" + count.to_bytes(4, "big") + labels)
    split = open_split("mnist", str(tmp_path), "train", KNOWN_TASKS["mnist"])
    assert split.images().shape == (6, 1, 28, 28) and split.labels.tolist() == list(range(6))


@pytest.mark.parametrize(
    ("data", "name", "labels"),
    [
        ("cifar10", "CIFAR10", "targets"),
        ("cifar100", "CIFAR100", "targets"),
        ("mnist", "MNIST", "targets"),
        ("fashionmnist", "FashionMNIST", "targets"),
        ("svhn", "SVHN", "labels"),
    ],
)
def test_torchvisions_sets_in_our_order_of_axes(data, name, labels, tmp_path, monkeypatch):
    """The three layouts: CIFAR's rows, columns, channels; MNIST's without channels; SVHN's like ours."""
    task = KNOWN_TASKS[data]
    channels, height, width = task.image_shape
    ours = torch.randint(256, (4, channels, height, width), dtype=torch.uint8)
    theirs = ours if data == "svhn" else ours[:, 0] if channels == 1 else ours.permute(0, 2, 3, 1)
    asked = []

    def opened(root, *, download, train=None, split=None):
        asked.append(split or {True: "train", False: "test"}[train])
        return SimpleNamespace(data=theirs.numpy(), **{labels: [3, 1, 4, 1]})

    monkeypatch.setattr(f"torchvision.datasets.{name}", opened)
    for part in ("train", "test"):
        split = open_split(data, str(tmp_path), part, task)
        assert torch.equal(split.images(), ours) and split.labels.tolist() == [3, 1, 4, 1]
    assert asked == ["train", "test"]


LABELS = torch.arange(10).repeat(40)


@pytest.mark.parametrize("partitioner", ["dirichlet", "iid"])
def test_a_partition_deals_every_image_once(partitioner):
    settings = RunSettings(partitioner=partitioner, seed=3)
    parts, again = (partition_of(settings, LABELS, 5) for _ in range(2))
    assert parts == again
    assert sorted(i for part in parts for i in part) == list(range(len(LABELS)))
    other = partition_of(RunSettings(partitioner=partitioner, seed=4), LABELS, 5)
    assert other != parts


def test_dirichlet_skews_labels_and_iid_does_not():
    def spread(partitioner):
        parts = partition_of(RunSettings(partitioner=partitioner, dirichlet_alpha=0.1), LABELS, 5)
        return max(float(LABELS[part].bincount(minlength=10).max()) / len(part) for part in parts)

    assert spread("dirichlet") > 2 * spread("iid")


def test_more_clients_than_images():
    with pytest.raises(DsvError, match="cannot be split over 50 clients"):
        partition_of(RunSettings(), LABELS[:20], 50)


def test_a_device_alone_owns_everything():
    assert partition_of(RunSettings(), LABELS, 1) == [list(range(400))]


def test_a_partition_file(tmp_path):
    path = tmp_path / "parts.json"
    write_partition(path, [[0, 2], [1]])
    settings = RunSettings(partition_file=str(path))
    assert partition_of(settings, LABELS, 2) == [[0, 2], [1]]
    with pytest.raises(DsvError, match="must list 3 clients"):
        partition_of(settings, LABELS, 3)
    for bad in ([[0], [999]], [[0], []], [[0], ["x"]]):
        path.write_text(json.dumps(bad))
        with pytest.raises(DsvError, match="indices from 0 to 399"):
            partition_of(settings, LABELS, 2)
    for bad_text in ("{", "[" * 100_000):
        path.write_text(bad_text)
        with pytest.raises(DsvError, match="no JSON list"):
            partition_of(settings, LABELS, 2)
    with pytest.raises(DsvError, match="cannot read partition file"):
        partition_of(RunSettings(partition_file=str(tmp_path / "none")), LABELS, 2)
