"""A model as a function of its parameters, with its batch norms folded into the convolutions before them.

In eval mode a batch norm with mean m, variance s, gain a and offset b is affine in its input, so after a convolution

    a (W * x + c - m) / sqrt(s + eps) + b = W' * x + c',  W' = a W / sqrt(s + eps),  c' = b + a (c - m) / sqrt(s + eps)

is one convolution. W' and c' stay differentiable functions of W, c, a and b, so every derivative in those is exact.
For inference this is usual (Jacob et al., *Quantization and training of neural networks for efficient integer-
arithmetic-only inference*, 2018, section 3.2); here it pays more, since the derivative of a batch norm along a
direction takes several passes over its whole output. ``docs/results.md`` has the figures.

Which norm follows which convolution is seen by looking on while the model runs once. (``torch.fx`` would tell too, but
while it traces it replaces ``nn.Module.__call__`` for all threads of the process.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from dsv.deepkkt import Parameters
from dsv.layers import copy_over

Forward = Callable[[Parameters, Tensor], Tensor]
"""From parameters of a model by name, of which some may be missing, and (N, C, H, W) inputs to (N, K) logits."""


def folded_forward(model: nn.Module, chosen: Collection[str], example: Tensor) -> Forward:
    """``model`` as a function that can be differentiated in its parameters and inputs.

    A batch norm stays where folding wins nothing or would be wrong: its gain is chosen and the convolution's weights
    are not (which would need a derivative for its sake), one of the two is called more than once or has a hook, or one
    of their parameters or the convolution's output is read elsewhere too.

    Args:
        model: in eval mode; it is not changed, and its tensors are shared: what is loaded into them later counts.
        chosen: names of the parameters that derivatives are taken in.
        example: (1, C, H, W) inputs, on which the model is run once.
    """
    own = copy_over(model) if any(type(module) is nn.BatchNorm2d for module in model.modules()) else None
    pairs = []
    if own is not None:
        with torch.no_grad(), _Watch(own) as watch:
            own(example.detach())
        pairs = [pair for pair in watch.pairs() if pair.weight in chosen or pair.gain not in chosen]
    if own is None or not pairs:
        return lambda parameters, inputs: _call(model, parameters, inputs)
    for pair in pairs:
        convolution, norm = own.get_submodule(pair.convolution), own.get_submodule(pair.norm)
        norm.__class__ = _Folded  # and not another module: code around it may read its attributes
        convolution.register_parameter("bias", nn.Parameter(torch.zeros_like(pair.mean), requires_grad=False))
    fixed = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return lambda parameters, inputs: _call(own, _folded(fixed | dict(parameters), pairs), inputs)


def _call(module: nn.Module, parameters: Parameters, inputs: Tensor) -> Tensor:
    logits: Tensor = functional_call(module, dict(parameters), (inputs,))
    return logits


class _Folded(nn.BatchNorm2d):
    """A norm whose work the convolution before it does."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


@dataclass(frozen=True)
class _Pair:
    """A convolution and the batch norm after it, by their names, with what of the norm is no parameter."""

    convolution: str
    norm: str
    mean: Tensor
    variance: Tensor
    eps: float

    @property
    def weight(self) -> str:
        """The convolution's."""
        return f"{self.convolution}.weight"

    @property
    def gain(self) -> str:
        """The norm's."""
        return f"{self.norm}.weight"


class _Watch(TorchFunctionMode):
    """Looks on while a model runs: which norm gets which convolution's output, and who else reads what of both."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model, self._inside = model, ""
        self._calls: Counter[str] = Counter()
        self._from: dict[str, str] = {}  # norm to convolution
        self._watched: dict[int, Tensor] = {
            id(p): p for p in model.parameters()
        }  # and outputs: held, since an id may come again
        self._outputs: dict[int, str] = {}
        self._reads: set[tuple[int, str]] = set()  # tensor, and the layer that it was read in
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> _Watch:
        for name, module in self._model.named_modules():
            if type(module) in {nn.Conv2d, nn.BatchNorm2d} and not _hooks(module):
                self._handles += [
                    module.register_forward_pre_hook(lambda _, inputs, name=name: self._begin(name, inputs)),
                    module.register_forward_hook(lambda module, _, output, name=name: self._end(name, module, output)),
                ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._reads |= {(id(t), self._inside) for t in _tensors([*args, *kwargs.values()]) if id(t) in self._watched}
        return func(*args, **kwargs)

    def _begin(self, name: str, inputs: tuple[Tensor, ...]) -> None:
        self._inside = name
        self._calls[name] += 1
        if inputs and id(inputs[0]) in self._outputs:
            self._from[name] = self._outputs[id(inputs[0])]

    def _end(self, name: str, module: nn.Module, output: Tensor) -> None:
        self._inside = ""
        if type(module) is nn.Conv2d:
            self._watched[id(output)], self._outputs[id(output)] = output, name

    def pairs(self) -> list[_Pair]:
        """Those that can be one convolution."""
        uses = Counter(id(p) for _, p in self._model.named_parameters(remove_duplicate=False))
        readers: dict[int, set[str]] = {}
        for tensor, where in self._reads:
            readers.setdefault(tensor, set()).add(where)
        output_of = {name: tensor for tensor, name in self._outputs.items()}
        found = []
        for norm_name, name in self._from.items():
            convolution, norm = self._model.get_submodule(name), self._model.get_submodule(norm_name)
            parameters = {id(p): name for p in convolution.parameters()} | {id(p): norm_name for p in norm.parameters()}
            may_read = parameters | {output_of[name]: norm_name}
            if (
                isinstance(norm, nn.BatchNorm2d)
                and norm.running_mean is not None
                and norm.running_var is not None
                and self._calls[name] == self._calls[norm_name] == 1
                and all(uses[tensor] == 1 for tensor in parameters)
                and all(readers.get(tensor, set()) <= {where} for tensor, where in may_read.items())
            ):
                found.append(_Pair(name, norm_name, norm.running_mean, norm.running_var, norm.eps))
        return found


def _hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _tensors(values: Any) -> Iterator[Tensor]:
    """All in ``values`` and in lists and tuples of it."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _folded(parameters: Mapping[str, Tensor], pairs: list[_Pair]) -> dict[str, Tensor]:
    """The folded model's parameters of the model's own."""
    found = dict(parameters)
    for pair in pairs:
        bias = f"{pair.convolution}.bias"
        gain, offset = found.get(pair.gain), found.get(f"{pair.norm}.bias")
        scale = torch.rsqrt(pair.variance + pair.eps)
        scale = scale if gain is None else gain * scale
        shift = scale * (found[bias] - pair.mean if bias in found else -pair.mean)
        found[pair.weight] = found[pair.weight] * scale.view(-1, 1, 1, 1)
        found[bias] = shift if offset is None else offset + shift
    return found
