"""Hostile inputs for every parser that reads what strangers sent; only the documented errors may come out.

    OMP_NUM_THREADS=1 python -m benchmarks.fuzz --inputs 100000

Parsers: a release file (``protos.artefact.decode``), signed metadata's list of releases (``read_targets``), and TUF's
whole client workflow over files of which one was altered (``signed_releases``; a tenth of the inputs).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import grpc
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.server_link import Server, Trust
from client.verification import read_targets, signed_releases
from dsv import KNOWN_TASKS, DsvError, Provenance, SupportSet, ViewPlan, label_views
from protos import artefact, release_pb2
from server.publication import Publication
from server.signed_releases import SignedRelease
from server.signing_keys import SigningKeys

_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


RELEASES = ("raw", "2-bit", "png", "webp", "webp:50", "avif:50", "raw, views", "2-bit, views")


def example_release(kind: str = "raw") -> bytes:
    """A small release file, one of ``RELEASES``."""
    task = KNOWN_TASKS["digits"]
    encoding, _, views = kind.partition(", ")
    plan = ViewPlan(3, leaves=2)
    return artefact.encode(
        SupportSet(
            images=torch.arange(128, dtype=torch.uint8).reshape(2, 1, 8, 8),
            labels=torch.tensor([0, 1]),
            soft_labels=torch.full((2, 10), 0.1),
            multipliers=torch.ones(2),
            task=task,
            provenance=Provenance("convnet:8", "0" * 64, "noise", 0, {"a": 1}, {"torch": "2"}),
        ),
        encoding,
        relabel=lambda images: torch.full((2, 10), 0.1),
        label_views=(lambda images: label_views(lambda seen: seen.flatten(1)[:, :10], images, task, plan))
        if views
        else None,
    )


class _NotFoundError(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.NOT_FOUND


class ShownServer(Server):
    """A server whose metadata is a dictionary."""

    def show(self, files: dict[str, bytes]) -> None:
        """Let it answer with ``files``."""
        object.__setattr__(self, "files", files)

    @contextmanager
    def stub(self) -> Iterator[Any]:
        """Its only method is GetMetadata."""
        yield self

    def GetMetadata(self, request: release_pb2.GetMetadataRequest, **_: Any) -> release_pb2.GetMetadataResponse:
        """As the service's."""
        files: dict[str, bytes] = self.__dict__["files"]
        if request.name not in files:
            raise _NotFoundError
        return release_pb2.GetMetadataResponse(content=files[request.name])


@st.composite
def altered(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes overwritten, cut, doubled or made up."""
    kind = draw(st.sampled_from(["replace", "cut", "repeat", "anything"]))
    if kind == "anything":
        return draw(st.binary(max_size=300))
    at = draw(st.integers(0, len(content) - 1))
    if kind == "cut":
        return content[:at]
    if kind == "repeat":
        return content[:at] + content[draw(st.integers(0, at)) :]
    put = draw(st.binary(min_size=1, max_size=12))
    return content[:at] + put + content[at + len(put) :]


@st.composite
def altered_json(draw: st.DrawFn, content: bytes) -> bytes:
    """Well-formed JSON with one value, anywhere, replaced by any other."""
    whole = json.loads(content)
    target: Any = whole
    while True:
        keys = list(target) if isinstance(target, dict) else list(range(len(target)))
        key = draw(st.sampled_from(keys))
        inner = target[key]
        if not isinstance(inner, dict | list) or not inner or draw(st.integers(0, 3)) == 0:
            target[key] = draw(_JSON)
            return json.dumps(whole).encode()
        target = inner


def expecting_dsv_errors(
    name: str, inputs: int, strategy: st.SearchStrategy[Any], parse: Callable[[Any], object]
) -> None:
    """Run ``parse`` on so many inputs; any exception but ``DsvError`` leaves here with the input that made it."""
    counts = {"refused": 0, "read": 0}

    @settings(max_examples=inputs, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def run(given_input: Any) -> None:
        try:
            parse(given_input)
            counts["read"] += 1
        except DsvError:
            counts["refused"] += 1

    began_s = time.monotonic()
    run()
    click.echo(
        f"{name}: {sum(counts.values())} inputs, {counts['refused']} refused, {time.monotonic() - began_s:.0f} s"
    )


def signed_files(folder: Path) -> tuple[Path, dict[str, bytes]]:
    """A root and all files of a signed list of two releases."""
    publication = Publication(folder / "metadata", SigningKeys(folder / "keys"))
    root = publication.create()
    publication.update([SignedRelease(str(i) * 64, 1000, 20, 10, "convnet:8") for i in (1, 2)])
    return root, {path.name: path.read_bytes() for path in (folder / "metadata").glob("*.json")}


def decode_canonical(content: bytes) -> None:
    """Read a release; where images are not compressed, one content has one sequence of bytes."""
    found, encoding = artefact.decode(content), artefact.encoding_of(content)
    if encoding == "raw" or encoding.endswith("-bit"):
        assert artefact.encode(found, encoding) == content, "read, but not canonical"


def _fuzz_workflow(inputs: int, root: Path, files: dict[str, bytes]) -> None:
    server = ShownServer("127.0.0.1:1")
    names = st.sampled_from(["2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"])

    def original(name: str) -> bytes:
        return files.get(name, files["1.root.json"])

    def workflow(change: tuple[str, bytes]) -> None:
        with tempfile.TemporaryDirectory() as state:
            server.show({**files, change[0]: change[1]})
            signed_releases(server, Trust(root, Path(state)))

    changes = names.flatmap(lambda n: st.tuples(st.just(n), altered(original(n)) | altered_json(original(n))))
    expecting_dsv_errors("workflow", inputs, changes, workflow)


@click.command()
@click.option("--inputs", default=100_000, show_default=True)
@click.option("--parser", type=click.Choice(["release", "manifest", "workflow"]), multiple=True, help="All of them.")
def main(inputs: int, parser: tuple[str, ...]) -> None:
    """Fuzz the parsers."""
    if not parser or "release" in parser:
        for kind in RELEASES:
            hostile = altered(example_release(kind))
            expecting_dsv_errors(f"release, {kind}", inputs // len(RELEASES), hostile, decode_canonical)
    with tempfile.TemporaryDirectory() as name:
        root, files = signed_files(Path(name))
        targets = files["2.targets.json"]
        if not parser or "manifest" in parser:
            expecting_dsv_errors("manifest", inputs, altered_json(targets) | altered(targets), read_targets)
        if not parser or "workflow" in parser:
            _fuzz_workflow(inputs // 10, root, files)


if __name__ == "__main__":
    main()
