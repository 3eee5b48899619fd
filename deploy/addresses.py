"""Addresses, HOST:PORT."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Self

from dsv import DsvError
from protos.transport import is_loopback


@dataclass(frozen=True)
class Address:
    """A host (DNS name or IP address, without brackets) and a port, 1 to 65535."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read HOST:PORT; an IPv6 address stands in brackets.

        Raises:
            DsvError: anything else.
        """
        host, _, port = text.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        spaced = any(c.isspace() or c in ";{}\"'\\$/" for c in bare)
        if not bare or (":" in bare) != (bare != host) or spaced or not port.isascii() or not port.isdigit():
            raise DsvError(f"address {text!r} is not HOST:PORT, such as fed.example.org:9093 or [::1]:9093")
        if not 1 <= int(port) <= 65535:
            raise DsvError(f"address {text!r} has a port outside 1 to 65535")
        return cls(bare, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_ip(self) -> bool:
        """Whether the host is an IP address and no name."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return is_loopback(self.host)
