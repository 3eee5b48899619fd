"""The command line, called as its users call it."""

from __future__ import annotations

from click.testing import CliRunner, Result

from deploy.cli import cli


def dsv(*arguments: object) -> Result:
    """Run ``dsv`` with these arguments, in a terminal of 120 columns."""
    return CliRunner(env={"COLUMNS": "120"}).invoke(cli, [str(a) for a in arguments])


def done(*arguments: object) -> str:
    """What a command prints that must end well."""
    result = dsv(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refused(message: str, *arguments: object) -> int:
    """The command ends with one line that holds the message, without a traceback; its exit code, 1 or 2."""
    result = dsv(*arguments)
    assert result.exit_code in (1, 2), result.output
    assert message in result.output, result.output
    assert "Traceback" not in result.output and isinstance(result.exception, SystemExit)
    return result.exit_code
