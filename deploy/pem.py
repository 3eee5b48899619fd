"""Certificates, keys and their folders as files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dsv import DsvError


def read_certificate(path: Path) -> x509.Certificate:
    """The certificate in a PEM file.

    Raises:
        DsvError: it cannot be read.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise DsvError(f"cannot read certificate {path}: {error.strerror}; make it with 'dsv certs'") from None
    except ValueError:
        raise DsvError(f"{path} is no certificate in PEM; make one with 'dsv certs'") from None


def existing(path: Path) -> Path:
    """The absolute path of a file that ``dsv certs`` makes.

    Raises:
        DsvError: it is not there, or this user may not read it.
    """
    try:
        if not path.is_file():
            raise DsvError(f"{path} is missing; make it with 'dsv certs' and copy its folder here")
        if os.access(path, os.R_OK):
            return path.absolute()
    except PermissionError:
        pass
    raise DsvError(f"{path} cannot be read by this user; give its folder to the user that runs feddsv")


def belongs(key: Path, public: Path) -> bool:
    """Whether ``key`` (PEM or OpenSSH) is the private key of ``public``, a certificate or an OpenSSH public key; False
    too where one of the two is none."""
    try:
        secret = key.read_bytes()
        ssh = b"OPENSSH" in secret
        own = (serialization.load_ssh_private_key if ssh else serialization.load_pem_private_key)(secret, None)
        told = public.read_bytes()
        if public.suffix == ".crt":
            other = x509.load_pem_x509_certificate(told).public_key()
        else:
            other = serialization.load_ssh_public_key(told)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return own.public_key() == other


def host_names(path: Path) -> tuple[str, ...]:
    """DNS names and IP addresses that a certificate file is for."""
    try:
        names = read_certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(entry.value) for entry in names if isinstance(entry, x509.DNSName | x509.IPAddress))


def write_pair(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Write ``name``.crt and ``name``.key, PEM, unencrypted."""
    write_new(folder / f"{name}.crt", certificate.public_bytes(serialization.Encoding.PEM))
    pkcs8 = serialization.PrivateFormat.PKCS8
    write_new(
        folder / f"{name}.key", key.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption())
    )


def write_new(path: Path, content: bytes) -> None:
    """A new file of mode 0600, on disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder of mode 0700 that is there whole or not at all."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield temporary
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
