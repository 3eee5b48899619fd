"""Folders as runs leave them, made in a moment: for tests of what is read from them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from deploy.options import HarnessSettings
from deploy.result import ConfusionRow, LedgerRow, NewcomerRow, Result, RivalRow, Seconds, TeacherRow
from dsv import Provenance, SupportSet, Task
from protos import artefact
from protos.settings import RunSettings
from server.events import EventLog, FederationDone, IterationDone, Published, RoundDone, SynthesisDone
from server.frames import frame_keeper
from server.run_folder import RESULT_FILE, SETTINGS_FILE, STORE_FOLDER
from server.store import DirectoryStore

HOSTILE = ('<script>alert("x")</script>', "$\\frac{a}$ 'quoted' & \"so\"", "</style><img src=http://x/y onerror=1>")


def a_task(classes: int = 3, side_px: int = 8, channels: int = 1, names: tuple[str, ...] = ()) -> Task:
    names = names or tuple(f"class {number}" for number in range(classes))
    return Task(channels, side_px, names, (0.5,) * channels, (0.5,) * channels)


def a_release(task: Task, per_class: int, *, seed: int = 0) -> SupportSet:
    """Noise in the shape of a release."""
    generator = torch.Generator().manual_seed(seed)
    count = per_class * task.classes
    soft = torch.rand(count, task.classes, generator=generator).softmax(dim=1).half().float()
    return SupportSet(
        images=torch.randint(0, 256, (count, *task.image_shape), generator=generator, dtype=torch.uint8),
        labels=torch.arange(task.classes).repeat_interleave(per_class),
        soft_labels=soft,
        multipliers=torch.rand(count, generator=generator),
        task=task,
        provenance=Provenance("convnet:8", "0" * 64, "noise", seed, {"iterations": 20}, {"torch": "2"}),
    )


def a_result(task: Task, counts: tuple[int, ...], digests: tuple[str, ...] = ()) -> Result:
    """A measured run; the rivals are better, as they may be."""
    digests = digests or ("0" * 64,) * len(counts)
    newcomers = [
        NewcomerRow(a, count, kind, 0.6 + 0.01 * count, 0.02, 900 * count, digest)
        for a in ("convnet:8", "resnet18:8")
        for count, digest in zip(counts, digests, strict=True)
        for kind in ("hard", "soft")
    ]
    rivals = [
        RivalRow("untrained", "convnet:8", 0, 0.1, 0.01, 0),
        RivalRow("teacher_weights", "convnet:8", 0, 0.98, 0.0, 90_000),
    ]
    for count in counts:
        rivals += [
            RivalRow(name, "convnet:8", count, score, 0.01, 640 * count)
            for name, score in (("random_real_hard", 0.8), ("random_real_soft", 0.79), ("noise_soft", 0.2))
        ]
    classes = range(task.classes)
    cells = [(c, c, 9) for c in classes] + [(c, (c + 1) % task.classes, 1 + c % 3) for c in classes]
    return Result(
        teacher=TeacherRow("convnet:8", 0.98, 90_000),
        newcomers=newcomers,
        rivals=rivals,
        ledger=[
            LedgerRow(number, client, purpose, way, 1000 + client)
            for number in (1, 2)
            for client in range(3)
            for purpose in ("weights", "control")
            for way in ("up", "down")
        ]
        + [
            LedgerRow(0, "newcomer convnet:8", "dsv_download", "down", 2000),
            LedgerRow(0, 0, "raw_images_instead", "up", 99),
        ],
        seconds=Seconds(1.0, 2.0, 0.1, 3.0),
        confusions=[ConfusionRow("teacher", "convnet:8", 0, "", cells)]
        + [ConfusionRow("newcomer", r.architecture, r.images_per_class, r.labels, cells) for r in newcomers],
        settings={
            **RunSettings().to_run_config(),
            **HarnessSettings().to_config(),
            "partition-file": "/home/me/parts.json",
        },
        versions={"torch": "2", "flwr": "1"},
    )


def a_run(folder: Path, task: Task, counts: tuple[int, ...] = (1, 4), *, frames: bool = True) -> Path:
    """A finished run."""
    folder.mkdir(parents=True)
    events, store = EventLog(folder), DirectoryStore(folder / STORE_FOLDER)
    for number in (1, 2):
        events.write(RoundDone(number, 2, 3, 0, 1.0 / number))
    events.write(FederationDone("convnet:8", 1.0))
    digests = []
    for count in counts:
        for step in range(1, 21):
            events.write(IterationDone(count, step, 20, 2.0 / step, 1.0 / step, 0.1, 0.5, 0.2, 1.0 / step))
        support_set = a_release(task, count, seed=count)
        if frames:
            keeper = frame_keeper(folder, task.classes, count, 20)
            for step in sorted(keeper.at):
                keeper.take(step, support_set.images.flip(0))
        digest = store.publish(artefact.encode(support_set))
        digests.append(digest)
        events.write(Published(digest, count, 1, str(store.path(digest))))
    events.write(SynthesisDone(2.0))
    a_result(task, counts, tuple(digests)).write(folder / RESULT_FILE)
    (folder / SETTINGS_FILE).write_text(json.dumps(RunSettings().to_run_config()))
    return folder
