"""Who reaches Flower's Control API: an operator with a certificate, a SuperNode with its key its own part, others
nothing."""

from __future__ import annotations

import http.client
import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, StartRunRequest
from server_door import Server, nodes

from deploy.addresses import Address
from deploy.certificates import make_certificates
from deploy.control import RegisteredError, control
from deploy.doctor_server import check_server
from deploy.flower_nodes import SuperNode
from deploy.processes import flower_process, free_port
from deploy.proxy import OperatorGate, ServerGate, has_nginx, nginx_command, write_configuration
from dsv import DsvError

pytestmark = pytest.mark.skipif(not has_nginx(), reason="nginx is not installed")

CONTROL = [
    ("register-node", RegisterNodeRequest(public_key=b"x")),
    ("start-run", StartRunRequest()),
    ("list-runs", ListRunsRequest()),
    ("list-nodes", ListRunsRequest()),
    ("unregister-node", ListRunsRequest()),
    ("stop-run", ListRunsRequest()),
    ("stream-logs", ListRunsRequest()),
    ("get-login-details", ListRunsRequest()),
]


@pytest.mark.parametrize(("name", "request_message"), CONTROL)
def test_an_outsider_with_the_ca_certificate_is_refused(server, name, request_message):
    assert server.post(f"/v1/control/{name}", request_message.SerializeToString()) == 403


def test_neither_does_a_devices_certificate_open_the_control_api_nor_a_strangers(server):
    assert server.post("/v1/control/list-runs", certificate="nodes/node0/device") == 400
    assert server.post("/v1/control/list-runs", certificate="../strangers/operator/operator") == 400
    assert server.post("/v1/control/list-runs", certificate="server/server") == 400


def test_an_operators_certificate_does(server):
    assert server.post("/v1/control/list-runs", b"", certificate="operator/operator") == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/..%2fcontrol/list-runs",
        "/v1/fleet/x/%2e%2e/%2e%2e/control/list-runs",
        "/v1/%63ontrol/list-runs",
        "//v1//control//list-runs",
        "/v1/./control/list-runs",
        "/v1/CONTROL/list-runs",
        "/v1/fleet%2f..%2fcontrol%2flist-runs",
        "/v1/control/list-runs/",
        "/health/../v1/control/list-runs",
    ],
)
def test_spellings_of_the_path_open_nothing(server, path):
    assert server.post(path) in (400, 403, 404)


@pytest.mark.parametrize("path", ["/v1/runtime/acquire-task", "/v1/runtime/pull-task-input", "/docs", "/openapi.json"])
def test_what_devices_do_not_need_is_not_there(server, path):
    assert server.post(path) == 404
    assert server.post(path, certificate="operator/operator") == 404


def test_headers_that_proxies_believe_open_nothing(server):
    for name in ("X-SSL-Client-Verify", "X-Forwarded-For", "X-Original-URL", "X-Rewrite-URL"):
        assert server.post("/v1/control/list-runs", extra={name: "SUCCESS"}) == 403


def test_a_supernode_without_its_key_is_refused_by_the_superlink(server):
    assert server.post("/v1/fleet/pull-messages") in (400, 401, 415, 422)


def test_an_operator_works_through_the_flwr_command(server, operator):
    assert nodes(operator) == []
    operator.register(server.certs / "nodes" / "node0" / "node.pub")
    assert nodes(operator) == ["registered"]
    with pytest.raises(DsvError, match="node.pub is registered already"):
        operator.register(server.certs / "nodes" / "node0" / "node.pub")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        ({"Host": "localhost:9095"}, 415),
        ({"Host": "[::1]:9095"}, 415),
        ({"Host": "evil.example:9095"}, 403),
        ({"Host": ""}, 400),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:9095"}, 403),
    ],
)
def test_a_web_page_in_the_operators_browser_is_no_operator(server, headers, status):
    connection = http.client.HTTPConnection(server.operator.host, server.operator.port, timeout=20)
    connection.request("POST", "/v1/control/list-runs", b"", headers)
    assert connection.getresponse().status == status


def test_the_flwr_command_of_an_outsider_is_refused(server):
    with (
        control(server.gate, server.certs / "nodes" / "node0" / "authority.crt") as way,
        pytest.raises(DsvError, match="403 Forbidden"),
    ):
        way.register(server.certs / "nodes" / "node1" / "node.pub")


def test_a_new_operators_authority_locks_the_old_certificate_out(server, tmp_path):
    """As docs/deploy.md has it done, under "Keys that grow old"."""
    new = tmp_path / "certs"
    shutil.copytree(server.certs, new)
    for name in ("authorities/operator.crt", "authorities/operator.key", "operator", "server"):
        (new / name).rename(tmp_path / name.replace("/", "-"))
    make_certificates(new, hosts=("127.0.0.1",), nodes=(), days=1)
    (new / "server").rename(tmp_path / "moved")  # the certificate's yearly renewal
    make_certificates(new, hosts=("127.0.0.1",), nodes=(), days=1)
    gate, ways = Address("127.0.0.1", free_port()), {}
    gates = {"gate": ServerGate(new / "server", gate, server.superlink)}
    for name, folder in (("old", server.certs), ("new", new)):
        ways[name] = Address("127.0.0.1", free_port())
        gates[name] = OperatorGate(folder / "operator", ways[name], gate)
    with ExitStack() as stack:
        for name, part in gates.items():
            command = nginx_command(write_configuration(part, tmp_path / name))
            stack.enter_context(flower_process(command, tmp_path / f"{name}-home", tmp_path / f"{name}.log"))
        statuses = {}
        for name, way in ways.items():
            deadline = time.monotonic() + 10
            while statuses.get(name, 502) == 502 and time.monotonic() < deadline:
                try:
                    connection = http.client.HTTPConnection(way.host, way.port, timeout=20)
                    headers = {"content-type": "application/protobuf", "accept": "application/protobuf"}
                    connection.request("POST", "/v1/control/list-runs", b"", headers)
                    statuses[name] = connection.getresponse().status
                except OSError:
                    time.sleep(0.1)
    assert statuses == {"old": 400, "new": 200}


def verdicts(server: Server, address: Address, certificates: Path) -> dict[str, str]:
    return {found.about: found.verdict.value for found in check_server(address, certificates)}


def test_the_doctor_sees_that_the_door_is_closed_or_open(server):
    device = server.certs / "nodes" / "node0"
    closed = verdicts(server, server.gate, device)
    assert closed == {"reachability": "ok", "clock": "ok", "control API": "ok"}
    assert verdicts(server, server.superlink, device)["control API"] == "FAIL"
    assert verdicts(server, server.gate, server.folder / "strangers" / "operator") == {"reachability": "FAIL"}
    assert verdicts(server, Address("127.0.0.1", free_port()), device) == {"reachability": "FAIL"}


@pytest.mark.slow
def test_supernodes_come_online_with_a_registered_key_until_they_are_shut_out(server, operator, image_tree):
    def start(name: str):
        node = SuperNode(server.certs / "nodes" / name, server.gate, image_tree, server.folder / name, free_port())
        return flower_process(node.command(), node.home, server.folder / f"{name}.log")

    if not nodes(operator):  # the tests before this one may not have run
        operator.register(server.certs / "nodes" / "node0" / "node.pub")
    with start("node0") as admitted, start("node1") as stranger:
        assert stranger.wait(60) != 0
        deadline = time.monotonic() + 60
        while "online" not in nodes(operator) and time.monotonic() < deadline:
            time.sleep(1)
        assert admitted.poll() is None and nodes(operator).count("online") == 1
        [lost] = [int(node["node-id"]) for node in operator.nodes() if node["status"] == "online"]
        operator.unregister(lost)
        admitted.wait(90)  # at its next sign of life
    with pytest.raises(RegisteredError, match="of a node that was shut out: then it never comes back"):
        operator.register(server.certs / "nodes" / "node0" / "node.pub")


@pytest.fixture(scope="module")
def shifted_clock(tmp_path_factory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is installed")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = str(Path(__file__).with_name("clock_skew.c"))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), source], check=True)
    return library


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "skew_s", "place", "said"),
    [
        # Flower ends this SuperNode with exit code 0 and without a reason, so supervisors restart it always.
        ("early", 86_400, "superlink.log", '"POST /v1/fleet/activate-node HTTP/1.1" 401'),
        ("late", -86_400, "late.log", "certificate is not yet valid"),
    ],
)
def test_a_clock_that_is_a_day_off_keeps_a_supernode_out_until_it_is_set(  # noqa: PLR0917
    server, image_tree, shifted_clock, name, skew_s, place, said, request
):
    operator = request.getfixturevalue("operator")
    make_certificates(server.certs, hosts=(), nodes=(name,), days=2)
    known = {node["node-id"] for node in operator.nodes()}
    operator.register(server.certs / "nodes" / name / "node.pub")
    node = SuperNode(server.certs / "nodes" / name, server.gate, image_tree, server.folder / name, free_port())
    log = server.folder / f"{name}.log"

    def status() -> str:
        return next(entry["status"] for entry in operator.nodes() if entry["node-id"] not in known)

    wrong = ["env", f"LD_PRELOAD={shifted_clock}", f"SKEW_S={skew_s}", *node.command()]
    with flower_process(wrong, node.home, log) as child:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.5)
        print(name, "exit code", child.poll())
        assert said in (server.folder / place).read_text() and status() == "registered"
    with flower_process(node.command(), node.home, log) as child:
        deadline = time.monotonic() + 60
        while status() != "online" and time.monotonic() < deadline:
            time.sleep(1)
        assert child.poll() is None and status() == "online"
