"""Stationarity elsewhere than at the end point: clients' models and updates."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from dsv import (
    DISTANCES,
    Anchors,
    Candidates,
    Checkpointing,
    DsvError,
    KktWeights,
    ModelSpec,
    StationarityEngine,
    SynthesisConfig,
    build_model,
    chosen_parameters,
    end_point_anchors,
    kkt_gradient,
    model_digest,
    synthesize,
)

SHORT = SynthesisConfig(images_per_class=2, iterations=4)


def moved(model, images, labels, weights, rate=0.1):
    """The model's state after one step of gradient descent on the weighted images."""
    loss = (weights * functional.cross_entropy(model(images), labels, reduction="none")).sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    state = dict(model.state_dict())
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        state[name] = (parameter - rate * gradient).detach()
    return state


@pytest.fixture
def clients(teacher, task):
    generator = torch.Generator().manual_seed(0)
    states = []
    for client in range(3):
        model = build_model(teacher.spec, seed=client)
        images = torch.randn(4, *task.image_shape, generator=generator)
        states.append(moved(model, images, torch.arange(4), torch.ones(4)))
    return states


@pytest.mark.parametrize("distance", ["relative-l2", "layer-cosine"])
def test_the_images_of_a_step_explain_it_with_their_own_multipliers(task, distance):
    # no norm: a bias before one has no gradient, and a direction of nothing is none
    model = build_model(ModelSpec.parse("convnet:4:none", task), seed=0).double().eval()
    images = torch.randn(6, *task.image_shape, dtype=torch.float64)
    labels, weights = torch.arange(6), torch.rand(6, dtype=torch.float64)
    after = moved(model, images, labels, weights, rate=1.0)
    before = model.state_dict()
    parameters = chosen_parameters(model)
    engine = StationarityEngine(model, parameters, DISTANCES[distance])
    engine.aim({name: after[name] - before[name] for name in parameters})
    only = KktWeights(primal=0, total_variation=0, norm=0, augmented=0)
    found = kkt_gradient(engine, Candidates(images, labels, weights, 6), [(1.0, lambda x, first: x)], only)
    assert abs(float(found.terms.stationarity)) < 1e-3  # the cosine fades short gradients out
    other = Candidates(images.flip(0), labels, weights, 6)
    wrong = kkt_gradient(engine, other, [(1.0, lambda x, first: x)], only)
    assert float(wrong.terms.stationarity) > 10 * abs(float(found.terms.stationarity)) + 1e-3


@pytest.mark.parametrize("augmented", [0.0, 1.0])
def test_a_synthesis_from_client_models(teacher, task, clients, augmented):
    before = model_digest(teacher.model)
    config = dataclasses.replace(SHORT, augmented_weight=augmented)
    anchors = end_point_anchors(clients)
    first, second = (synthesize(teacher.model, task, config, seed=1, anchors=anchors) for _ in range(2))
    assert model_digest(teacher.model) == before
    assert torch.equal(first.images, second.images) and torch.equal(first.multipliers, second.multipliers)
    assert first.multipliers.shape == (20,) and (first.multipliers >= 0).all()
    assert first.provenance.config["anchors_sha256"] == anchors.digest
    assert not torch.equal(first.images, synthesize(teacher.model, task, config, seed=1).images)


def test_every_client_has_its_turn(teacher, task, clients):
    anchors, asked = end_point_anchors(clients), []

    def load(number):
        asked.append(number)
        return anchors.load(number)

    config = dataclasses.replace(SHORT, iterations=12)
    synthesize(teacher.model, task, config, seed=1, anchors=dataclasses.replace(anchors, load=load))
    assert {asked[1:].count(number) > 0 for number in range(len(clients))} == {True}


def test_parameters_that_the_cosine_cannot_see_are_left_out_of_client_models_too(teacher, task, clients):
    def first_terms(anchors):
        seen = []
        synthesize(
            teacher.model, task, SHORT, seed=1, anchors=anchors, on_iteration=lambda _, terms: seen.append(terms)
        )
        return seen[0]

    anchors = end_point_anchors(clients)
    steered, whole = first_terms(anchors), first_terms(dataclasses.replace(anchors, targets=anchors.load))
    torch.testing.assert_close(steered.stationarity, whole.stationarity, atol=2e-3, rtol=0)
    untouched = build_model(teacher.spec, seed=9)  # zero biases of the model that is given hide nothing of the clients
    torch.nn.init.zeros_(untouched.get_parameter("classifier.weight"))
    again = []
    synthesize(untouched, task, SHORT, seed=1, anchors=anchors, on_iteration=lambda _, terms: again.append(terms))
    torch.testing.assert_close(again[0].stationarity, steered.stationarity)


def test_a_synthesis_from_client_models_goes_on(teacher, task, clients, tmp_path):
    anchors, whole = end_point_anchors(clients), []
    kept = Checkpointing(tmp_path / "state", every=2)

    class Cut(Exception): ...

    def cut(done, terms):
        if done == 3:
            raise Cut

    with pytest.raises(Cut):
        synthesize(teacher.model, task, SHORT, seed=0, anchors=anchors, checkpointing=kept, on_iteration=cut)
    for checkpointing in (kept, None):
        whole.append(synthesize(teacher.model, task, SHORT, seed=0, anchors=anchors, checkpointing=checkpointing))
    assert torch.equal(whole[0].images, whole[1].images)
    assert torch.equal(whole[0].multipliers, whole[1].multipliers)


def test_multipliers_are_counted_in_the_clients_shares_of_a_class(clients):
    counts = torch.tensor([[30.0, 10.0], [5.0, 15.0]])
    anchors = end_point_anchors(clients[:2], counts)
    expected = torch.tensor([[1.5, 0.5], [0.5, 1.5]])
    torch.testing.assert_close(anchors.units(torch.tensor([0, 1])), expected)
    torch.testing.assert_close(anchors.units(torch.tensor([[0.5, 0.5]])), torch.ones(1, 2))
    assert torch.equal(end_point_anchors(clients[:2]).units(torch.tensor([0, 1, 1])), torch.ones(3, 2))
    assert anchors.digest != end_point_anchors(clients[:2]).digest


def test_who_has_not_seen_a_class_says_nothing_of_its_images(teacher, task, clients):
    counts = torch.ones(2, task.classes)
    counts[:, 0] = torch.tensor([0.0, 0.0])
    made = synthesize(teacher.model, task, SHORT, seed=1, anchors=end_point_anchors(clients[:2], counts))
    assert (made.multipliers[made.labels == 0] == 0).all() and (made.multipliers[made.labels == 1] > 0).any()


def test_no_client_no_synthesis():
    with pytest.raises(DsvError, match="no client models"):
        end_point_anchors([])
    with pytest.raises(DsvError, match="no client models"):
        Anchors((), lambda number: ({}, {}), "")
