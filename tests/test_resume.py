"""A killed synthesis goes on, and what it saves stays its own."""

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command_line import done
from interruption import Interrupted, interrupt_at

from dsv import (
    Checkpointing,
    DsvError,
    Ranks,
    Start,
    SynthesisConfig,
    synthesize,
)
from protos.checkpoint import save_checkpoint
from protos.settings import RunSettings
from server.events import IterationDone, Published
from server.labeller import Labeller
from server.store import DirectoryStore
from server.synthesis_job import _Job, publish_releases

CONFIG = SynthesisConfig(images_per_class=2, iterations=12, coarse_stages=2)


def test_an_interrupted_run_ends_as_an_undisturbed_one(teacher, task, tmp_path):
    undisturbed = synthesize(teacher.model, task, CONFIG, seed=0)
    for iteration in (3, 5, 8):  # before the first save, in the coarse stage, in the fine one
        checkpointing = Checkpointing(tmp_path / "state", every=4)
        with pytest.raises(Interrupted):
            synthesize(
                teacher.model,
                task,
                CONFIG,
                seed=0,
                checkpointing=checkpointing,
                on_iteration=interrupt_at(iteration + 1),
            )
        seen = []
        found = synthesize(
            teacher.model,
            task,
            CONFIG,
            seed=0,
            checkpointing=checkpointing,
            on_iteration=lambda done, terms, seen=seen: seen.append(done),
        )
        assert seen[0] == iteration // 4 * 4 + 1
        assert torch.equal(found.images, undisturbed.images)
        assert torch.equal(found.multipliers, undisturbed.multipliers)
        checkpointing.clear()


def test_the_state_of_another_run_is_not_taken(teacher, task, tmp_path):
    checkpointing = Checkpointing(tmp_path / "state", every=4)
    synthesize(teacher.model, task, CONFIG, seed=0, checkpointing=checkpointing)
    seen = []
    synthesize(
        teacher.model,
        task,
        CONFIG,
        seed=1,
        checkpointing=checkpointing,
        on_iteration=lambda done, terms: seen.append(done),
    )
    assert seen[0] == 1


def test_pictures_of_the_same_folder_that_were_changed_are_another_synthesis(teacher):
    labeller = Labeller(teacher.model, teacher.task, "cpu")
    job = _Job(teacher, RunSettings(), None, labeller, Ranks(), lambda told: None, None, None)
    images = torch.zeros(10, 1, 8, 8, dtype=torch.uint8)
    named = {job.name(1, start) for start in (None, Start("mine", images), Start("mine", images + 1))}
    assert len(named) == 3 and job.name(1, Start("mine", images.clone())) in named


def test_a_release_that_was_withdrawn_is_not_taken_for_finished(content, tmp_path):
    store = DirectoryStore(tmp_path)
    digest = store.publish(content)
    store.mark_finished("one", digest)
    assert store.finished("one") == digest
    store.path(digest).unlink()
    assert store.finished("one") is None


def test_neither_is_that_of_the_same_model_under_another_task(teacher, task, tmp_path):
    checkpointing, seen = Checkpointing(tmp_path / "state", every=4), []
    synthesize(teacher.model, task, CONFIG, seed=0, checkpointing=checkpointing)
    mended = dataclasses.replace(task, mean=(0.4,))
    synthesize(
        *(teacher.model, mended, CONFIG),
        seed=0,
        checkpointing=checkpointing,
        on_iteration=lambda done, terms: seen.append(done),
    )
    assert seen[0] == 1


def test_a_damaged_state_is_named(teacher, task, tmp_path):
    path = tmp_path / "state"
    path.write_bytes(b"not a state")
    with pytest.raises(DsvError, match="cannot read the saved state .*delete it"):
        synthesize(teacher.model, task, CONFIG, seed=0, checkpointing=Checkpointing(path))


def test_kill_9_and_the_same_command_again_give_the_same_release(teacher, tmp_path):
    save_checkpoint(tmp_path / "teacher.safetensors", teacher)
    before = torch.get_num_threads()

    def arguments(store):
        model = ["--teacher", str(tmp_path / "teacher.safetensors"), "--store", str(tmp_path / store)]
        return ["synthesize", *model, "--images-per-class", "2", "--iterations", "150", "--micro-batch", "5"]

    environment = {**os.environ, "OMP_NUM_THREADS": str(before)}
    command = [sys.executable, "-m", "deploy.cli", *arguments("killed")]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob(".unfinished-*.state")):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not list((tmp_path / "killed").glob("*.dsv"))
    for store in ("killed", "calm"):
        done(*arguments(store))
    names = [[path.name for path in (tmp_path / store).iterdir()] for store in ("calm", "killed")]
    assert names[0] == names[1] and len(names[0]) == 1


def iterations_of(teacher, store, **changed):
    """Which releases' steps a job takes, one entry for each step, and the digests that it publishes."""
    steps, digests = [], []

    def told(event):
        if isinstance(event, IterationDone):
            if event.images_per_class == changed.get("killed_in") and event.iteration == 6:
                raise KeyboardInterrupt
            steps.append(event.images_per_class)
        if isinstance(event, Published):
            digests.append(event.digest)

    options = {"images_per_class": "1,2", "iterations": 8, "views": "0", **changed}
    options.pop("killed_in", None)
    publish_releases(teacher, RunSettings(**options), store, on_event=told)
    return steps, digests


def test_releases_that_are_out_are_not_made_again(teacher, tmp_path):
    store, calm = DirectoryStore(tmp_path / "killed"), DirectoryStore(tmp_path / "calm")
    with pytest.raises(KeyboardInterrupt):
        iterations_of(teacher, store, killed_in=2)
    steps, digests = iterations_of(teacher, store)
    assert set(steps) == {2}
    assert digests == iterations_of(teacher, calm)[1]
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == sorted(f"{d}.dsv" for d in digests)
    assert set(iterations_of(teacher, store)[0]) == {1, 2}, "a run that is over is made anew"
    with pytest.raises(KeyboardInterrupt):
        iterations_of(teacher, store, killed_in=2)
    for changed in ({"seed": 1}, {"image_encoding": "raw"}, {"iterations": 9}):
        assert 1 in iterations_of(teacher, store, **changed)[0], "another release"
    renamed = dataclasses.replace(teacher.task, class_names=tuple("abcdefghij"))
    assert 1 in iterations_of(dataclasses.replace(teacher, task=renamed), store)[0], "another task"


def test_two_syntheses_in_one_store_keep_apart(teacher, task, tmp_path):
    store = DirectoryStore(tmp_path / "store")
    one, other = (Checkpointing(store.state_path(name), every=1) for name in ("a", "b"))
    states = []
    for number, kept in enumerate((one, other)):
        run = {"images_per_class": 1, "iterations": 2 + number}
        config = SynthesisConfig(**run)
        synthesize(teacher.model, task, config, seed=0, checkpointing=kept)
        states.append(kept.path.read_bytes())
    assert one.path.read_bytes() == states[0]
    one.clear()
    assert other.path.read_bytes() == states[1]


def test_the_same_run_twice_at_once_ends_twice(teacher, task, tmp_path):
    kept = Checkpointing(tmp_path / "state", every=1)
    other = Checkpointing(tmp_path / "state", every=1)

    def disturb(done, terms):
        other.clear()  # as the faster of the two does at its end

    config = SynthesisConfig(images_per_class=1, iterations=3)
    synthesize(teacher.model, task, config, seed=0, checkpointing=kept, on_iteration=disturb)
    kept.clear()
    assert not list(tmp_path.iterdir())


def test_a_state_without_a_folder_or_an_interval_is_refused(teacher, task, tmp_path):
    config = SynthesisConfig(images_per_class=1, iterations=3)
    with pytest.raises(DsvError, match="cannot save the state /proc/none/state"):
        synthesize(teacher.model, task, config, checkpointing=Checkpointing(Path("/proc/none/state"), every=1))
    with pytest.raises(DsvError, match="every 1 or more iterations, got 0"):
        Checkpointing(tmp_path / "state", every=0)
    with pytest.raises(DsvError, match="every 0 or more seconds, got nan"):
        Checkpointing(tmp_path / "state", every_s=float("nan"))


def test_slow_iterations_are_saved_by_the_clock(teacher, task, tmp_path):
    """At 224 px fifty iterations of a CPU may take half an hour."""
    for every_s, expected in ((0.0, [1, 2, 3]), (3600.0, [])):
        kept, saved = Checkpointing(tmp_path / "state", every=50, every_s=every_s), []
        synthesize(
            *(teacher.model, task, SynthesisConfig(images_per_class=1, iterations=4)),
            checkpointing=kept,
            on_iteration=lambda done, terms, kept=kept, saved=saved: saved.append(kept.path.exists()),
        )
        assert [done for done, there in enumerate(saved) if there] == expected
        kept.clear()


def test_a_state_that_cannot_be_saved_is_one_clear_line(teacher, task, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dsv.resume.os.fsync", full)
    config = SynthesisConfig(images_per_class=1, iterations=3)
    with pytest.raises(DsvError, match="cannot save the state .*No space left on device; free space"):
        synthesize(teacher.model, task, config, seed=0, checkpointing=Checkpointing(tmp_path / "state", every=1))
    assert not list(tmp_path.iterdir())
