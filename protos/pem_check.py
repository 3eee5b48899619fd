"""What is wrong with PEM files, told by name before gRPC is given them: its own complaint names none."""

from __future__ import annotations

import ssl
from pathlib import Path

from dsv import DsvError


def check_authority(path: Path) -> None:
    """Raise DsvError unless the file holds certificates of authorities."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except (OSError, ValueError):  # of which ssl's own errors are some
        raise DsvError(f"{path} holds no certificate in PEM; name the authority's certificate") from None


def check_pair(certificate: Path, key: Path) -> None:
    """Raise DsvError unless the files hold a certificate and its key, which no password locks."""
    try:
        # an empty password, so that nobody is asked for one
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError):
        raise DsvError(
            f"certificate {certificate} and key {key} are no pair in PEM without a password; name two that fit"
        ) from None
