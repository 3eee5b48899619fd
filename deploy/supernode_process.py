"""Flower's SuperNode as a process that ends when the SuperNode can do its work no more.

Flower 1.41 leaves a process that lives on, does nothing for ever, and seems well to whoever supervises it, where

- a TLS handshake breaks off half way, as when a server is being restarted: it gives its server up and returns, but does
  not end the thread that serves this device's own processes;
- a sign of life gets an answer that it does not expect, such as a server's internal error: the thread that sends them
  dies, and the device is offline;
- the child that starts its apps is killed, as for want of memory: the device is online, and answers no message.

``dsv deploy supernode`` becomes this process.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from typing import NoReturn

from flwr.supernode.cli import flower_supernode

from deploy.processes import children

_STARTER = "flower-superexec"
_LOOK_S, _GRACE_S = 5.0, 15.0


def main() -> NoReturn:
    """Flower's own command, with its arguments. What ends it in an orderly way, such as a signal, leaves by itself."""
    threading.excepthook = _thread_died
    threading.Thread(target=_watch, daemon=True).start()
    try:
        flower_supernode()
    except Exception:
        traceback.print_exc()
    _end("Flower gave the server up (its reason is above)")


def _thread_died(died: threading.ExceptHookArgs) -> None:
    traceback.print_exception(died.exc_type, died.exc_value, died.exc_traceback)
    _end("a part of Flower's died (above)")


def _watch() -> None:
    """End this process some time after its child has: an orderly end, of which that is a part, is over by then."""
    known = set[tuple[int, int]]()
    while True:
        running = children(os.getpid(), _STARTER)
        if known - running:
            time.sleep(_GRACE_S)
            _end(f"{_STARTER}, which starts its apps, died")
        known |= running
        time.sleep(_LOOK_S)


def _end(why: str) -> NoReturn:
    print(f"{why}: this SuperNode ends, to be started again", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    main()
