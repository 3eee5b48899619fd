"""``dsv doctor``: looks a device or a server over and says what to fix."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from client.class_folders import device_folder
from client.data import broken_pictures
from deploy.addresses import Address
from deploy.doctor_server import check_server
from deploy.findings import Finding, bad, fine, worrying
from deploy.pem import belongs, read_certificate
from dsv import DsvError, picture_paths

_EXPIRES_SOON = timedelta(days=30)
_DISK_LEAST_BYTES, _DISK_LITTLE_BYTES = 500_000_000, 5_000_000_000
_MEMORY_LEAST_BYTES = 700_000_000  # a client's process with torch loaded and a small model


class Role(StrEnum):
    """What is looked over."""

    DEVICE = "device"
    SERVER = "server"


@dataclass(frozen=True)
class Patient:
    """What to look at; None is not looked at.

    Args:
        role: a server also needs nginx.
        certificates: folder ``server/`` or ``nodes/NAME/`` of ``dsv certs``.
        server: address of the proxy.
        data: a device's images, <class>/* or train/<class>/*.
        state: folder that takes files.
    """

    role: Role
    certificates: Path | None
    server: Address | None
    data: Path | None
    state: Path


def examine(patient: Patient) -> Iterator[Finding]:
    """Findings, one after the other, as they come."""
    yield from _check_versions(patient.role)
    if patient.certificates:
        yield from _check_certificates(patient.certificates, patient.role)
    if patient.server:
        yield from check_server(patient.server, patient.certificates)
    yield _check_disk(patient.state)
    yield _check_memory()
    if patient.data:
        yield from _check_data(patient.data)


def _check_versions(role: Role) -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    extra = "server" if role is Role.SERVER else "client"
    anew = f"install feddsv anew: 'make --always-make install EXTRA={extra}'"
    for text in requires("feddsv") or ():
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield bad("versions", f"{requirement.name} is not installed", anew)
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wanted = f"{requirement.name} {found} is not {requirement.specifier}"
            yield bad("versions", wanted, anew)
        elif requirement.name in ("flwr", "torch"):
            yield fine("versions", f"{requirement.name} {found}")
    if role is Role.SERVER:
        from deploy.proxy import has_nginx

        remedy = "install it with the system's package manager (Debian: nginx-light)"
        yield fine("versions", "nginx is installed") if has_nginx() else bad("versions", "nginx is missing", remedy)


_COPY = "copy the whole folder that 'dsv certs' made here anew"
_PAIRS = {
    Role.DEVICE: {"node": "node.pub", "device.key": "device.crt"},
    Role.SERVER: {"server.key": "server.crt"},
}
"""Private keys, and what has their public ones."""
_TRUSTED = {Role.DEVICE: ("authority.crt",), Role.SERVER: ("authority.crt", "operators.crt", "devices.crt")}


def _check_certificates(folder: Path, role: Role) -> Iterator[Finding]:
    kind = "server/" if role is Role.SERVER else "nodes/NAME/"
    for name in (*_PAIRS[role], *_PAIRS[role].values(), *_TRUSTED[role]):
        if not (folder / name).is_file():
            yield bad("certificates", f"{folder / name} is missing, which a folder {kind} has", _COPY)
    for path in sorted(folder.glob("*.crt")):
        yield _check_certificate(path)
    for path in filter(Path.is_file, sorted(folder.iterdir()) if folder.is_dir() else ()):
        mode = path.stat().st_mode & 0o777
        if mode & 0o077 and path.suffix not in (".crt", ".pub"):
            yield bad("certificates", f"others may read the key {path} (mode {mode:o})", f"chmod 600 {path}")
        elif not os.access(path, os.R_OK):
            yield bad("certificates", f"{path} cannot be read by this user", "give it to the user that runs feddsv")
    for key, public in _PAIRS[role].items():
        present = (folder / key).is_file() and (folder / public).is_file()
        if present and not belongs(folder / key, folder / public):
            yield bad("certificates", f"{folder / key} is not the key of {public}", _COPY)


def _check_certificate(path: Path) -> Finding:
    try:
        certificate = read_certificate(path)
    except DsvError as error:
        return bad("certificates", str(error), "copy the file here anew")
    now, end = datetime.now(UTC), certificate.not_valid_after_utc
    until = f"{path} is valid until {end:%Y-%m-%d}"
    renew = "make a new one (docs/deploy.md, Keys that grow old)"
    if now < certificate.not_valid_before_utc:
        return bad("certificates", f"{path} is not valid before {certificate.not_valid_before_utc}", "set the clock")
    if now > end:
        return bad("certificates", f"{path} expired on {end:%Y-%m-%d}", renew)
    return worrying("certificates", until, renew) if end - now < _EXPIRES_SOON else fine("certificates", until)


def _check_disk(state: Path) -> Finding:
    folder = next(place for place in (state.absolute(), *state.absolute().parents) if place.exists())
    if not folder.is_dir():
        return bad("disk", f"{folder} is no folder", "name another --state")
    if not os.access(folder, os.W_OK):
        return bad("disk", f"{folder} cannot be written", "name another --state, or give it to this user")
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free at {folder}"
    if free < _DISK_LEAST_BYTES:
        return bad("disk", text, "free half a gigabyte")
    return worrying("disk", text, "free some space") if free < _DISK_LITTLE_BYTES else fine("disk", text)


def _check_memory() -> Finding:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return worrying("memory", "this system does not tell how much is available", "look yourself")
    text = f"{available / 1e9:.1f} GB available"
    if available < _MEMORY_LEAST_BYTES:
        return bad("memory", text, "end something, or add swap: training needs 0.7 GB")
    return fine("memory", text)


def _check_data(root: Path) -> Iterator[Finding]:
    try:
        folder = device_folder(root)
        counts = {entry.name: len(picture_paths(entry)) for entry in sorted(folder.iterdir()) if entry.is_dir()}
    except DsvError as error:
        problem, _, remedy = str(error).rpartition("; ")
        yield bad("data", problem, remedy)
        return
    yield fine("data", f"{sum(counts.values())} images in {len(counts)} classes at {folder}")
    for name, count in counts.items():
        if not count:
            yield worrying("data", f"class folder {folder / name} holds no image", "add images or remove the folder")
    useless = broken_pictures(folder)
    closed = [path for path in useless if not os.access(path, os.R_OK)]
    broken = [path for path in useless if os.access(path, os.R_OK)]
    for paths, fault, remedy in (
        (closed, "cannot be read by this user", "give them to the user that runs feddsv"),
        (broken, "cannot be decoded", "replace or remove them"),
    ):
        if paths:
            yield bad("data", f"{len(paths)} images {fault}: {', '.join(str(path) for path in paths[:3])}", remedy)
