"""Certificates and keys of a deployment, in one folder for every machine that takes part.

    authorities/            stays with the person who deploys, off every machine of the deployment
        server.{crt,key}        signs the server's certificate; its .crt is what devices and newcomers trust
        operator.{crt,key}      signs operators' certificates; who has one may use Flower's Control API
        device.{crt,key}        signs devices' client certificates, for a distribution service with mutual TLS
    server/                 server.{crt,key}, authority.crt, operators.crt, devices.crt
    operator/               operator.{crt,key}, authority.crt
    nodes/NAME/             node (SuperNode key, OpenSSH, ECDSA P-384), node.pub, device.{crt,key}, authority.crt

Three authorities, so that a certificate for one purpose is worth nothing for another.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy.pem import host_names, new_folder, read_certificate, write_new, write_pair
from dsv import DsvError

AUTHORITIES, SERVER, OPERATOR, NODES = "authorities", "server", "operator", "nodes"
_KINDS = ("server", "operator", "device")
_KNOWN_BY = {"server": (SERVER, OPERATOR, NODES), "operator": (SERVER, OPERATOR), "device": (SERVER, NODES)}
"""Folders that hold an authority's certificate, or what it signed."""
_AUTHORITY_DAYS = 3650
_BACKDATED = datetime.timedelta(hours=1)  # a device whose clock is a little late can connect at once
_LOOPBACK = ("localhost", "127.0.0.1", "::1")  # the proxy reaches the SuperLink there
_NODE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_HOST_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")


@dataclass(frozen=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_certificates(out: Path, *, hosts: tuple[str, ...], nodes: tuple[str, ...], days: int) -> list[Path]:
    """Make what is missing in ``out``; nothing that is there is touched, so the same call adds a node or renews what
    was moved away.

    Args:
        out: folder, mode 0700 when it is made here.
        hosts: DNS names and IP addresses under which the server is reached; loopback's are always among them.
        nodes: names of SuperNodes: small letters, digits, hyphens.
        days: validity of everything but the authorities, 1 to 825.

    Returns:
        The folders that were made.

    Raises:
        DsvError: bad names, a server certificate that is there and lacks a host, an authority that is gone while what
            it signed is there, or a folder that cannot be written.
    """
    _check_names(hosts, nodes, days)
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = _authorities(out)
        made += _server(out, hosts, days)
        made += _operator(out, days)
        (out / NODES).mkdir(mode=0o700, exist_ok=True)
        for name in nodes:
            made += _node(out, name, days)
    except OSError as error:
        raise DsvError(f"cannot write certificates into {out}: {error.strerror}; name another folder") from None
    return made


def _check_names(hosts: tuple[str, ...], nodes: tuple[str, ...], days: int) -> None:
    if not 1 <= days <= 825:
        raise DsvError(f"certificates are valid for 1 to 825 days, not {days}")
    for host in hosts:
        _host_name(host)
    for name in nodes:
        if not _NODE_NAME.fullmatch(name):
            raise DsvError(f"node name {name!r} must be small letters, digits and hyphens")


def _authorities(out: Path) -> list[Path]:
    folder = out / AUTHORITIES
    missing = [kind for kind in _KINDS if not any((folder / f"{kind}{end}").exists() for end in (".crt", ".key"))]
    for kind in missing:
        known = [name for name in _KNOWN_BY[kind] if (out / name).is_dir() and any((out / name).iterdir())]
        if known:  # a new one would be trusted by half of the deployment
            raise DsvError(
                f"the {kind} authority is not in {folder}; bring it back, or, to have a new one, move away what is of "
                f"the old one too: {', '.join(known)}"
            )
    if folder.exists():
        for kind in missing:
            _write_authority(folder, kind)
        return [folder / f"{kind}.crt" for kind in missing]
    with new_folder(folder) as inside:
        for kind in _KINDS:
            _write_authority(inside, kind)
    return [folder]


def _write_authority(folder: Path, kind: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"feddsv {kind} authority")])
    built = (
        _builder(name, name, key.public_key(), _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    write_pair(folder, kind, built.sign(key, hashes.SHA256()), key)


def _server(out: Path, hosts: tuple[str, ...], days: int) -> list[Path]:
    folder = out / SERVER
    if folder.exists():
        has = set(host_names(folder / "server.crt"))
        lacking = [host for host in hosts if str(_host_name(host).value) not in has]
        if lacking:
            raise DsvError(
                f"{folder}/server.crt is not for {', '.join(lacking)}; move the folder {folder} away to have a new one"
            )
        return []
    if not hosts:
        raise DsvError("name the server with --host: the DNS name or IP address under which devices reach it")
    with new_folder(folder) as inside:
        _issue(out, "server", inside, subject=hosts[0], days=days, hosts=tuple(dict.fromkeys((*hosts, *_LOOPBACK))))
        _trust(out, inside, authority="server", operators="operator", devices="device")
    return [folder]


def _operator(out: Path, days: int) -> list[Path]:
    folder = out / OPERATOR
    if folder.exists():
        return []
    with new_folder(folder) as inside:
        _issue(out, "operator", inside, subject="operator", days=days)
        _trust(out, inside, authority="server")
    return [folder]


def _node(out: Path, name: str, days: int) -> list[Path]:
    folder = out / NODES / name
    if folder.exists():
        return []
    with new_folder(folder) as inside:
        key = ec.generate_private_key(ec.SECP384R1())  # the curve that Flower's documentation asks for
        openssh = serialization.PrivateFormat.OpenSSH
        write_new(inside / "node", key.private_bytes(serialization.Encoding.PEM, openssh, serialization.NoEncryption()))
        line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        write_new(inside / "node.pub", line + f" {name}\n".encode())
        _issue(out, "device", inside, subject=name, days=days)
        _trust(out, inside, authority="server")
    return [folder]


def _issue(out: Path, kind: str, folder: Path, *, subject: str, days: int, hosts: tuple[str, ...] = ()) -> None:
    authority = _load_authority(out / AUTHORITIES, kind)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject[:64])])
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if kind == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = (
        _builder(name, authority.certificate.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(issuer_key, critical=False)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_host_name(h) for h in hosts]), critical=False)
    write_pair(folder, kind, builder.sign(authority.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if len(host) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in host.split(".")):
        raise DsvError(f"host {host!r} is no DNS name or IP address; give it without port or scheme")
    return x509.DNSName(host)


def _load_authority(folder: Path, kind: str) -> _Authority:
    certificate = read_certificate(folder / f"{kind}.crt")
    try:
        key = serialization.load_pem_private_key((folder / f"{kind}.key").read_bytes(), None)
    except (OSError, ValueError):
        raise DsvError(f"{folder}/{kind}.key cannot be read; put the authority's key back there") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise DsvError(f"{folder}/{kind}.key is not the key of {kind}.crt; put the authority's key back there")
    return _Authority(certificate, key)


def _trust(out: Path, folder: Path, **names: str) -> None:
    """Copy authorities' certificates under the names that say what they are trusted for."""
    for name, kind in names.items():
        write_new(folder / f"{name}.crt", (out / AUTHORITIES / f"{kind}.crt").read_bytes())
