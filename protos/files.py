"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import fcntl
import math
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsv import DsvError

TEMPORARY_PREFIX = ".publishing-"
_POLL_S = 0.2


def write_atomically(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write beside, flush to disk, rename, flush the folder: a reader or a crash never sees half a file.

    Args:
        mode: who may read and write it, of which the process's umask takes its part away.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    temporary = path.with_name(TEMPORARY_PREFIX + secrets.token_hex(8))
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
        flush_folder(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def check_output(path: Path, what: str) -> None:
    """See that a file can come to be at ``path``, before hours are spent on what it shall hold.

    Args:
        what: what it shall hold, for the message.

    Raises:
        DsvError: its folder is not there or not writable, or something else than a file is in its place.
    """
    if path.exists() and not path.is_file():
        raise DsvError(f"cannot write {what} {path}: something else than a file is there; name another file")
    if not path.parent.is_dir():
        raise DsvError(f"cannot write {what} {path}: there is no folder {path.parent}; make it, or name another file")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise DsvError(f"cannot write {what} {path}: {path.parent} is not writable; name another file")


def write_output(path: Path, content: bytes, what: str, *, private: bool = False) -> None:
    """``write_atomically`` for a file that a user named.

    Args:
        what: it holds, for the message.
        private: its user alone may read it, whatever the umask allows.

    Raises:
        DsvError: as ``check_output``, or the disk is full.
    """
    check_output(path, what)
    try:
        write_atomically(path, content, mode=0o600 if private else 0o666)
    except OSError as error:
        raise DsvError(f"cannot write {what} {path}: {error.strerror}; name another file") from None


def read_input(path: Path, what: str, kind: str = "file") -> bytes:
    """The bytes of a file that a user named.

    Args:
        what: what it holds, for the message.
        kind: of file, for the remedy.

    Raises:
        DsvError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DsvError(f"cannot read {what} {path}: {error.strerror}; name a {kind} that is there") from None


def flush_folder(folder: Path) -> None:
    """Make the names in ``folder`` last: a rename is only on disk once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, *, timeout_s: float = math.inf) -> Iterator[None]:
    """Hold the lock file ``path``, which is made, alone among processes; a process that dies lets go of it.

    Raises:
        BlockingIOError: another process holds it for longer than ``timeout_s``.
        OSError: it cannot be made.
    """
    deadline_s = time.monotonic() + timeout_s
    with path.open("a") as opened:
        while True:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | (0 if timeout_s == math.inf else fcntl.LOCK_NB))
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(_POLL_S)
        yield
