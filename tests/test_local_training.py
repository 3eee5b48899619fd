"""What a client trains with: its recipe, its own order of images, and the model that everybody starts from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import client.local
from client.device import Device
from client.local import train_locally
from dsv import build_model
from protos.exchange import starting_model
from protos.settings import RunSettings

SETTINGS = RunSettings(architecture="convnet:4", local_epochs=3, local_batch_size=10, local_weight_decay=0.25)


def test_a_clients_recipe_is_that_of_the_options():
    recipe = SETTINGS.local_training(1, 64)
    assert (recipe.batch_size, recipe.weight_decay, recipe.optimiser) == (10, 0.25, "sgd")
    assert recipe.crop == 0.0, "cut-outs are a newcomer's; clients see their images whole"


@pytest.mark.parametrize(("examples", "steps"), [(60, 18), (61, 19), (1, 1)])
def test_every_image_is_seen_once_an_epoch_the_last_batch_too(examples, steps):
    assert SETTINGS.local_training(1, examples).steps == steps


def test_the_order_of_images_differs_by_run_round_and_client_and_is_theirs_again(monkeypatch):
    seeds: list[int] = []

    def noted(model, images, labels, task, config, *, seed):
        seeds.append(seed)
        return 0.0

    monkeypatch.setattr(client.local, "train", noted)
    model = starting_model(SETTINGS)
    told = [(0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 1, 0)]  # run, round, client
    for run, number, own in [*told, told[0]]:
        train_locally(model, Device(replace(SETTINGS, seed=run), client=own, clients=4), round_number=number)
    assert seeds[-1] == seeds[0] and len(set(seeds)) == len(told)


@pytest.mark.parametrize("seed", [0, 7])
def test_both_sides_start_from_the_models_that_the_runs_seed_draws(seed):
    settings = replace(SETTINGS, seed=seed)
    drawn = build_model(settings.model_spec(), seed=seed).state_dict()
    started = starting_model(settings).state_dict()
    assert all(torch.equal(started[name], tensor) for name, tensor in drawn.items())
    other = starting_model(replace(SETTINGS, seed=seed + 1)).state_dict()
    assert not torch.equal(other["classifier.weight"], started["classifier.weight"])
