"""What both ends of the distribution service's connections must agree on, and what trust is written in."""

from __future__ import annotations

import ipaddress
import re

KEEPALIVE_INTERVAL_S = 30
"""A silent connection is probed this often; a server refuses peers that probe more often than half of it."""
KEEPALIVE_TIMEOUT_S = 10
MAX_MESSAGE_BYTES = 6 << 20
"""No message is larger: a chunk has 256 KiB, and metadata ends at ``MAX_METADATA_BYTES``."""
MAX_METADATA_BYTES = 5_000_000
MAX_LISTED_BYTES = 5_000_000
"""Descriptions of releases that one message carries."""
METADATA_NAME = re.compile(r"timestamp\.json|[1-9][0-9]{0,9}\.(?:root|snapshot|targets)\.json")
DIGEST = re.compile(r"[0-9a-f]{64}")
RELEASE_SUFFIX = ".dsv"
AUTHORIZATION = "authorization"
BEARER = "Bearer "

CLIENT_OPTIONS: list[tuple[str, int]] = [
    ("grpc.keepalive_time_ms", KEEPALIVE_INTERVAL_S * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
]
SERVER_OPTIONS: list[tuple[str, int]] = [
    ("grpc.so_reuseport", 0),  # two servers would share a port silently instead of one being refused
    ("grpc.keepalive_time_ms", KEEPALIVE_INTERVAL_S * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_INTERVAL_S * 500),
    # Ends connections of peers that hold calls without reading; an honest one connects again and goes on.
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.max_connection_age_grace_ms", 600_000),
    ("grpc.max_receive_message_length", 1 << 16),  # requests hold a digest at most
]


def is_loopback(host: str) -> bool:
    """Whether ``host`` names this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def host_of(address: str) -> str:
    """The host of ``host:port``."""
    return address.rpartition(":")[0]
