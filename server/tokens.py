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
from server.metrics import log_event


@dataclass(frozen=True)
class Tokens:
    """Bearer tokens by SHA-256: the file that the server holds lets nobody in."""

    names: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """Lines ``name sha256`` as ``add`` writes them.

        Raises:
            DsvError: no such file, or a line of another form.
        """
        names = {}
        for line in read_input(path, "tokens").decode("utf-8", "replace").splitlines():
            name, _, digest = line.partition(" ")
            if not name or not DIGEST.fullmatch(digest):
                raise DsvError(f"{path} is no file of tokens: {line[:40]!r}; make tokens with 'dsv keys token'")
            names[digest] = name
        return cls(names)

    @staticmethod
    def add(path: Path, name: str) -> str:
        """Make a token for ``name``, add it to the file and return it; nothing else ever shows it.

        Raises:
            DsvError: a name with a space, a file that cannot be written, or one of something else.
        """
        if not name.isprintable() or not name or " " in name:
            raise DsvError(f"a token's name is one word, got {name!r}")
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
        """Whose token it is; where the file has become unreadable, by what was last read of it."""
        stamp = _stamp(self._path)
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._tokens = Tokens.read(self._path)
                log_event(logging.INFO, "tokens", count=len(self._tokens.names))
            except DsvError as error:
                log_event(logging.ERROR, "cannot read tokens; the ones of before count", reason=str(error))
        return self._tokens.name_of(token)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Another one for every file that was written there."""
    with suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size
    return None


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
