"""The same two parsers as ``fuzz.py``, with inputs that coverage guides (atheris; ``pip install atheris``):

    python -m benchmarks.fuzz_guided release|manifest [--inputs 100000]

Starts from a valid file and keeps whatever reaches new code. libFuzzer prints what it did; it ends with a trace and a
file of the input at the first exception that is not documented.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["protos", "client.verification", "dsv.support_set", "dsv.task"]):
    from benchmarks.fuzz import RELEASES, decode_canonical, example_release, signed_files
    from client.verification import read_targets

from dsv import DsvError


def _release(content: bytes) -> None:
    with suppress(DsvError):
        decode_canonical(content)


def _manifest(content: bytes) -> None:
    try:
        read_targets(content)
    except DsvError:
        return


def main() -> None:
    """Fuzz one parser."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    options.add_argument("parser", choices=["release", "manifest"])
    options.add_argument("--inputs", type=int, default=100_000)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name) / "corpus"
        corpus.mkdir()
        if chosen.parser == "release":
            for number, kind in enumerate(RELEASES):
                (corpus / f"valid-{number}").write_bytes(example_release(kind))
        else:
            (corpus / "valid").write_bytes(signed_files(Path(name))[1]["2.targets.json"])
        limits = [f"-runs={chosen.inputs}", "-max_len=8192", "-verbosity=1"]
        atheris.Setup([sys.argv[0], *limits, str(corpus)], _release if chosen.parser == "release" else _manifest)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
