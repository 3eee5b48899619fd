"""What ``dsv certs`` leaves on the disk."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from command_line import refused
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key, load_ssh_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from deploy.addresses import Address
from deploy.certificates import make_certificates
from deploy.pem import host_names, read_certificate
from dsv import DsvError

HOSTS = ("fed.example.org", "10.0.0.1")


@pytest.fixture
def made(tmp_path) -> Path:
    make_certificates(tmp_path / "certs", hosts=HOSTS, nodes=("a", "b"), days=365)
    return tmp_path / "certs"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_their_owner_reads_them(made):
    for path in (made, *made.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_the_server_certificate_passes_strict_verification_for_its_names_alone(made):
    store = Store([read_certificate(made / "nodes" / "a" / "authority.crt")])
    leaf = read_certificate(made / "server" / "server.crt")
    for host in (*HOSTS, "localhost", "127.0.0.1"):
        assert host in host_names(made / "server" / "server.crt")
    verifier = PolicyBuilder().store(store)
    verifier.build_server_verifier(x509.DNSName("fed.example.org")).verify(leaf, [])
    with pytest.raises(x509.verification.VerificationError):
        verifier.build_server_verifier(x509.DNSName("other.example.org")).verify(leaf, [])


def test_validity(made):
    now = datetime.datetime.now(datetime.UTC)
    for path in made.rglob("*.crt"):
        certificate = read_certificate(path)
        days = (certificate.not_valid_after_utc - now).days
        assert certificate.not_valid_before_utc < now
        is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert days in ((3649, 3650) if is_authority else (364, 365)), path


@pytest.mark.parametrize(("folder", "name"), [("operator", "operator"), ("nodes/a", "device")])
def test_clients_certificates_are_for_clients_and_of_their_own_authority(made, folder, name):
    leaf = read_certificate(made / folder / f"{name}.crt")
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    for kind in ("server", "operator", "device"):
        authority = read_certificate(made / "authorities" / f"{kind}.crt")
        if kind == name:
            leaf.verify_directly_issued_by(authority)
        else:
            with pytest.raises(ValueError):
                leaf.verify_directly_issued_by(authority)


def test_every_key_fits_its_certificate(made):
    for path in made.rglob("*.key"):
        key = load_pem_private_key(path.read_bytes(), None)
        assert key.public_key() == read_certificate(path.with_suffix(".crt")).public_key()
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
        made / "server" / "server.crt", made / "server" / "server.key"
    )


def test_supernode_keys_are_what_flower_takes(made):
    keys = []
    for name in ("a", "b"):
        private = load_ssh_private_key((made / "nodes" / name / "node").read_bytes(), None)
        assert isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, ec.SECP384R1)
        assert load_ssh_public_key((made / "nodes" / name / "node.pub").read_bytes()) == private.public_key()
        keys.append(private.private_numbers().private_value)
    assert keys[0] != keys[1]


def test_nothing_is_ever_overwritten_and_what_is_missing_is_made(made):
    before = contents(made)
    new = make_certificates(made, hosts=HOSTS, nodes=("a", "b", "c"), days=365)
    assert new == [made / "nodes" / "c"]
    after = contents(made)
    assert {path: after[path] for path in before} == before
    (made / "server").rename(made / "server-old")
    assert make_certificates(made, hosts=("new.example.org",), nodes=(), days=30) == [made / "server"]
    read_certificate(made / "server" / "server.crt").verify_directly_issued_by(
        read_certificate(made / "nodes" / "a" / "authority.crt")
    )


@pytest.mark.parametrize("kinds", [["operator"], ["device"], ["operator", "server", "device"]])
def test_no_second_authority_beside_what_the_first_one_signed(made, kinds):
    for kind in kinds:
        for end in ("crt", "key"):
            (made / "authorities" / f"{kind}.{end}").unlink()
    before = contents(made)
    with pytest.raises(DsvError, match="authority is not in .*; bring it back, or, to have a new one, move away"):
        make_certificates(made, hosts=HOSTS, nodes=("c",), days=365)
    assert contents(made) == before


def test_a_failure_leaves_no_half_of_a_folder(made):
    (made / "authorities" / "device.key").write_text("broken")
    with pytest.raises(DsvError, match="put the authority's key back"):
        make_certificates(made, hosts=HOSTS, nodes=("c",), days=365)
    assert sorted(path.name for path in (made / "nodes").iterdir()) == ["a", "b"]


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("name the server with --host", []),
        ("is no DNS name or IP address", ["--host", "https://x"]),
        ("must be small letters", ["--host", "x", "--node", "../a"]),
        ("valid for 1 to 825 days", ["--host", "x", "--days", "4000"]),
    ],
)
def test_mistakes(message, arguments, tmp_path):
    assert refused(message, "certs", "--out", tmp_path / "c", *arguments) == 1


def test_another_host_needs_another_certificate(made):
    with pytest.raises(DsvError, match=r"is not for other\.example\.org; move the folder"):
        make_certificates(made, hosts=("other.example.org",), nodes=(), days=365)


@pytest.mark.parametrize("text", ["host", "host:", "host:0", "host:70000", ":1", "::1:5", "a b:1", "h;x:1", "[h]:x"])
def test_addresses_that_are_none(text):
    with pytest.raises(DsvError, match="address"):
        Address.parse(text)


@pytest.mark.parametrize(("text", "loopback"), [("127.0.0.1:9", True), ("[::1]:9", True), ("fed.example.org:9", False)])
def test_addresses(text, loopback):
    assert str(Address.parse(text)) == text and Address.parse(text).is_loopback is loopback
