"""Parameters of a model by name: those that stationarity speaks of, those that are trained."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dsv.errors import DsvError, differentiable
from dsv.task import Task

HEAD = "head"
"""As a pattern: the last linear layer, whatever it is called."""


def chosen_parameters(model: nn.Module, patterns: str = "*") -> dict[str, Tensor]:
    """Parameters of ``model`` under their names, in the model's order.

    Args:
        patterns: shell patterns separated by commas; ``*`` takes the whole network, ``classifier.*`` the last layer of
            convnet and resnet18, and ``head`` the last linear layer of any model (the paper's transfer setting, where
            nothing else was trained).

    Raises:
        DsvError: a pattern that fits no parameter, or ``head`` of a model without a linear layer.
    """
    named = dict(model.named_parameters())
    wanted = [_resolved(model, pattern.strip()) for pattern in patterns.split(",")]
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise DsvError(
                f"no parameter of the model fits {pattern!r}; it has, among others, {', '.join([*named][-4:])}"
            )
    return {name: p for name, p in named.items() if any(fnmatchcase(name, pattern) for pattern in wanted)}


def stationary_parameters(model: nn.Module, task: Task, patterns: str) -> dict[str, Tensor]:
    """``chosen_parameters`` that the logits depend on: what a network holds and never reads has no gradient.

    Args:
        model: in eval mode, where it is; one black image is tried.
        task: of the model.

    Raises:
        DsvError: as ``chosen_parameters`` and ``differentiable``, or the logits depend on none of them.
    """
    chosen = chosen_parameters(model, patterns)
    with differentiable(), torch.enable_grad():
        leaves = {name: p.detach().requires_grad_() for name, p in chosen.items()}
        some = next(iter(leaves.values()))
        total = functional_call(model, leaves, (torch.zeros(1, *task.image_shape).to(some),)).sum()
        found: Sequence[Tensor | None] = [None] * len(leaves)
        if total.requires_grad:
            found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    read = {name: chosen[name] for name, gradient in zip(chosen, found, strict=True) if gradient is not None}
    if not read:
        raise DsvError(f"the model's outputs depend on no parameter that fits {patterns!r}; choose others")
    return read


def train_only(model: nn.Module, patterns: str = "*") -> dict[str, Tensor]:
    """Freeze all other parameters of ``model``; returns those left, as ``chosen_parameters`` does and raises."""
    chosen = chosen_parameters(model, patterns)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    return chosen


def start_training(model: nn.Module) -> None:
    """Training mode, but for batch norms of a partly frozen model that are frozen themselves: their running statistics
    belong to the frozen weights and stay as they are. One without weights goes with the layer before it, or, where
    there is none, with the first."""
    model.train()
    weights = {module: list(module.parameters(recurse=False)) for module in model.modules()}
    frozen = not any(p.requires_grad for p in next(filter(None, weights.values()), []))
    for module, own in weights.items():
        if own:
            frozen = not any(p.requires_grad for p in own)
        if frozen and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _resolved(model: nn.Module, pattern: str) -> str:
    if pattern != HEAD:
        return pattern
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise DsvError("the model has no linear layer, so it has no head; name its parameters by a pattern")
    return f"{layers[-1]}.*"
