"""``dsv doctor``: sees what is wrong, says what to do, and its exit code tells."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import dsv

import deploy.doctor
from deploy.certificates import make_certificates
from deploy.doctor_server import _check_clock
from deploy.findings import Verdict


def doctor(*arguments: object) -> tuple[int, str]:
    result = dsv("doctor", *arguments)
    assert "Traceback" not in result.output
    return result.exit_code, result.output


@pytest.fixture
def node(tmp_path) -> Path:
    make_certificates(tmp_path / "certs", hosts=("localhost",), nodes=("a",), days=365)
    return tmp_path / "certs" / "nodes" / "a"


def test_a_device_that_is_well(node, image_tree, tmp_path):
    code, printed = doctor("--certs", node, "--data", image_tree, "--state", tmp_path / "state")
    assert code == 0, printed
    assert "24 images in 2 classes" in printed and "FAIL" not in printed


def test_certificates_that_grow_old(node, tmp_path):
    shutil.rmtree(node)
    make_certificates(tmp_path / "certs", hosts=("localhost",), nodes=("a",), days=7)
    code, printed = doctor("--certs", node, "--state", tmp_path)
    assert code == 0 and "warn  certificates" in printed and "make a new one" in printed


def test_a_certificate_that_expired(node, tmp_path, monkeypatch):
    class Later(deploy.doctor.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + deploy.doctor.timedelta(days=400)

    monkeypatch.setattr(deploy.doctor, "datetime", Later)
    code, printed = doctor("--certs", node, "--state", tmp_path)
    assert code == 1 and "device.crt expired on" in printed


def test_keys_that_others_may_read(node, tmp_path):
    (node / "node").chmod(0o644)
    code, printed = doctor("--certs", node, "--state", tmp_path)
    assert code == 1 and "others may read the key" in printed and "chmod 600" in printed


@pytest.mark.parametrize("name", ["node", "node.pub", "device.key", "device.crt", "authority.crt"])
def test_a_folder_that_is_not_whole(node, name, tmp_path):
    (node / name).unlink()
    code, printed = doctor("--certs", node, "--state", tmp_path)
    assert code == 1 and f"{name} is missing, which a folder nodes/NAME/ has" in printed


def test_keys_of_others(node, tmp_path):
    make_certificates(tmp_path / "others", hosts=("localhost",), nodes=("b",), days=365)
    for name, public in (("node", "node.pub"), ("device.key", "device.crt")):
        own = (node / name).read_bytes()
        shutil.copy(tmp_path / "others" / "nodes" / "b" / name, node / name)
        code, printed = doctor("--certs", node, "--state", tmp_path)
        assert code == 1 and f"{name} is not the key of {public}" in printed
        (node / name).write_bytes(b"no key")
        assert f"{name} is not the key of {public}" in doctor("--certs", node, "--state", tmp_path)[1]
        (node / name).write_bytes(own)
    assert doctor("--certs", node, "--state", tmp_path)[0] == 0


def test_a_servers_folder(node, tmp_path):
    folder = node.parents[1] / "server"
    whole = doctor("--role", "server", "--certs", folder, "--state", tmp_path)[1]
    assert "missing, which" not in whole and "not the key" not in whole
    (folder / "operators.crt").unlink()
    for given, name in ((folder, "operators.crt"), (node, "server.key")):
        code, printed = doctor("--role", "server", "--certs", given, "--state", tmp_path)
        assert code == 1 and f"{name} is missing, which a folder server/ has" in printed


def test_no_certificates_and_broken_ones(node, tmp_path):
    assert "none/authority.crt is missing" in doctor("--certs", tmp_path / "none")[1]
    (node / "device.crt").write_text("broken")
    assert "is no certificate in PEM" in doctor("--certs", node)[1]


def test_data_that_does_not_do(image_tree, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "has no class folder with an image in it" in doctor("--data", tmp_path / "empty")[1]
    assert "does not exist" in doctor("--data", tmp_path / "nowhere")[1]
    (image_tree / "train" / "red" / "3.png").write_bytes(b"broken")
    (image_tree / "train" / "green").mkdir()
    code, printed = doctor("--data", image_tree)
    assert code == 1 and "1 images cannot be decoded" in printed and "green holds no image" in printed


def test_data_that_this_user_cannot_read_is_not_to_be_removed(image_tree, closed):
    picture = image_tree / "train" / "red" / "3.png"
    picture.unlink()
    picture.symlink_to(picture)
    code, printed = doctor("--data", image_tree)
    assert code == 1 and "1 images cannot be read by this user" in printed and "remove" not in printed
    closed(image_tree / "train" / "red")
    code, printed = doctor("--data", image_tree)
    assert code == 1 and "red: Permission denied" in printed and "let this user read it" in printed
    assert "remove" not in printed


def test_every_image_is_opened(image_tree, monkeypatch):
    for number in range(600):
        shutil.copy(image_tree / "train" / "red" / "0.png", image_tree / "train" / "red" / f"a{number:03}.png")
    (image_tree / "train" / "red" / "z.png").write_bytes(b"broken")
    code, printed = doctor("--data", image_tree)
    assert code == 1 and "625 images in 2 classes" in printed and "z.png" in printed


def test_a_server_whose_certificate_cannot_be_checked_is_not_blamed(tmp_path):
    code, printed = doctor("--server", "localhost:1", "--state", tmp_path)
    assert code == 0 and "localhost:1 was not asked" in printed and "give --certs" in printed


def test_little_disk_and_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(deploy.doctor, "_DISK_LEAST_BYTES", 1 << 60)
    monkeypatch.setattr(deploy.doctor, "_MEMORY_LEAST_BYTES", 1 << 60)
    code, printed = doctor("--state", tmp_path)
    assert code == 1 and "free half a gigabyte" in printed and "end something" in printed


def test_a_state_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    code, printed = doctor("--state", tmp_path / "file" / "state")
    assert code == 1 and "file is no folder" in printed and "name another --state" in printed


def test_names_that_nobody_knows(node, tmp_path):
    code, printed = doctor("--certs", node, "--server", "nowhere.invalid:9093", "--state", tmp_path)
    assert code == 1 and "the name nowhere.invalid is not known" in printed


@pytest.mark.parametrize(
    ("off_s", "verdict"), [(0, Verdict.FINE), (4, Verdict.FINE), (60, Verdict.BAD), (-60, Verdict.FINE)]
)
def test_clocks(off_s, verdict):
    told = 1_800_000_000
    date = "Fri, 15 Jan 2027 08:00:00 GMT"
    assert _check_clock(date, told + off_s + 0.1, told + off_s + 0.2).verdict is verdict


@pytest.mark.parametrize("off_s", [86_400, -86_400])
def test_a_clock_that_is_a_day_off(off_s):
    found = _check_clock("Fri, 15 Jan 2027 08:00:00 GMT", 1_800_000_000 + off_s, 1_800_000_000 + off_s)
    assert found.verdict is Verdict.BAD and "NTP" in found.remedy
