"""Flower's SuperNode as a process that ends when the SuperNode can do its work no more.

Flower 1.41 leaves a process that lives on, offline for ever, and seems well to whoever supervises it, in two cases. A
TLS handshake that breaks off half way, as when a server is being restarted, makes it give its server up and return, but
not end the thread that serves this device's own processes. And an answer to its sign of life that it does not expect,
such as a server's internal error, ends the thread that sends them. ``dsv deploy supernode`` becomes this process.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from typing import NoReturn

from flwr.supernode.cli import flower_supernode


def main() -> NoReturn:
    """Flower's own command, with its arguments. What ends it in an orderly way, such as a signal, leaves by itself."""
    threading.excepthook = _thread_died
    try:
        flower_supernode()
    except Exception:
        traceback.print_exc()
    _end("Flower gave the server up (its reason is above)")


def _thread_died(died: threading.ExceptHookArgs) -> None:
    traceback.print_exception(died.exc_type, died.exc_value, died.exc_traceback)
    _end("a part of Flower's died (above)")


def _end(why: str) -> NoReturn:
    print(f"{why}: this SuperNode ends, to be started again", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    main()
