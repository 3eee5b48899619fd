"""What labels a release: the global model, or all clients' own as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from dsv import Ensemble, LabelledViews, ViewPlan, label_views, predict
from protos.checkpoint import Checkpoint


class Labeller:
    """A teacher, or the clients whose mean takes its place.

    Args:
        teacher: the global model.
        clients: none where the teacher itself labels.
        device: where to compute; the models that label are moved there.
    """

    def __init__(self, teacher: Checkpoint, clients: Sequence[Checkpoint], device: str) -> None:
        self._task, self._device = teacher.task, device
        self._model = Ensemble([client.model for client in clients]) if clients else teacher.model
        self._model.to(device).eval()

    def probabilities(self, images: Tensor) -> Tensor:
        """(N, K) float32 of (N, C, S, S) uint8 images."""
        return predict(self._model, images, self._task, device=self._device)

    def views(
        self, images: Tensor, plan: ViewPlan, on_labelled: Callable[[int, int], None] | None = None
    ) -> LabelledViews:
        """See ``label_views``."""
        return label_views(self._model, images, self._task, plan, device=self._device, on_labelled=on_labelled)
