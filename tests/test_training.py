"""Training: SGD without torch.optim's compiler, and what it must not import."""

import os
import subprocess
import sys

import pytest
import torch

from dsv import ModelSpec, build_model
from dsv.sgd import Sgd


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_sgd_is_torchs_to_the_bit(weight_decay):
    models = [build_model(ModelSpec("convnet", 1, 8, 3, 4), seed=0) for _ in range(2)]
    ours = Sgd(models[0].parameters(), learning_rate=0.1, weight_decay=weight_decay)
    reference = torch.optim.SGD(models[1].parameters(), lr=0.1, momentum=0.9, weight_decay=weight_decay)
    images = torch.randn(6, 1, 8, 8)
    for step in range(6):
        for group in (*ours.param_groups, *reference.param_groups):
            group["lr"] = 0.1 / (step + 1)
        for model, optimiser in zip(models, (ours, reference), strict=True):
            optimiser.zero_grad()
            # every second step leaves the classifier without a gradient
            (model(images) if step % 2 else model.features(images)).square().mean().backward()
            optimiser.step()
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(first, second)


def test_local_training_brings_no_compiler_along():
    script = """
import sys, torch
from dsv import KNOWN_TASKS, ModelSpec, TrainingConfig, build_model, train
task = KNOWN_TASKS["digits"]
model = build_model(ModelSpec("convnet", 1, 8, 10, 4), seed=0)
config = TrainingConfig(2, "sgd", 0.1, False, 1e-3, 4)
train(model, torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4), task, config, seed=0)
print([name for name in ("torch._dynamo", "sympy", "torchvision") if name in sys.modules])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
