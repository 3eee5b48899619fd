"""Weights in fewer bits: how large they are, and what rounding costs."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import nn

from client.data import open_split
from deploy.quantised import sent_as
from dsv import DsvError, accuracy


@given(arrays("float32", array_shapes(min_dims=2, max_dims=4, max_side=5), elements=st.floats(-100, 100, width=32)))
@settings(max_examples=50)
def test_int8_is_off_by_half_a_step_of_its_channel_at_most(values):
    model = nn.Module()
    model.weight = nn.Parameter(torch.from_numpy(values.copy()))
    got = sent_as(model, "int8").model.weight.detach()
    step = model.weight.detach().abs().flatten(1).amax(1) / 127
    off = (got - model.weight.detach()).abs().flatten(1).amax(1)
    assert bool((off <= step * 0.5001 + 1e-6).all())


def test_weights_sent_in_fewer_bits_are_smaller_and_hardly_worse(trained, task):
    test = open_split("digits", "", "test", task)
    images, labels = test.images(), test.labels
    before = accuracy(trained.model, images, labels, task)
    sizes = {}
    for kind in ("float32", "float16", "int8"):
        sent = sent_as(trained.model, kind)
        sizes[kind] = sent.size_bytes
        assert abs(accuracy(sent.model, images, labels, task) - before) < 0.02
    assert sizes["float16"] < 0.6 * sizes["float32"] and sizes["int8"] < 0.4 * sizes["float32"]
    exact = sent_as(trained.model, "float32").model.state_dict()
    assert all(torch.equal(tensor, exact[name]) for name, tensor in trained.model.state_dict().items())


def test_weights_that_do_not_fit_and_kinds_that_do_not_exist(trained):
    with pytest.raises(DsvError, match="choose int8, float16 or float32"):
        sent_as(trained.model, "int4")
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, 1e6)
    with pytest.raises(DsvError, match="do not fit into float16"):
        sent_as(model, "float16")


def test_what_float16_cannot_hold_goes_whole_beside_int8(teacher):
    model = copy.deepcopy(teacher.model)
    name, bias = next((name, value) for name, value in model.named_parameters() if value.ndim == 1)
    with torch.no_grad():
        bias[0] = 1e6
    assert torch.equal(sent_as(model, "int8").model.get_parameter(name), bias)
