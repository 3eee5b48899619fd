"""What labels a release: the global model, or all clients' own as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from dsv import LabelledViews, Task, ViewPlan, label_views, predict
from protos.checkpoint import Checkpoint
from server.client_models import client_ensemble


class Labeller:
    """A model that labels.

    Args:
        model: it is moved to the device and put in eval mode.
        task: of the model.
        device: where to compute.
    """

    def __init__(self, model: nn.Module, task: Task, device: str) -> None:
        self.model, self._task, self._device = model.to(device).eval(), task, device

    @classmethod
    def of(cls, teacher: Checkpoint, clients: Sequence[Checkpoint], device: str) -> Labeller:
        """The teacher, or the clients, where there are any: their ensemble takes its place."""
        return cls(client_ensemble(clients, device) if clients else teacher.model, teacher.task, device)

    def probabilities(self, images: Tensor) -> Tensor:
        """(N, K) float32 of (N, C, S, S) uint8 images."""
        return predict(self.model, images, self._task)

    def views(
        self, images: Tensor, plan: ViewPlan, on_labelled: Callable[[int, int], None] | None = None
    ) -> LabelledViews:
        """See ``label_views``."""
        return label_views(self.model, images, self._task, plan, device=self._device, on_labelled=on_labelled)
