"""An operator's side: speaks to Flower's Control API through the ``flwr`` command."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from deploy.addresses import Address
from deploy.pem import existing
from deploy.processes import POLL_S, app_folder, flower_environment, flwr, process, tool
from dsv import DsvError

CONNECTION = "dsv"
_COMMAND_TIMEOUT_S = 180.0
_LOG_TIMEOUT_S = 60.0
_LAST_LINES_S = 10.0
_STATUS_EVERY_S = 10.0
_PATIENCE_S = 900.0
_FINISHED = "finished:"
_SHUT_OUT = "unregistered"
_COMPLETED = "finished:completed"


class RegisteredError(DsvError):
    """The SuperLink knows that key already."""


@dataclass(frozen=True)
class Control:
    """A way to the Control API.

    Args:
        address: the SuperLink on loopback, or an operator's proxy.
        authority: CA certificate for TLS; None speaks plainly, which loopback alone allows.
        home: FLWR_HOME of the commands.
        patience_s: how long the status of a run that is awaited may be unknown.
    """

    address: Address
    authority: Path | None
    home: Path
    patience_s: float = _PATIENCE_S

    def register(self, public_key: Path) -> int:
        """Admit the SuperNode that has this key and return the id that Flower gives it.

        Raises:
            RegisteredError: it is admitted already.
            DsvError: refused, or unreachable.
        """
        if not public_key.is_file():
            raise DsvError(f"{public_key} is missing; it is node.pub in a folder nodes/NAME of 'dsv certs'")
        try:
            return int(self._flwr("supernode", "register", str(public_key.absolute()), CONNECTION)["node-id"])
        except DsvError as error:
            if "already in use" in str(error):  # Flower's code 23
                raise RegisteredError(f"{public_key} is registered already{self._unless_shut_out()}") from None
            raise DsvError(f"{public_key}: {error}") from None

    def _unless_shut_out(self) -> str:
        """Flower does not tell which node has which key."""
        if all(node["status"] != _SHUT_OUT for node in self.nodes()):
            return ""
        return (
            ", or is of a node that was shut out: then it never comes back, and the device needs another, which "
            "'dsv certs --node NAME2' makes"
        )

    def unregister(self, node: int) -> None:
        """Shut a SuperNode out; its next sign of life is refused."""
        self._flwr("supernode", "unregister", str(node), CONNECTION)

    def nodes(self) -> list[dict[str, Any]]:
        """SuperNodes as ``flwr supernode list`` tells them: ``node-id``, ``status`` (registered, online, offline)."""
        return list(self._flwr("supernode", "list", CONNECTION)["nodes"])

    def start(self, run_config: Mapping[str, object], *, app: Path | None = None) -> int:
        """Start a run of this checkout's app, or of the one in the folder ``app``, and return its id.

        Raises:
            DsvError: refused, or unreachable.
        """
        overrides = self.home / "run-config.toml"
        overrides.write_text(tomli_w.dumps(run_config))
        return int(self._flwr("run", str(app or app_folder()), CONNECTION, "-c", str(overrides))["run-id"])

    def status(self, run: int) -> str:
        """Status of a run, such as ``running`` or ``finished:completed``."""
        listed = self._flwr("list", CONNECTION, "--run-id", str(run))
        return str(listed["runs"][0]["status"])

    def stop(self, run: int) -> None:
        """Stop a run."""
        self._flwr("stop", str(run), CONNECTION)

    def await_end(
        self, run: int, *, finished: Callable[[], bool], say: Callable[[str], None] = lambda told: None
    ) -> None:
        """Wait until a run has completed; a Control API that does not answer for a while ends no waiting.

        Args:
            finished: called several times a second; True ends the waiting early, once the app has done all it does.
            say: told when the run's status is not known, and when it is again.

        Raises:
            DsvError: it ended otherwise (holds the last line of its log), or its status was not known for too long.
        """
        unknown_since_s: float | None = None
        while not finished():
            try:
                status = self.status(run)  # a process that takes seconds
                if unknown_since_s is not None:
                    say(f"run {run} is {status}")
                unknown_since_s = None
            except DsvError as error:
                if unknown_since_s is None:
                    unknown_since_s = time.monotonic()
                    say(f"the status of run {run} is not known, it may go on; asking again ({error})")
                if time.monotonic() - unknown_since_s > self.patience_s:
                    raise
                status = ""
            if status == _COMPLETED:
                return
            if status.startswith(_FINISHED) and not finished():
                raise DsvError(f"the run ended as {status!r}; its last words: {self._last_words(run)}")
            deadline = time.monotonic() + _STATUS_EVERY_S
            while time.monotonic() < deadline and not finished():
                time.sleep(POLL_S)

    @contextmanager
    def log_told(self, run: int, say: Callable[[str], None]) -> Iterator[None]:
        """While the block goes on, every line of a run's log as it is written.

        A log that cannot be read says so and ends nothing.
        """
        command = [tool("flwr"), "log", str(run), CONNECTION, "--stream"]
        with process(command, flower_environment(self.home), subprocess.PIPE) as child:
            thread = threading.Thread(target=_say_lines, args=(child, say), name="log", daemon=True)
            thread.start()
            try:
                yield
            except DsvError:
                thread.join(_LAST_LINES_S)  # of a run that failed the last lines are worth most
                raise
            thread.join(_LAST_LINES_S)  # the stream ends by itself, a moment after the run

    def _last_words(self, run: int) -> str:
        """The line of a run's log that tells most."""
        environment = flower_environment(self.home)
        try:
            shown = flwr("log", str(run), CONNECTION, "--show", environment=environment, timeout_s=_LOG_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"its log could not be read within {_LOG_TIMEOUT_S:.0f} s"
        lines = [line.strip() for line in shown.stdout.splitlines() if line.strip()]
        telling = [line for line in lines if "Error" in line]
        return (telling or lines or ["it logged nothing"])[-1]

    def _flwr(self, *arguments: str) -> dict[str, Any]:
        environment = flower_environment(self.home)
        try:
            done = flwr(*arguments, "--format", "json", environment=environment, timeout_s=_COMMAND_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise DsvError(f"{self.address} did not answer within {_COMMAND_TIMEOUT_S:.0f} s; is it up?") from None
        answer = _json_in(done.stdout)
        if done.returncode != 0 or not answer.get("success", False):
            said = str(answer.get("error-message") or done.stderr.strip() or done.stdout.strip() or "nothing")
            reason = " ".join(said.split())[-400:]
            if "is unavailable" in reason:  # Flower says so of a wrong certificate too
                raise DsvError(
                    f"cannot reach {self.address}: is 'dsv deploy operator' (or the SuperLink) up there, and is "
                    "--authority missing, not wanted, or of another 'dsv certs'?"
                )
            raise DsvError(f"'flwr {' '.join(arguments[:2])}' over {self.address} was refused: {reason}")
        return answer


@contextmanager
def control(address: Address, authority: Path | None) -> Iterator[Control]:
    """A way to the Control API, with a Flower home that is gone at the end.

    Raises:
        DsvError: plain speech with another machine was asked for, or there is no such authority.
    """
    if authority is None and not address.is_loopback:
        raise DsvError(
            f"{address} is another machine; run 'dsv deploy operator' here and give its loopback address, or use "
            "the SuperLink's machine"
        )
    with tempfile.TemporaryDirectory(prefix="dsv-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        settings: dict[str, object] = {"address": str(address)}
        if authority is None:
            settings["insecure"] = True
        else:
            settings["root-certificates"] = str(existing(authority))
        (home / "config.toml").write_text(tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: settings}}))
        yield Control(address, authority, home)


def _say_lines(child: subprocess.Popen[bytes], say: Callable[[str], None]) -> None:
    """Until the child's end: what nobody listens to any more (``| head``) is read all the same, or the child waits."""
    assert child.stdout is not None
    listening = True
    for line in child.stdout:
        if listening and (told := line.decode(errors="replace").rstrip()):
            try:
                say(told)
            except OSError:
                listening = False


def _json_in(printed: str) -> dict[str, Any]:
    """The JSON object among what a command printed."""
    begin, end = printed.find("{"), printed.rfind("}")
    try:
        found = json.loads(printed[begin : end + 1])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
