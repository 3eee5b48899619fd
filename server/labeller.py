"""What labels a release: the global model, or all clients' own as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from dsv import LabelledViews, ViewPlan, label_views, predict
from protos.checkpoint import Checkpoint
from server.client_models import ensemble_logits, ensemble_predict


class Labeller:
    """A teacher, or the clients whose mean takes its place.

    Args:
        teacher: its model is on ``device``.
        clients: none where the teacher itself labels; their models are moved to ``device``.
        device: where to compute.
    """

    def __init__(self, teacher: Checkpoint, clients: Sequence[Checkpoint], device: str) -> None:
        self._teacher, self._clients, self._device = teacher, clients, device

    def probabilities(self, images: Tensor) -> Tensor:
        """(N, K) float32 of (N, C, S, S) uint8 images."""
        if self._clients:
            return ensemble_predict(self._clients, images, self._device)
        return predict(self._teacher.model, images, self._teacher.task, device=self._device)

    def views(
        self, images: Tensor, plan: ViewPlan, on_labelled: Callable[[int, int], None] | None = None
    ) -> LabelledViews:
        """See ``label_views``."""
        return label_views(self._logits, images, self._teacher.task, plan, device=self._device, on_labelled=on_labelled)

    def _logits(self, images: Tensor) -> Tensor:
        if self._clients:
            return ensemble_logits(self._clients, images)
        found: Tensor = self._teacher.model.eval()(images)
        return found
