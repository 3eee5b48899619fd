"""Every client trains alone and uploads once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from client.data import open_split
from deploy.one_shot import one_shot
from protos.settings import RunSettings

ONCE = RunSettings(rounds=1, local_epochs=1, architecture="convnet:16")
PARTS = [list(range(start, 600, 3)) for start in range(3)]


@pytest.fixture(scope="module")
def images(task):
    return open_split("digits", "", "train", task)


def test_one_shot_averages_by_examples_and_the_ensemble_knows_their_numbers(images):
    uneven = [PARTS[0], PARTS[1][:40]]
    made = one_shot(ONCE, images, uneven, lambda done, total: None)
    first, second = made.ensemble.members
    for name, tensor in made.average.state_dict().items():
        expected = (200 * first.state_dict()[name] + 40 * second.state_dict()[name]) / 240
        assert torch.allclose(tensor, expected, atol=1e-6), name
    assert torch.allclose(made.ensemble.counts.sum(dim=1), torch.tensor([200.0, 40.0]))
    assert not made.average.training and not any(m.training for m in made.ensemble.modules())


def test_a_client_that_uploads_once_keeps_the_same_images_from_training(images):
    made = one_shot(replace(ONCE, validation_share=0.25), images, PARTS, lambda done, total: None)
    trained_on = torch.tensor([float(len(part) - len(part) // 4) for part in PARTS])
    assert torch.allclose(made.ensemble.counts.sum(dim=1), trained_on)
