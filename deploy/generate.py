"""Everything in this repository that is generated: ``python -m deploy.generate [--check]``.

- protos/*_pb2*.py from protos/release.proto, by grpcio-tools;
- the table [tool.flwr.app.config] of pyproject.toml from protos/settings.py.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import tomli_w

from deploy.processes import ROOT
from protos.settings import RunSettings

GENERATED_CODE = ("protos/release_pb2.py", "protos/release_pb2.pyi", "protos/release_pb2_grpc.py")
_TABLE = "[tool.flwr.app.config]"


def _generated_code() -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        outputs = [f"--{kind}_out={folder}" for kind in ("python", "grpc_python", "pyi")]
        command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", *outputs, "protos/release.proto"]
        subprocess.run(command, cwd=ROOT, check=True)
        return {name: (Path(folder) / name).read_text() for name in GENERATED_CODE}


def _pyproject() -> str:
    before, rest = (ROOT / "pyproject.toml").read_text().split(_TABLE, 1)
    after = rest[rest.index("\n[") :]
    comment = "# Written by 'make generate' from protos/settings.py, where each option is described.\n"
    return f"{before}{_TABLE}\n{comment}{tomli_w.dumps(RunSettings().to_run_config())}{after}"


def main() -> int:
    """Write what differs; with --check, name it and return 1 instead."""
    stale = [
        (ROOT / name, content)
        for name, content in {**_generated_code(), "pyproject.toml": _pyproject()}.items()
        if not (ROOT / name).exists() or (ROOT / name).read_text() != content
    ]
    for path, content in stale:
        if "--check" in sys.argv[1:]:
            print(f"{path.relative_to(ROOT)} is stale: run 'make generate' and commit it", file=sys.stderr)
        else:
            path.write_text(content)
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
