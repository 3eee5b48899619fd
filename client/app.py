"""The Flower ClientApp: trains on this device's images and sends back what protos/allowlist.py names."""

from __future__ import annotations

import logging

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from dsv import DsvError
from protos import allowlist
from protos.settings import RunSettings

_log = logging.getLogger("dsv.client")

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round on this device. An error's text stays here: it may name private files."""
    try:
        content = _train(message.content, context)
    except Exception:
        _log.exception("training on this device failed")
        raise RuntimeError("training failed on the device; its own log says why") from None
    return Message(content, reply_to=message)


def _train(received: RecordDict, context: Context) -> RecordDict:
    # Imported here so that a device pays for torch only when it trains.
    import torch

    from client.local import train_locally
    from dsv import build_model

    settings = RunSettings.from_run_config(context.run_config)
    model = build_model(settings.model_spec(), seed=settings.seed)
    layout = allowlist.layout_of(ArrayRecord(model.state_dict()))
    allowlist.check_instruction(received, layout)
    model.load_state_dict(received.array_records[allowlist.ARRAYS].to_torch_state_dict())
    round_number = received.config_records[allowlist.CONFIG][allowlist.ROUND]
    if not isinstance(round_number, int):
        raise DsvError(f"{allowlist.ROUND} must be a whole number")
    device = torch.device(settings.device)
    examples, loss = train_locally(
        model.to(device),
        settings,
        round_number=round_number,
        client=int(context.node_config.get("partition-id", 0)),
        clients=int(context.node_config.get("num-partitions", 1)),
        own_folder=str(context.node_config.get("data-root", "")),
    )
    reply = RecordDict(
        {
            allowlist.ARRAYS: ArrayRecord({name: t.cpu() for name, t in model.state_dict().items()}),
            allowlist.METRICS: MetricRecord({allowlist.EXAMPLES: examples, allowlist.LOSS: loss}),
        }
    )
    allowlist.check_reply(reply, layout)
    return reply
