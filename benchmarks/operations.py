"""Which operations torch is asked for: each is a kernel to launch on a card, where small work waits for that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """By name; without views and fresh memory, which launch nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if not func.is_view and not name.startswith(("empty", "new_empty", "_unsafe_view")):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def operations(step: Callable[[], object]) -> Counter[str]:
    """How often one call asks for each, by name; another call comes before it, since the first one prepares things."""
    step()
    seen = _Count()
    with seen:
        step()
    return seen.counts
