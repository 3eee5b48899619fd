"""A killed synthesis goes on; several processes give what one gives; coarse to fine; presets."""

import dataclasses
import errno
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from click.testing import CliRunner

from deploy.cli import cli
from dsv import (
    PRESETS,
    Checkpointing,
    DsvError,
    Ranks,
    SynthesisConfig,
    ranks_of_torchrun,
    synthesize,
)
from protos.checkpoint import save_checkpoint
from protos.settings import RunSettings
from server.events import IterationDone, Published
from server.store import DirectoryStore
from server.synthesis_job import publish_releases

CONFIG = SynthesisConfig(images_per_class=2, iterations=12, coarse_stages=2)


class Interrupted(Exception):
    """Stands for a crash."""


def interrupt_at(iteration):
    def check(done, terms):
        if done == iteration:
            raise Interrupted

    return check


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
        done = CliRunner().invoke(cli, arguments(store))
        assert done.exit_code == 0, done.output
    names = [[path.name for path in (tmp_path / store).iterdir()] for store in ("calm", "killed")]
    assert names[0] == names[1] and len(names[0]) == 1


LOOPBACK = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))

RANK_SCRIPT = """
import os, sys, torch
from dsv import *
from protos.checkpoint import load_checkpoint

torch.set_num_threads(1)
teacher = load_checkpoint(sys.argv[1])
labels, generator = torch.arange(7) % 10, torch.Generator().manual_seed(0)
images = torch.rand(7, 1, 8, 8, generator=generator, dtype=torch.float64)
multipliers = torch.rand(7, generator=generator, dtype=torch.float64)
drawn = Augmentation().draw(7, (1, 8, 8), generator)
weights = KktWeights(primal=0.3, total_variation=0.2, norm=0.1, augmented=2.0)
config = SynthesisConfig(iterations=1, total_variation_weight=0.1)
with ranks_of_torchrun("cpu") as ranks:
    parts = Compute(micro_batch=2)  # alone, too, in parts: the same rounding as far as possible
    synthesised = synthesize(teacher.model, teacher.task, config, seed=0, labels=labels, ranks=ranks, compute=parts)
    model, own = teacher.model.double(), ranks.share(7)
    engine = StationarityEngine(model, chosen_parameters(model), DISTANCES["layer-cosine"], ranks=ranks)
    views = [(1.0, lambda x, first: x * 1.0), (2.0, lambda x, first: drawn(x, own.start + first))]
    mine = Candidates(images[own], labels[own], multipliers[own], 7)
    found = kkt_gradient(engine, mine, views, weights)
    gradients = [ranks.join(found.images, 7), ranks.join(found.multipliers, 7), found.terms.total]
torch.save([*gradients, synthesised.images, synthesised.multipliers], f"{sys.argv[2]}/{ranks.count}-{ranks.rank}.pt")
threads = [open(f"/proc/self/task/{number}/comm").read() for number in os.listdir("/proc/self/task")]
assert not [name for name in threads if "gloo" in name], "threads that outlive their group abort the interpreter's end"
"""


def test_two_ranks_give_what_one_gives(teacher, tmp_path):
    """Seven candidates over two gloo processes: gradients equal in float64, and one step of a synthesis."""
    (tmp_path / "rank.py").write_text(RANK_SCRIPT)
    save_checkpoint(tmp_path / "teacher.safetensors", teacher)
    script = [str(tmp_path / "rank.py"), str(tmp_path / "teacher.safetensors"), str(tmp_path)]
    # Both ask the resolver for this machine's name otherwise, each rank anew, and a sandbox may give no or two answers.
    loopback, local = {"GLOO_SOCKET_IFNAME": LOOPBACK}, ["--local-addr", "127.0.0.1"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.getcwd(),
        "PYTHONFAULTHANDLER": "1",
        **loopback,
    }
    torchrun = ["-m", "torch.distributed.run", "--standalone", *local, "--nproc-per-node", "2"]
    for launcher in ([], torchrun):
        command = [sys.executable, *launcher, *script]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
    alone, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for found in (first, second):
        for ours, expected in zip(found[:3], alone[:3], strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-9)
        # Adam's first step is a sign: where a gradient is 0 but for rounding, a pixel may go the other way.
        assert ((found[3].int() - alone[3].int()).abs() > 1).float().mean() < 0.02
        torch.testing.assert_close(found[4], alone[4], rtol=1e-4, atol=1e-4)


def test_shares_cover_everything_once():
    for count in (1, 2, 3, 7):
        parts = [list(range(5))[Ranks(rank, count).share(5)] for rank in range(count)]
        assert [i for part in parts for i in part] == list(range(5))


def test_coarse_to_fine_doubles_the_side():
    config = SynthesisConfig(iterations=9, coarse_stages=3)
    assert [config.side(i, 32) for i in range(9)] == [8, 8, 8, 16, 16, 16, 32, 32, 32]
    assert config.side(0, 7) == 2 and SynthesisConfig(coarse_stages=8).side(0, 8) == 1
    for stages in (0, 9):
        with pytest.raises(DsvError, match="coarse stages"):
            SynthesisConfig(coarse_stages=stages)


def test_a_weight_below_zero_is_refused():
    with pytest.raises(DsvError, match="norm weight must not be negative"):
        SynthesisConfig(norm_weight=-1.0)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs(teacher, task, name):
    config = dataclasses.replace(PRESETS[name], iterations=3)
    found = synthesize(teacher.model, task, config, seed=0, labels=torch.tensor([3, 3, 8]))
    assert found.labels.tolist() == [3, 3, 8] and found.images.shape == (3, 1, 8, 8)


def test_labels_that_do_not_fit(teacher, task):
    for labels in (torch.tensor([10]), torch.tensor([]), torch.ones(2, 9), torch.tensor([0.5])):
        with pytest.raises(DsvError, match="labels must"):
            synthesize(teacher.model, task, CONFIG, seed=0, labels=labels)


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


def test_a_state_that_cannot_be_saved_is_one_clear_line(teacher, task, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dsv.resume.os.fsync", full)
    config = SynthesisConfig(images_per_class=1, iterations=3)
    with pytest.raises(DsvError, match="cannot save the state .*No space left on device; free space"):
        synthesize(teacher.model, task, config, seed=0, checkpointing=Checkpointing(tmp_path / "state", every=1))
    assert not list(tmp_path.iterdir())


def test_ranks_do_not_share_a_card(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DsvError, match="2 processes cannot share cuda:1"), ranks_of_torchrun("cuda:1"):
        pass


def test_every_rank_takes_its_own_card(monkeypatch):
    """There is no card here, so the calls are watched."""
    taken = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    monkeypatch.setattr("dsv.ranks.group.init_process_group", taken.append)
    monkeypatch.setattr("dsv.ranks.group.get_rank", lambda: 1)
    monkeypatch.setattr("dsv.ranks.group.destroy_process_group", lambda: taken.append("end"))
    with ranks_of_torchrun("cuda") as ranks:
        assert (ranks.rank, ranks.count) == (1, 2)
    assert taken == [1, "nccl", "end"]
