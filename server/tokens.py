"""Bearer tokens of devices: made, kept as their SHA-256, and looked up."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dsv import DsvError
from protos.files import locked, read_input, write_atomically
from protos.transport import DIGEST
from server.log import log_event


@dataclass(frozen=True)
class Tokens:
    """Bearer tokens by SHA-256: the file that the server holds lets nobody in."""

    names: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """Lines ``name sha256`` as ``add`` writes them; empty ones count for nothing.

        Raises:
            DsvError: no such file, or a line of another form.
        """
        names, others = _lines(path)
        if others:
            line = next(iter(others.values()))
            raise DsvError(f"{path} is no file of tokens: {line[:40]!r}; make tokens with 'dsv keys token'")
        return cls(names)

    @staticmethod
    def add(path: Path, name: str) -> str:
        """Make a token for ``name``, add it to the file and return it; nothing else ever shows it.

        Raises:
            DsvError: a name with a space, a file that cannot be written, or one of something else.
        """
        if not name.isprintable() or not name or " " in name:
            raise DsvError(f"a token's name is one word, got {name!r}")
        if not path.name:  # "" is the current folder, which a lock cannot lie beside
            raise DsvError(f"cannot write tokens {path}: it is a folder; name a file")
        token = secrets.token_urlsafe(32)
        try:
            with locked(path.with_name(f".{path.name}.lock")):  # or one of two at once would be lost
                before = b""
                if path.exists():
                    Tokens.read(path)  # never write into a file that is not one
                    before = read_input(path, "tokens")
                    before += b"" if before.endswith(b"\n") or not before else b"\n"
                write_atomically(path, before + f"{name} {_sha256(token)}\n".encode(), mode=0o600)
        except OSError as error:
            raise DsvError(f"cannot write tokens {path}: {error.strerror}; choose another file") from None
        return token

    def name_of(self, token: str) -> str | None:
        """Whose token it is."""
        given = _sha256(token)
        return next((name for digest, name in self.names.items() if hmac.compare_digest(digest, given)), None)


class TokenFile:
    """The tokens of a file as it is now: a device whose line is added is let in from the next call on, and one whose
    line is taken away is not."""

    def __init__(self, path: Path) -> None:
        """Raises DsvError as ``Tokens.read``."""
        self._path, self._seen = path, _stamp(path)
        self._tokens = Tokens.read(path)

    def name_of(self, token: str) -> str | None:
        """Whose token it is; where the file has become unreadable, or no line of it is a token's, by what was last
        read of it."""
        stamp = _stamp(self._path)
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._tokens = self._read_again()
                log_event(logging.INFO, "tokens", count=len(self._tokens.names))
            except DsvError as error:
                log_event(logging.ERROR, "cannot read tokens; the ones of before count", reason=str(error))
        return self._tokens.name_of(token)

    def _read_again(self) -> Tokens:
        """Leaves lines of another form out: else a slip in one would keep those alive that were taken away."""
        names, others = _lines(self._path)
        if not names:
            return Tokens.read(self._path)
        if others:  # their numbers alone: a token itself may have been pasted there
            log_event(logging.ERROR, "lines that are no token's are left out", file=str(self._path), lines=list(others))
        return Tokens(names)


def _lines(path: Path) -> tuple[dict[str, str], dict[int, str]]:
    """Names by SHA-256, and by their number the lines of another form, empty ones apart."""
    names, others = {}, {}
    for number, line in enumerate(read_input(path, "tokens").decode("utf-8", "replace").splitlines(), 1):
        name, _, digest = line.partition(" ")
        if name and DIGEST.fullmatch(digest):
            names[digest] = name
        elif line.strip():
            others[number] = line
    return names, others


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Another one for every file that was written there."""
    with suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size
    return None


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
