"""Several processes of one synthesis give what one gives, and take a card each."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from dsv import (
    DISTANCES,
    Augmentation,
    Candidates,
    DsvError,
    KktWeights,
    Ranks,
    StationarityEngine,
    chosen_parameters,
    kkt_gradient,
    ranks_of_torchrun,
)
from protos.checkpoint import save_checkpoint

LOOPBACK = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))

RANK_SCRIPT = """
import os, sys, torch
from dataclasses import replace
from dsv import *
from dsv.pixel_optimiser import PixelOptimiser
from protos.checkpoint import load_checkpoint

torch.set_num_threads(1)
teacher = load_checkpoint(sys.argv[1])
labels, generator = torch.arange(7) % 10, torch.Generator().manual_seed(0)
images = torch.rand(7, 1, 8, 8, generator=generator, dtype=torch.float64)
multipliers = torch.rand(7, generator=generator, dtype=torch.float64)
drawn = Augmentation().draw(7, (1, 8, 8), generator)
weights = KktWeights(primal=0.3, total_variation=0.2, norm=0.1, augmented=2.0)
config = SynthesisConfig(iterations=1, total_variation_weight=0.1)
steps = SynthesisConfig(iterations=10, total_variation_weight=0.1, coarse_stages=2)
with ranks_of_torchrun("cpu") as ranks:
    parts = Compute(micro_batch=2)  # alone, too, in parts: the same rounding as far as possible
    synthesised = synthesize(teacher.model, teacher.task, config, seed=0, labels=labels, ranks=ranks, compute=parts)
    model, own = teacher.model.double(), ranks.share(7)
    run = PixelOptimiser(model, teacher.task, steps, labels, compute=parts, ranks=ranks)
    run.begin(0, None)
    start = run.state()
    run.restore(replace(start, pixels=start.pixels.double(), multipliers=start.multipliers.double()))
    totals = [run.step().total for _ in range(steps.iterations)]
    end = run.state()
    engine = StationarityEngine(model, chosen_parameters(model), DISTANCES["layer-cosine"], ranks=ranks)
    views = [(1.0, lambda x, first: x * 1.0), (2.0, lambda x, first: drawn(x, own.start + first))]
    mine = Candidates(images[own], labels[own], multipliers[own], 7)
    found = kkt_gradient(engine, mine, views, weights)
    gradients = [ranks.join(found.images, 7), ranks.join(found.multipliers, 7), found.terms.total]
found = [*gradients, synthesised.images, synthesised.multipliers, end.pixels, end.multipliers, torch.stack(totals)]
torch.save(found, f"{sys.argv[2]}/{ranks.count}-{ranks.rank}.pt")
threads = [open(f"/proc/self/task/{number}/comm").read() for number in os.listdir("/proc/self/task")]
assert not [name for name in threads if "gloo" in name], "threads that outlive their group abort the interpreter's end"
"""


def test_two_ranks_give_what_one_gives(trained, tmp_path):
    """Seven candidates over two gloo processes: gradients equal in float64, and so are ten steps from coarse to fine,
    to 1e-9 where rounding has grown to 1e-14. ``synthesize`` runs in float32 and is compared after one step, since Adam
    makes whole steps of the rounding errors in small gradients; of a teacher that has not been trained these are a
    tenth of the gradient."""
    (tmp_path / "rank.py").write_text(RANK_SCRIPT)
    save_checkpoint(tmp_path / "teacher.safetensors", trained)
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
        assert (found[3] != alone[3]).float().mean() < 0.01
        torch.testing.assert_close(found[4], alone[4], rtol=1e-4, atol=1e-4)
        for ours, expected in zip(found[5:], alone[5:], strict=True):
            assert ours.dtype == torch.float64
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_shares_cover_everything_once():
    for count in (1, 2, 3, 7):
        parts = [list(range(5))[Ranks(rank, count).share(5)] for rank in range(count)]
        assert [i for part in parts for i in part] == list(range(5))


def test_ranks_do_not_share_a_card(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(DsvError, match="2 processes cannot share cuda:1"), ranks_of_torchrun("cuda:1"):
        pass


def test_every_rank_takes_its_own_card(monkeypatch):
    """There is no card here, so the calls are watched."""
    taken = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    monkeypatch.setattr("dsv.ranks.group.init_process_group", taken.append)
    monkeypatch.setattr("dsv.ranks.group.get_rank", lambda: 1)
    monkeypatch.setattr("dsv.ranks.group.destroy_process_group", lambda: taken.append("end"))
    with ranks_of_torchrun("cuda") as ranks:
        assert (ranks.rank, ranks.count) == (1, 2)
    assert taken == [torch.device("cuda", 1), "nccl", "end"]


@pytest.mark.parametrize(("device", "cards", "message"), [("toaster", 0, "unknown device"), ("cuda", 1, "1 CUDA dev")])
def test_ranks_without_a_device_are_told_so(monkeypatch, device, cards, message):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("torch.cuda.device_count", lambda: cards)
    with pytest.raises(DsvError, match=message), ranks_of_torchrun(device):
        pass


def test_a_rank_without_candidates_has_no_gradient(teacher, monkeypatch):
    """As of three ranks that share two; every view may be an augmented one, which takes no empty batch."""
    monkeypatch.setattr(Ranks, "add_up", lambda self, tensors: None)
    drawn = Augmentation().draw(2, (1, 8, 8), torch.Generator().manual_seed(0))
    ranks = Ranks(0, 3)
    assert ranks.share(2) == slice(0, 0)
    engine = StationarityEngine(teacher.model, chosen_parameters(teacher.model), DISTANCES["layer-cosine"], ranks=ranks)
    nothing = Candidates(torch.empty(0, 1, 8, 8), torch.empty(0, dtype=torch.int64), torch.empty(0), 2)
    found = kkt_gradient(engine, nothing, [(2.0, drawn)], KktWeights(0.3, 0.0, 0.0, 2.0))
    assert found.images.shape == (0, 1, 8, 8) and found.multipliers.shape == (0,)
