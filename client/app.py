"""The Flower ClientApp: trains on this device's images and sends back what protos/allowlist.py names."""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from dsv import DsvError
from protos import allowlist

_log = logging.getLogger("dsv.client")

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round on this device."""
    return _reply(message, context, _train, "training")


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """The round's model on the images that this device keeps from training."""
    return _reply(message, context, _evaluate, "evaluation")


def _reply(
    message: Message, context: Context, answer: Callable[[RecordDict, Context], RecordDict], doing: str
) -> Message:
    """An error's text stays here: it may name private files."""
    try:
        content = answer(message.content, context)
    except Exception:
        _log.exception("%s on this device failed", doing)
        raise RuntimeError(f"{doing} failed on the device; its own log says why") from None
    return Message(content, reply_to=message)


def _train(received: RecordDict, context: Context) -> RecordDict:
    # Imported here so that a device pays for torch only when it trains.
    from client.device import Device
    from client.local import train_locally
    from protos.exchange import as_record, exchanged_tensors, reply_layout

    device = Device.of(context)
    settings = device.settings
    model, layout = device.receive(received)
    examples, loss = train_locally(model, device, round_number=_round(received))
    reply = RecordDict(
        {
            allowlist.ARRAYS: as_record(exchanged_tensors(model, settings.trainable), settings.upload_dtype),
            allowlist.METRICS: MetricRecord({allowlist.EXAMPLES: examples, allowlist.LOSS: loss}),
        }
    )
    allowlist.check_reply(reply, reply_layout(layout, settings.upload_dtype))
    return reply


def _evaluate(received: RecordDict, context: Context) -> RecordDict:
    from client.device import Device
    from client.local import evaluate_locally

    device = Device.of(context)
    model, _ = device.receive(received)
    examples, accuracy = evaluate_locally(model, device)
    metrics = MetricRecord({allowlist.EXAMPLES: examples, allowlist.ACCURACY: accuracy})
    reply = RecordDict({allowlist.METRICS: metrics})
    allowlist.check_evaluation(reply)
    return reply


def _round(received: RecordDict) -> int:
    number = received.config_records[allowlist.CONFIG][allowlist.ROUND]
    if not isinstance(number, int):
        raise DsvError(f"{allowlist.ROUND} must be a whole number")
    return number
