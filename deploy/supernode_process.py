"""Flower's SuperNode as a process that ends when the SuperNode has.

Where a TLS handshake breaks off half way, as when a server is being restarted, Flower 1.41 gives its server up and
returns, but leaves a thread running that serves this device's own processes: the process would live on, offline for
ever, and seem well to whoever supervises it. ``dsv deploy supernode`` becomes this process.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

from flwr.supernode.cli import flower_supernode


def main() -> NoReturn:
    """Flower's own command, with its arguments. What ends it in an orderly way, such as a signal, leaves by itself."""
    try:
        flower_supernode()
        print(
            "Flower gave the server up (its reason is above): this SuperNode ends, to be started again", file=sys.stderr
        )
    except Exception:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    main()
