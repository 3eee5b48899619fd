"""Whatever a Flower process started is ended with it."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from deploy.flower import ray_environment
from deploy.processes import end_all, flower_environment, flower_process

STARTS_ANOTHER = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "print(1, flush=True); import time; time.sleep(60)"],
                         env={}, start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""
"""Of another session and without a trace of the home in its environment, like Ray's processes with a title."""

A_CLIENT_OF_RAY = """
import os, ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
print(ray.get(ray.remote(num_cpus=1, num_gpus=0.0)(lambda: os.environ["CUDA_VISIBLE_DEVICES"]).remote()))
"""


A_CLUSTER_OF_RAY = """
import ray, sys
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""

A_STRANGER = """
import ray, sys
ray.init(address=sys.argv[1], log_to_driver=False)
print(ray.get(ray.remote(lambda: "inside").remote()))
"""


def command_line(pid: str) -> str:
    """Empty where there is no such process, and of a zombie."""
    return subprocess.run(["ps", "-ww", "-o", "args=", "-p", pid], capture_output=True, text=True, check=False).stdout


def test_a_descendant_that_hides_its_environment_is_ended(tmp_path):
    command = [sys.executable, "-c", STARTS_ANOTHER]
    child = subprocess.Popen(command, env=flower_environment(tmp_path), stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        hidden = child.stdout.readline().strip()
        assert "print(1" in command_line(hidden)
        end_all(tmp_path)
        assert "print(1" not in command_line(hidden)


def test_who_does_not_belong_to_it_is_left_alone(tmp_path):
    log = tmp_path / "log"
    with flower_process([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "a", log) as stays:
        with flower_process([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "b", log) as goes:
            pass
        assert goes.poll() is not None and stays.poll() is None


def test_a_simulated_client_sees_the_cards_of_the_machine(tmp_path):
    """Ray hides them from whoever asks for no share of one, as Flower's simulated clients do not."""
    environment = {**flower_environment(tmp_path), "CUDA_VISIBLE_DEVICES": "5"}
    command = [sys.executable, "-c", A_CLIENT_OF_RAY]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=100)
    assert ended.stdout.split() == ["5"]


@pytest.mark.slow
def test_a_simulation_lets_nobody_in_who_has_not_its_token(tmp_path):
    """Ray listens on every address of the machine, and runs whatever it is sent."""
    plain = flower_environment(tmp_path)
    with tempfile.TemporaryDirectory(prefix="dsv-", ignore_cleanup_errors=True) as folder:  # a short path
        own = plain | ray_environment(Path(folder))
        assert own["RAY_AUTH_TOKEN"] != ray_environment(Path(folder))["RAY_AUTH_TOKEN"]
        cluster = [sys.executable, "-c", A_CLUSTER_OF_RAY]
        with subprocess.Popen(cluster, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            address = child.stdout.readline().strip()

            def enters(environment):
                command = [sys.executable, "-c", A_STRANGER, address]
                return subprocess.run(
                    command, env=environment, capture_output=True, text=True, timeout=100, check=False
                )

            assert enters(own).stdout.split() == ["inside"]
            wrong = own | {"RAY_AUTH_TOKEN": "0" * 64}
            for stranger in (plain, wrong):
                refused = enters(stranger)
                assert refused.returncode != 0 and not refused.stdout, refused.stdout
            child.stdin.close()


ENDS = """
import sys, threading, time
from deploy import supernode_process

def fails():
    raise ValueError("an answer that nobody expected")

def stays():
    threading.Thread(target=time.sleep, args=(600,)).start()

ways = {
    "given up": stays,
    "raised": lambda: (stays(), fails()),
    "sign of life": lambda: (stays(), threading.Thread(target=fails, daemon=True).start(), time.sleep(600)),
    "in order": lambda: sys.exit(7),
}
supernode_process.flower_supernode = ways[sys.argv[1]]
supernode_process.main()
"""


@pytest.mark.parametrize(
    ("way", "code", "said"),
    [
        ("given up", 1, "Flower gave the server up"),
        ("raised", 1, "an answer that nobody expected"),
        ("sign of life", 1, "a part of Flower's died (above): this SuperNode ends"),
        ("in order", 7, ""),
    ],
)
def test_a_supernode_that_does_its_work_no_more_ends(way, code, said):
    ended = subprocess.run([sys.executable, "-c", ENDS, way], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == code and said in ended.stderr
