"""Small real things that the tests share."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from client.data import open_split
from dsv import (
    KNOWN_TASKS,
    ModelSpec,
    SupportSet,
    SynthesisConfig,
    Task,
    TrainingConfig,
    build_model,
    interpolate,
    synthesize,
    train,
)
from protos import artefact
from protos.checkpoint import Checkpoint


@pytest.fixture(autouse=True)
def _the_same_draws_in_any_order() -> None:
    """What a test draws without a generator of its own does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """What a test starts can be interrupted, in a shell's background job too, which hands an ignored SIGINT down."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


_CARDS = [name for name in ("cuda", "card") if hasattr(torch, name) and getattr(torch, name).is_available()]
"""Of kinds of them; ``card`` is there where test_second_device.py calls these tests."""


@pytest.fixture(params=["cpu", *_CARDS])
def device(request: pytest.FixtureRequest) -> str:
    """Every kind of device that this machine has, one after the other."""
    return str(request.param)


@pytest.fixture(scope="session")
def task() -> Task:
    return KNOWN_TASKS["digits"]


@pytest.fixture(scope="session")
def teacher(task: Task) -> Checkpoint:
    spec = ModelSpec.parse("convnet:8", task)
    return Checkpoint(build_model(spec, seed=3).eval(), spec, task)


@pytest.fixture(scope="session")
def support_set(teacher: Checkpoint, task: Task) -> SupportSet:
    config = SynthesisConfig(images_per_class=2, iterations=3)
    return synthesize(teacher.model, task, config, seed=0, teacher_architecture="convnet:8")


@pytest.fixture(scope="session")
def content(support_set: SupportSet) -> bytes:
    """A release's bytes."""
    return artefact.encode(support_set)


@pytest.fixture(scope="session")
def digest(content: bytes) -> str:
    """Of that release."""
    return artefact.digest(content)


@pytest.fixture
def release(content: bytes, tmp_path: Path) -> Path:
    """The file of a release."""
    path = tmp_path / "r.dsv"
    path.write_bytes(content)
    return path


@pytest.fixture
def a_flower_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages carry the identity of the task that makes them; Flower's processes set it when they start."""
    from flwr.supercore.task_identity import TaskIdentity  # here, so that a GPU box without Flower runs dsv's tests

    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def image_tree(tmp_path: Path) -> Path:
    """An ImageFolder tree of two classes, which colour alone tells apart."""
    root = tmp_path / "tree"
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 12), ("test", 4)):
        for name, colour in (("red", 0), ("blue", 2)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(0, 60, (10, 12, 3), generator=generator, dtype=torch.uint8)
                pixels[:, :, colour] += 180
                Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return root


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes the system refuse to list a folder, as it does without the permission, which root always has."""

    def close(folder: Path) -> None:
        def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
            def listing(path: Any = ".") -> Any:
                if Path(path) == folder:
                    raise PermissionError(errno.EACCES, "Permission denied", str(folder))
                return real(path)

            return listing

        for name in ("scandir", "listdir"):
            monkeypatch.setattr(os, name, guarded(getattr(os, name)))

    return close


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Models this small run no faster on two threads, and far slower where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained(task) -> Checkpoint:
    """A small teacher that knows the digits."""
    spec, split = ModelSpec.parse("convnet:16", task), open_split("digits", "", "train", task)
    model = build_model(spec, seed=0)
    config = TrainingConfig(300, "adamw", 0.02, True, 1e-3, 64, translate=0.0, crop=0.0)
    train(model, split.images(), split.labels, task, config, seed=0)
    return Checkpoint(model, spec, task)


@pytest.fixture(scope="session")
def pictures(task) -> torch.Tensor:
    """Two test images of each of the classes 0 to 4."""
    split = open_split("digits", "", "test", task)
    assert len(split) > 100
    return split.load([i for label in range(5) for i in torch.nonzero(split.labels == label).flatten()[:2].tolist()])


@pytest.fixture(scope="session")
def pages(tmp_path_factory) -> dict[str, Path]:
    """A run's page, one of a run whose classes have hostile names, and the gallery of both runs."""
    from run_folders import HOSTILE, a_run, a_task

    from deploy.pages.gallery_page import write_gallery
    from deploy.pages.run_page import write_report

    runs = tmp_path_factory.mktemp("pages") / "runs"
    plain = a_run(runs / "plain", a_task(10, 8), (1, 10))
    hostile = a_run(runs / "hostile", a_task(names=(*HOSTILE, "long " * 40)))
    return {"report": write_report(plain), "hostile": write_report(hostile), "gallery": write_gallery(runs)}


@pytest.fixture(scope="session")
def interpolated(trained, task):
    config = SynthesisConfig(images_per_class=2, iterations=60)
    return interpolate(trained.model, task, config, between=(1, 7), weights=(0.0, 0.25, 0.5, 0.75, 1.0), seed=0)


@pytest.fixture
def federation(tmp_path: Path) -> Any:
    """A signed store, and who signs it."""
    from federation import Federation

    return Federation(tmp_path)


@pytest.fixture
def served(federation: Any, content: bytes) -> Iterator[Any]:
    """A device of the federation, whose server has one release."""
    from server.distribution import run_server

    federation.publish(content)
    with run_server(federation.store) as address:
        yield federation.device(address)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A SuperLink behind its proxy, as processes."""
    from server_door import running_server  # here, so that a GPU box without Flower runs dsv's tests

    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def operator(server):
    """The operator's way to it."""
    from deploy.control import control

    with control(server.operator, None) as way:
        yield way
