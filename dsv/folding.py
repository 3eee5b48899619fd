"""A model as a function of its parameters, with its batch norms folded into the convolutions before them.

In eval mode a batch norm with mean m, variance s, gain a and offset b is affine in its input, so after a convolution

    a (W * x + c - m) / sqrt(s + eps) + b = W' * x + c',  W' = a W / sqrt(s + eps),  c' = b + a (c - m) / sqrt(s + eps)

is one convolution. W' and c' stay differentiable functions of W, c, a and b, so every derivative in those is exact.
For inference this is usual (Jacob et al., *Quantization and training of neural networks for efficient integer-
arithmetic-only inference*, 2018, section 3.2); here it pays more, since the derivative of a batch norm along a
direction takes several passes over its whole output. ``docs/results.md`` has the figures.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from dsv.deepkkt import Parameters

Forward = Callable[[Parameters, Tensor], Tensor]
"""From parameters of a model by name, of which some may be missing, and (N, C, H, W) inputs to (N, K) logits."""


def folded_forward(model: nn.Module, chosen: Collection[str]) -> Forward:
    """``model`` as a function that can be differentiated in its parameters and inputs.

    A batch norm stays where folding wins nothing or may be wrong: its gain is chosen and the convolution's weights are
    not (which would need a derivative for its sake), one of the two is used more than once or shares a tensor,
    something else reads the convolution's output, or ``torch.fx`` cannot trace the model.

    Args:
        model: in eval mode; it is not changed, and its tensors are shared: what is loaded into them later counts.
        chosen: names of the parameters that derivatives are taken in.
    """
    graph = _traced(model) if any(type(module) is nn.BatchNorm2d for module in model.modules()) else None
    pairs = _pairs(model, graph, chosen) if graph is not None else []
    if graph is None or not pairs:
        return lambda parameters, inputs: _call(model, parameters, inputs)
    folded = _without_norms(model, graph, pairs)
    own = {name: parameter.detach() for name, parameter in model.named_parameters()}
    called = dict(folded.named_parameters()).keys()  # layers that only training calls are not part of it

    def forward(parameters: Parameters, inputs: Tensor) -> Tensor:
        found = _folded(own | dict(parameters), pairs)
        return _call(folded, {name: value for name, value in found.items() if name in called}, inputs)

    return forward


def _call(module: nn.Module, parameters: Parameters, inputs: Tensor) -> Tensor:
    logits: Tensor = functional_call(module, dict(parameters), (inputs,))
    return logits


@dataclass(frozen=True)
class _Pair:
    """A convolution and the batch norm after it, by their names, with what of the norm is no parameter."""

    convolution: str
    norm: str
    mean: Tensor
    variance: Tensor
    eps: float


def _traced(model: nn.Module) -> fx.Graph | None:
    """The calls that ``model`` makes, or None where they hang on its inputs or a hook may look at them."""
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return None
    try:
        return fx.Tracer().trace(model)
    except Exception:  # whatever a stranger's forward method does with an input that has no value
        return None


def _pairs(model: nn.Module, graph: fx.Graph, chosen: Collection[str]) -> list[_Pair]:
    calls = [node for node in graph.nodes if node.op == "call_module"]
    read = [str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"]  # of whose parameters
    used = [str(node.target) for node in calls] + read
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    found = []
    for node in calls:
        before = node.args[0] if len(node.args) == 1 else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        names = str(before.target), str(node.target)
        convolution, norm = map(model.get_submodule, names)
        weight, gain = (f"{name}.weight" for name in names)
        if (
            type(convolution) is nn.Conv2d
            and type(norm) is nn.BatchNorm2d
            and norm.running_mean is not None
            and norm.running_var is not None
            and all(used.count(name) == 1 for name in names)
            and all(uses[id(p)] == 1 for module in (convolution, norm) for p in module.parameters())
            and (weight in chosen or gain not in chosen)
        ):
            found.append(_Pair(*names, norm.running_mean, norm.running_var, norm.eps))
    return found


def _without_norms(model: nn.Module, graph: fx.Graph, pairs: list[_Pair]) -> nn.Module:
    """The traced model without the pairs' norms, whose convolutions have a bias; it shares the model's tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    own = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    norms = {pair.norm for pair in pairs}
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target in norms:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    for pair in pairs:
        convolution = own.get_submodule(pair.convolution)
        convolution.register_parameter("bias", nn.Parameter(torch.zeros_like(pair.mean), requires_grad=False))
    return fx.GraphModule(own, graph)


def _folded(parameters: Mapping[str, Tensor], pairs: list[_Pair]) -> dict[str, Tensor]:
    """The folded model's parameters of the model's own."""
    found = dict(parameters)
    for pair in pairs:
        weight, bias = f"{pair.convolution}.weight", f"{pair.convolution}.bias"
        gain, offset = found.pop(f"{pair.norm}.weight", None), found.pop(f"{pair.norm}.bias", None)
        scale = torch.rsqrt(pair.variance + pair.eps)
        scale = scale if gain is None else gain * scale
        shift = scale * (found[bias] - pair.mean if bias in found else -pair.mean)
        found[weight] = found[weight] * scale.view(-1, 1, 1, 1)
        found[bias] = shift if offset is None else offset + shift
    return found
