"""What training takes of a device: peak memory of a client process and the seconds around the training itself.

    python -m benchmarks.device

Each case is a process of its own that does what Flower's ClientApp process does for one message: import the app, read
the device's images (64 random JPEGs of the case's size), train one step, make the reply. ``head`` trains the last layer
alone. Writes docs/results/device.json and prints a Markdown table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy
from PIL import Image

from benchmarks.machine import this_machine

CASES = (
    ("convnet:64", "*", 32),
    ("convnet:128", "*", 32),
    ("resnet18:64", "*", 32),
    ("mobilenet_v3_small", "head", 224),
    ("mobilenet_v3_large", "head", 224),
    ("torchvision.resnet18", "head", 224),
)
IMAGES, BATCH = 64, 16
CLASSES = "a,b,c,d,e,f,g,h,i,j"

_CHILD = """
import json, os, sys, time
started = time.perf_counter()
import client.app
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
flower_s = time.perf_counter() - started
for name in ("_task_id", "_run_id", "_node_id"):
    setattr(TaskIdentity, name, 1)
settings, root = json.loads(sys.argv[1]), sys.argv[2]
from protos.settings import RunSettings
from protos.exchange import as_record, exchanged_tensors, starting_model
run = RunSettings.from_run_config(settings)
record = as_record(exchanged_tensors(starting_model(run), run.trainable))
imports_s = time.perf_counter() - started
content = RecordDict({"arrays": record, "config": ConfigRecord({"server-round": 1})})
context = Context(1, 1, {"data-root": root}, RecordDict(), settings)
reply = client.app.app(Message(content, dst_node_id=1, message_type="train"), context)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(json.dumps({"peak_bytes": int(peak) * 1024, "flower_import_s": flower_s, "ready_s": imports_s,
                  "done_s": time.perf_counter() - started,
                  "upload_bytes": sum(len(a.data) for a in reply.content["arrays"].values())}))
"""


def photographs(root: Path, side_px: int) -> None:
    """Random JPEGs, in ten class folders."""
    generator = numpy.random.default_rng(0)
    for number in range(IMAGES):
        folder = root / CLASSES.split(",")[number % 10]
        folder.mkdir(exist_ok=True)
        pixels = generator.integers(0, 256, (side_px, side_px, 3), dtype=numpy.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")


def measure(architecture: str, trainable: str, side_px: int, threads: int) -> dict[str, Any]:
    """One case in a process of its own."""
    settings = {"data": "imagefolder", "classes": CLASSES, "image-size-px": side_px, "architecture": architecture}
    settings |= {"trainable": trainable, "local-epochs": 1, "local-batch-size": BATCH}
    with tempfile.TemporaryDirectory() as folder:
        photographs(Path(folder), side_px)
        command = [sys.executable, "-W", "ignore", "-c", _CHILD, json.dumps(settings), folder]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    row: dict[str, Any] = {"architecture": architecture, "trainable": trainable, "image_size_px": side_px}
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row | measured


@click.command()
@click.option("--threads", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results/device.json"), show_default=True)
def main(threads: int, out: Path) -> None:
    """Measure all cases."""
    rows = [measure(*case, threads) for case in CASES]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": this_machine(threads=threads), "rows": rows}, indent=1) + "\n")
    print("| model | trained | image | peak memory, MB | upload, kB | import and model, s | to the reply, s |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['architecture']} | {row['trainable']} | {row['image_size_px']} px | {row['peak_bytes'] / 1e6:.0f} "
            f"| {row['upload_bytes'] / 1e3:.0f} | {row['ready_s']:.1f} | {row['done_s']:.1f} |"
        )


if __name__ == "__main__":
    main()
