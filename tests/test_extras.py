"""What is installed with one extra runs with that extra alone: a device has no Prometheus, a server no simulation."""

import json
import os
import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

WITHOUT = """
import json, os, sys

class Missing:
    names = set(json.loads(os.environ["NOT_INSTALLED"]))

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


def distributions(extra: str) -> set[str]:
    """Names of all that ``pip install feddsv[extra]`` installs on this machine."""
    pending, seen = [("feddsv", extra), ("feddsv", "")], set()
    while pending:
        name, chosen = pending.pop()
        if (name, chosen) in seen:
            continue
        try:
            requirements = [Requirement(text) for text in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:  # of another platform
            continue
        seen.add((name, chosen))
        for needed in requirements:
            if needed.marker is None or needed.marker.evaluate({"extra": chosen}):
                pending += [(canonicalize_name(needed.name), part) for part in ("", *needed.extras)]
    return {name for name, _ in seen}


def run(extra: str, code: str) -> subprocess.CompletedProcess[str]:
    """Python code in a process that finds only what the extra brings."""
    here = distributions(extra)
    owners = metadata.packages_distributions().items()
    hidden = [module for module, names in owners if not here & {canonicalize_name(name) for name in names}]
    environment = {**os.environ, "NOT_INSTALLED": json.dumps(hidden)}
    command = [sys.executable, "-c", WITHOUT + code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.parametrize(
    ("extra", "hidden"), [("client", "prometheus_client"), ("server", "matplotlib"), ("simulation", "hypothesis")]
)
def test_what_another_extra_brings_is_hidden(extra, hidden):
    ended = run(extra, f"import {hidden}")
    assert ended.returncode == 1
    assert f"No module named '{hidden}'" in ended.stderr


@pytest.mark.parametrize(
    ("extra", "modules"),
    [
        ("client", "deploy.cli, client.app, client.device, client.bootstrap, deploy.newcomer, deploy.doctor"),
        ("server", "deploy.cli, server.app, server.synthesis_job, server.distribution, deploy.proxy, deploy.doctor"),
        ("simulation", "deploy.cli, deploy.simulate, deploy.savings_run, deploy.pages.run_page"),
    ],
)
def test_an_extra_is_enough(extra, modules):
    ended = run(extra, f"import {modules}")
    assert ended.returncode == 0, ended.stderr[-2000:]


@pytest.mark.parametrize(
    ("extra", "arguments", "said"),
    [
        ("client", ["--help"], "Usage"),
        ("client", ["bootstrap", "--server", "localhost:1"], "localhost:1"),
        ("client", ["rehearse", "--release", "nowhere", "--images", ".", "--save-model", "model"], "nowhere"),
        ("client", ["deploy", "supernode", "--keys", "nowhere", "--server", "localhost:1", "--data", "."], "nowhere"),
        ("server", ["serve", "--store", "nowhere"], "nowhere"),
        ("server", ["deploy", "superlink", "--certs", "nowhere"], "nowhere"),
    ],
)
def test_a_command_of_an_extra_comes_to_its_own_words(extra, arguments, said):
    ended = run(extra, f"from deploy.cli import cli; cli({arguments!r})")
    told = ended.stdout + ended.stderr
    assert said in told and "not installed" not in told and "Traceback" not in told
