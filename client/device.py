"""This device as Flower describes it: the run's settings and what its owner says in the node config.

A real device's node config holds ``data-root``, the folder of its private images, and where the run starts from a
backbone, ``backbone``, its own copy of that file. A simulated one holds ``partition-id`` and ``num-partitions``.
"""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import ArrayRecord, Context, RecordDict
from torch import nn

from dsv import DsvError
from protos import allowlist
from protos.exchange import as_record, exchanged_tensors, load_record, starting_model
from protos.settings import RunSettings


@dataclass(frozen=True)
class Device:
    """What training on this device depends on.

    Args:
        settings: of the run.
        data_root: folder of this device's own images; empty for a simulated client.
        backbone: this device's copy of the backbone; the run's path when empty.
        client, clients: number of a simulated client, and how many there are.
    """

    settings: RunSettings
    data_root: str = ""
    backbone: str = ""
    client: int = 0
    clients: int = 1

    @classmethod
    def of(cls, context: Context) -> Device:
        """The device that runs in ``context``.

        Raises:
            DsvError: unknown or ill-typed settings.
        """
        node = context.node_config
        root, backbone = node.get("data-root", ""), node.get("backbone", "")
        if not isinstance(root, str) or not isinstance(backbone, str):
            raise DsvError("data-root and backbone in the node config must be paths, in quotes")
        return cls(
            RunSettings.from_run_config(context.run_config),
            root,
            backbone,
            int(node.get("partition-id", 0)),
            int(node.get("num-partitions", 1)),
        )

    def receive(self, received: RecordDict) -> tuple[nn.Module, allowlist.Layout]:
        """The model that the server's instruction holds, and the layout of what travels.

        Raises:
            RefusedError: the instruction holds anything that the allow-list does not name.
        """
        model = starting_model(self.settings, self.backbone)
        record: ArrayRecord = as_record(exchanged_tensors(model, self.settings.trainable))
        layout = allowlist.layout_of(record)
        allowlist.check_instruction(received, layout)
        load_record(model, received.array_records[allowlist.ARRAYS])
        return model.to(self.settings.device), layout
