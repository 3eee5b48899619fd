"""Every command that the documents and scripts name exists, and so do its options."""

import importlib
import importlib.util
import re
from pathlib import Path

import click
import pytest

from deploy.cli import cli

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    path
    for pattern in ("README.md", "CONTRIBUTING.md", "docs/*.md", "benchmarks/*.sh", "benchmarks/*.py", "deploy/*/*.md")
    for path in sorted(ROOT.glob(pattern))
]
_COMMAND = re.compile(r"(?:^|[\s`/])(dsv [a-z]|(?:python|\$PYTHON) -m benchmarks\.\w+)(.*)")
_ENDS = re.compile(r"`|&&|\|\s|;\s|\s#\s|\)\s|\"\"\"")


def commands(text):
    """(command, rest of its line) of every one in ``text``, up to what ends it."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"(?=(?<![\w.-])dsv [a-z])|(?=python -m benchmarks)", line):
            found = _COMMAND.match(" " + part)
            if found:
                yield _ENDS.split(found[1] + found[2])[0]


def options_of(words):
    """The options of the command that ``words`` begin with, or None where they are no command but prose."""
    if words[0] == "dsv":
        command, words = cli, words[1:]
        while isinstance(command, click.Group) and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        if command is cli:
            return None
    else:
        command = getattr(importlib.import_module(words[2]), "main", None)
        if not isinstance(command, click.Command):
            return set()
    members = list(command.commands.values()) if isinstance(command, click.Group) else [command]
    return {name for one in members for p in one.params for name in [*p.opts, *p.secondary_opts]} | {"--help"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_options_exist(path):
    for command in commands(path.read_text(encoding="utf-8")):
        if "fuzz_guided" in command and importlib.util.find_spec("atheris") is None:
            continue  # a fuzzer that nobody else needs
        given = re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", command)
        known = options_of(command.split())
        if known is None:
            assert not given, f"no such command: {command}"
            continue
        unknown = set(given) - known
        assert not unknown, f"{command}: no such options: {unknown}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_set_as_code_is_a_command(path):
    named = set(re.findall(r"`dsv ([a-z-]+)", path.read_text(encoding="utf-8")))
    assert named <= set(cli.commands), named - set(cli.commands)


def test_they_are_found():
    text = "run `dsv serve --port 1`, (`dsv inspect`)\n  OMP=1 python -m benchmarks.paper \\\n  --rows 'a;b' # --x\n"
    assert [found.split() for found in commands(text)] == [
        ["dsv", "serve", "--port", "1"],
        ["dsv", "inspect"],
        ["python", "-m", "benchmarks.paper", "--rows", "'a;b'"],
    ]
    assert "--port" in options_of(["dsv", "serve"]) and "--ports" not in options_of(["dsv", "serve"])
    assert options_of(["dsv", "severs"]) is None and "--rows" in options_of(["python", "-m", "benchmarks.paper"])
    assert sum(len(list(commands(path.read_text(encoding="utf-8")))) for path in DOCUMENTS) > 150
