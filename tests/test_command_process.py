"""``dsv`` as a process: signals, what the system refuses, what is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from command_line import dsv, refused


def test_the_installed_command_prints_no_traceback_and_ends_on_a_signal(tmp_path):
    command = [str(Path(sys.executable).parent / "dsv")]
    failed = subprocess.run([*command, "inspect", "none.dsv"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1 and failed.stderr.startswith("Error: cannot read release none.dsv")
    served = subprocess.Popen(
        [*command, "serve", "--store", str(tmp_path), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert served.stdout is not None and "interrupt to stop" in served.stdout.readline()
        served.terminate()
        assert served.wait(timeout=20) == 0
    finally:
        served.kill()


def test_a_closed_terminal_ends_a_command_like_any_other_signal(tmp_path):
    """What it started is ended by its context managers, which a plain hang-up would skip."""
    script = f"""
import contextlib, os, pathlib, signal, time
from deploy import cli

@contextlib.contextmanager
def things():
    try:
        yield
    finally:
        pathlib.Path({str(tmp_path / "ended")!r}).touch()

def work():
    with things():
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(20)

cli.cli = work
cli.main()
"""
    command = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); {script.strip()}"  # tests may run by nohup
    ended = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 128 + 1 and (tmp_path / "ended").exists() and "Traceback" not in ended.stderr
    quick = script.replace("sleep(20)", "sleep(0)").strip()
    ignored = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); {quick}"
    kept = subprocess.run([sys.executable, "-c", ignored], capture_output=True, text=True, timeout=60, check=False)
    assert kept.returncode == 0, "as nohup wants it"


def test_what_the_system_refuses_is_one_line(tmp_path, monkeypatch, release):
    def full(*arguments):
        raise OSError(28, "No space left on device", "/somewhere/file")

    monkeypatch.setattr("deploy.inspect.print_pictures", full)
    refused("/somewhere/file: No space left on device; free space", "inspect", release, "--pictures")
    monkeypatch.setattr("deploy.inspect.print_pictures", lambda *a: (_ for _ in ()).throw(BrokenPipeError(32, "pipe")))
    assert "Error" not in dsv("inspect", release, "--pictures").output, "a reader that has had enough is no fault"
    monkeypatch.setattr("deploy.inspect.print_pictures", lambda *a: (_ for _ in ()).throw(MemoryError))
    refused("not enough memory", "inspect", release, "--pictures")
    for said in ("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory", "CUDA out of memory"):
        torchs = RuntimeError(said)
        monkeypatch.setattr("deploy.inspect.print_pictures", lambda *a, e=torchs: (_ for _ in ()).throw(e))
        refused("not enough memory", "inspect", release, "--pictures")


def test_a_part_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "server.distribution", None)
    for message in ("this command needs server.distribution", "extra 'server'"):
        assert refused(message, "serve", "--store", tmp_path, "--port", 0) == 1
