"""What the engine gives for one batch at once is what its two passes give, and is queued without a wait."""

import pytest
import torch

from benchmarks.operations import operations
from dsv import DISTANCES, Batch, ModelSpec, StationarityEngine, build_model, chosen_parameters, steered_by_cosine

WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "_unique2", "equal"}
"""Operations that a card's queue is emptied for, to read what they give, or that copy what Python holds to a card."""


def engine_and_batch(architecture, task, *, distance="layer-cosine", soft=False):
    model = build_model(ModelSpec.parse(architecture, task), seed=0).double().eval()
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    for parameter in model.parameters():
        parameter.data += 0.1 * drawn(*parameter.shape)
    parameters, measure = chosen_parameters(model), DISTANCES[distance]
    if distance == "layer-cosine":
        parameters, measure = steered_by_cosine(model, task, parameters)
    labels = torch.softmax(drawn(4, 10), 1) if soft else torch.arange(4)
    batch = Batch(drawn(4, *task.image_shape), labels, drawn(4).abs())
    return StationarityEngine(model, parameters, measure), batch


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("distance", DISTANCES)
def test_at_once_is_what_two_passes_give(distance, soft, task):
    engine, batch = engine_and_batch("convnet:4", task, distance=distance, soft=soft)
    distance_at_once, at_once = engine.at_once(batch, weight=0.7, primal_weight=0.3)
    total = engine.total_gradient([batch])
    found, direction = engine.direction(total, weight=0.7)
    torch.testing.assert_close(distance_at_once, found)
    for by_graph in (True, False):
        engine.by_graph = by_graph
        torch.testing.assert_close(engine.along(direction, batch, primal_weight=0.3), at_once)


@pytest.mark.parametrize("architecture", ["convnet:4", "convnet:4:group:max", "resnet18:4:batch"])
def test_nothing_waits_for_a_card(architecture, task):
    engine, batch = engine_and_batch(architecture, task)
    seen = operations(lambda: engine.at_once(batch, weight=1.0, primal_weight=0.3))
    assert "convolution" in seen and not seen.keys() & WAITS
