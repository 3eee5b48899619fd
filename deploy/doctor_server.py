"""What ``dsv doctor`` asks the server: whether it is there, whose it is, what time it has, what it leaves open."""

from __future__ import annotations

import email.utils
import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

from deploy.addresses import Address
from deploy.findings import Finding, bad, fine, worrying

_TIMEOUT_S = 10.0
_AHEAD_S, _BEHIND_S = 5.0, 300.0  # Flower refuses a SuperNode's signature outside of these
_DATE_S = 1.0  # what the server's Date is exact to


def check_server(server: Address, certificates: Path | None) -> Iterator[Finding]:
    """Reachability, certificate, clock, and whether the Control API is closed; nothing without ``certificates``."""
    if certificates is None:
        yield worrying("reachability", f"{server} was not asked: its certificate cannot be checked", "give --certs")
        return
    try:
        context = ssl.create_default_context(cafile=str(certificates / "authority.crt"))
        before = time.time()
        status, date = _asked(server, context, "GET", "/health")
        yield _reached(server, status)
        yield _check_clock(date, before, time.time())
        yield _check_control(server, _asked(server, context, "POST", "/v1/control/list-runs")[0])
    except (OSError, http.client.HTTPException) as error:
        yield _unreachable(server, error)


def _asked(server: Address, context: ssl.SSLContext, method: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPSConnection(server.host, server.port, context=context, timeout=_TIMEOUT_S)
    try:
        connection.request(method, path, headers={"content-type": "application/protobuf"})
        response = connection.getresponse()
        return response.status, response.getheader("date", "")
    finally:
        connection.close()


def _reached(server: Address, status: int) -> Finding:
    if status == 200:
        return fine("reachability", f"{server} answers, with a certificate of the right authority")
    if status in (502, 503, 504):
        return bad("reachability", f"the proxy {server} does not reach the SuperLink", "start 'dsv deploy superlink'")
    return bad("reachability", f"{server} answers with HTTP {status}", "check that the address is that of the proxy")


def _check_clock(date: str, before: float, after: float) -> Finding:
    try:
        told = email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return worrying("clock", "the server tells no time", "check the clock yourself")
    behind, ahead = told - after, before - (told + _DATE_S)
    if ahead > _AHEAD_S or behind > _BEHIND_S:
        way = f"{ahead:.0f} s ahead of" if ahead > 0 else f"{behind:.0f} s behind"
        return bad("clock", f"this clock is {way} the server's", "set both by NTP: 'timedatectl set-ntp true'")
    return fine("clock", "agrees with the server's")


def _check_control(server: Address, status: int) -> Finding:
    if status in (400, 403):
        return fine("control API", "closed to whoever has no operator's certificate")
    if status == 404:
        return worrying("control API", f"{server} does not know it", "check that the address is that of the proxy")
    return bad(
        "control API",
        f"{server} lets everyone in (HTTP {status}): whoever reaches it can push code to every device",
        "close the SuperLink's port to the network and run 'dsv deploy proxy' in front of it",
    )


def _unreachable(server: Address, error: Exception) -> Finding:
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = "check the clock, and that authority.crt and server.crt are of one 'dsv certs'"
        return bad("reachability", f"{server} has no acceptable certificate: {error.verify_message}", remedy)
    if isinstance(error, socket.gaierror):
        return bad("reachability", f"the name {server.host} is not known", "check the name and this machine's DNS")
    if isinstance(error, ConnectionRefusedError):
        return bad("reachability", f"nobody listens on {server}", "start 'dsv deploy proxy' there; check the port")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return bad("reachability", "authority.crt is missing", "copy the folder that 'dsv certs' made here")
    text = f"{server} cannot be reached: {error or type(error).__name__}"
    return bad("reachability", text, "check the network, and that firewalls let the port through")
