"""Candidates kept on their way: for people, and without a part in what is made."""

from __future__ import annotations

import pytest
import torch

from dsv import (
    Frames,
    SynthesisConfig,
    class_accuracies,
    confusion_counts,
    synthesize,
)
from protos import artefact
from protos.settings import RunSettings
from server.frames import frame_keeper, read_frames
from server.store import DirectoryStore
from server.synthesis_job import publish_releases


def test_frames_and_confusions_change_no_number(teacher, task, tmp_path):
    config, seen = SynthesisConfig(images_per_class=2, iterations=6), []
    plain = synthesize(teacher.model, task, config, seed=0)
    frames = Frames(frozenset((0, 3, 6)), lambda step, pixels: seen.append((step, pixels)))
    watched = synthesize(teacher.model, task, config, seed=0, frames=frames)
    assert artefact.encode(plain) == artefact.encode(watched)
    assert [step for step, _ in seen] == [0, 3, 6] and torch.equal(seen[-1][1], plain.images)
    probabilities = torch.eye(3)[[0, 1, 1, 2]]
    counts = confusion_counts(probabilities, torch.tensor([0, 1, 0, 2]))
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert torch.equal(counts.diagonal() / counts.sum(1), class_accuracies(probabilities, torch.tensor([0, 1, 0, 2])))


def test_frames_are_small_and_survive_harm(tmp_path):
    keeper = frame_keeper(tmp_path, 10, 50, 200)
    assert keeper.at == {0, 4, 10, 20, 50, 100}
    keeper.take(4, torch.randint(0, 256, (500, 3, 96, 96), dtype=torch.uint8))
    (tmp_path / "frames" / "50" / "000010.safetensors").write_bytes(b"harm")
    [frame] = read_frames(tmp_path, 50)
    assert frame.pixels.shape == (120, 3, 64, 64) and frame.index[:13].tolist() == [*range(12), 50]
    assert read_frames(tmp_path, 7) == []


def test_a_resumed_synthesis_keeps_its_frames(teacher, tmp_path):
    settings = RunSettings(images_per_class="1", iterations=60)

    def publish(name: str, *, stop_at: int = 0) -> str:
        def on_event(event: object) -> None:
            if getattr(event, "iteration", -1) == stop_at:
                raise KeyboardInterrupt

        store = DirectoryStore(tmp_path / name / "releases")
        publish_releases(teacher, settings, store, on_event=on_event, run_dir=tmp_path / name)
        return store.list()[0].digest

    with pytest.raises(KeyboardInterrupt):
        publish("killed", stop_at=55)  # the state of iteration 50 is on disk
    early = read_frames(tmp_path / "killed", 1)
    assert publish("killed") == publish("whole")
    for found in (read_frames(tmp_path / "killed", 1), read_frames(tmp_path / "whole", 1)):
        assert [frame.iteration for frame in found] == [0, 1, 3, 6, 15, 30]
        assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(early, found, strict=True))
