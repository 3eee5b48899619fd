"""The ledger: purposes, what crosses sockets, files."""

from __future__ import annotations

import contextlib
import csv
import gc
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from command_line import done, refused
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import message_to_proto
from hypothesis import given
from hypothesis import strategies as st

from deploy.addresses import Address
from deploy.deployed_ledger import DeployedLedger
from deploy.ledger import Crossed, by_purpose, read_ledger, sums_of, write_ledger
from deploy.meter import Count, meters
from deploy.result import LedgerRow
from deploy.tables import write_rows
from dsv import DsvError
from server.events import (
    BytesMoved,
    ClientNumbered,
    EventLog,
    FederationDone,
    RoundDone,
)
from server.message_bytes import MessageBytes

pytestmark = pytest.mark.usefixtures("a_flower_task")
SIZES = st.integers(0, 10**7)


def message(**records) -> Message:
    return Message(RecordDict(records), dst_node_id=3, message_type="train")


def test_weights_and_control_are_the_whole_message():
    import numpy

    arrays = ArrayRecord({"w": Array(numpy.zeros((50, 20), numpy.float32))})
    sent = message(arrays=arrays, config=ConfigRecord({"server-round": 1}))
    counted = MessageBytes.of(sent)
    assert counted.weights + counted.control == message_to_proto(sent).ByteSize()
    assert 4000 < counted.weights < 4300 and 10 < counted.control < 200
    assert MessageBytes.of(sent) == counted  # counting changes nothing
    bare = MessageBytes.of(message(metrics=MetricRecord({"accuracy": 0.5})))
    assert bare.by_purpose() == {"control": bare.control}


CROSSED = st.lists(st.builds(Crossed, st.integers(0, 3), st.sampled_from([0, 1, "operator"]), SIZES, SIZES), max_size=9)
MESSAGES = st.lists(
    st.builds(
        LedgerRow,
        st.integers(1, 3),
        st.integers(0, 1),
        st.sampled_from(["weights", "control"]),
        st.sampled_from(["up", "down"]),
        SIZES,
    ),
    max_size=12,
)


@given(CROSSED, MESSAGES)
def test_purposes_sum_to_what_crossed_whatever_the_server_counted(crossed, messages):
    rows = by_purpose(crossed, messages)
    assert all(row.bytes > 0 for row in rows)
    for client in (0, 1, "operator"):
        for direction in ("up", "down"):
            whole = sum(getattr(c, f"{direction}_bytes") for c in crossed if c.client == client)
            assert whole == sum(r.bytes for r in rows if (r.client, r.direction) == (client, direction))
    for purpose in ("weights", "control"):
        told = sum(m.bytes for m in messages if m.purpose == purpose)
        assert sum(r.bytes for r in rows if r.purpose == purpose) <= told


def test_what_a_late_reading_gave_to_the_round_before_is_taken_back():
    crossed = [Crossed(1, 0, 1000 + 300, 0), Crossed(2, 0, 800, 0)]
    messages = [LedgerRow(number, 0, "weights", "up", 1000) for number in (1, 2)]
    rows = {(r.round, r.purpose): r.bytes for r in by_purpose(crossed, messages)}
    assert rows == {(1, "weights"): 1000, (1, "transport"): 100, (2, "weights"): 1000}


def test_a_reading_keeps_what_its_own_round_needs():
    """Both rounds lack bytes: what is not there is not moved from where it is missing as well."""
    crossed = [Crossed(1, 0, 900, 0), Crossed(2, 0, 800, 0)]
    messages = [LedgerRow(number, 0, "weights", "up", 1000) for number in (1, 2)]
    rows = {(r.round, r.purpose): r.bytes for r in by_purpose(crossed, messages)}
    assert rows == {(1, "weights"): 900, (2, "weights"): 800}


def test_a_deployments_rounds_parties_and_purposes():
    class Meters:
        def __init__(self):
            self.now: dict[str, Count] = {}

        def read(self):
            return dict(self.now)

    fake = Meters()
    ledger = DeployedLedger(fake, {"node0": 77, "node1": 55})

    def reading(up, down, *events):
        fake.now = {name: Count(up, down) for name in ("node0", "node1", "operator", "newcomers")}
        for event in events:
            ledger.add(event)

    sent = [BytesMoved(n, c, "weights", d, 1000) for n in (1, 2) for c in (0, 1) for d in ("down", "up")]
    reading(10, 20, ClientNumbered(0, 55), ClientNumbered(1, 77), *sent[:4])
    reading(1110, 1120, *sent[4:])
    reading(2210, 2220, FederationDone("convnet:8", 1.0))
    reading(2300, 2300)
    rows = {(r.round, r.client, r.purpose, r.direction): r.bytes for r in ledger.rows()}
    assert rows[0, 1, "transport", "up"] == 10 + 90 and rows[1, 1, "weights", "up"] == 1000
    assert rows[1, 0, "transport", "up"] == 100 and rows[2, 0, "transport", "down"] == 100
    assert rows[1, "operator", "transport", "up"] == 1100
    assert rows[0, "newcomers", "dsv_download", "down"] == 2300
    assert not any(client == "newcomers" and purpose == "transport" for _, client, purpose, _ in rows)


@pytest.fixture
def echo():
    """A server that answers what it was sent with twice as much."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer(peer):
            with peer, contextlib.suppress(OSError):
                got = b""
                while data := peer.recv(65536):
                    got += data
                peer.sendall(got * 2)

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = listening.accept()
                    threading.Thread(target=answer, args=(peer,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield Address("127.0.0.1", listening.getsockname()[1])


def ask(address: Address, content: bytes) -> bytes:
    with socket.create_connection((address.host, address.port), timeout=10) as peer:
        peer.sendall(content)
        peer.shutdown(socket.SHUT_WR)
        got = b""
        while data := peer.recv(65536):
            got += data
        return got


def test_a_relay_counts_every_byte_both_ways_and_changes_none(echo):
    content = bytes(range(256)) * 2000
    with meters() as counted:
        first, second = counted.relay("first", echo), counted.relay("second", echo)
        assert ask(first, content) == content * 2
        assert ask(first, b"x") == b"xx"
        assert counted.read() == {"first": Count(len(content) + 1, 2 * len(content) + 2), "second": Count()}
        threads = [threading.Thread(target=ask, args=(second, content)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counted.read()["second"] == Count(5 * len(content), 10 * len(content))
    with pytest.raises(OSError):
        ask(first, b"x")  # gone with the meters


def test_a_peer_that_breaks_off_ends_its_connection_alone_and_an_open_one_ends_with_the_meters(echo, caplog):
    with meters() as counted:
        address = counted.relay("party", echo)
        for _ in range(20):
            peer = socket.create_connection((address.host, address.port), timeout=10)
            peer.sendall(b"half")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no farewell
            peer.close()
        open_still = socket.create_connection((address.host, address.port), timeout=10)
        gc.collect()
        assert ask(address, b"x") == b"xx"
    assert open_still.recv(1) == b""
    open_still.close()
    assert not [record for record in caplog.records if record.name == "asyncio"]


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_command_that_counts_on_a_real_device(echo, tmp_path, ending):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "dsv"), "deploy", "meter", "--server", str(echo), "--port", str(port)]
    running = subprocess.Popen([*command, "--state", str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None and "counting" in running.stdout.readline()
        taken = subprocess.run([*command, "--state", str(tmp_path)], capture_output=True, text=True, check=False)
        assert ask(Address("127.0.0.1", port), b"abc") == b"abcabc"
        running.send_signal(ending)
        printed, _ = running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == 0 and "device" in printed
    assert [row.bytes for row in read_ledger(tmp_path)] == [3, 6]
    more = sums_of({"device": Count(1, 2), "other": Count(5, 0)}, read_ledger(tmp_path))
    assert [(row.client, row.bytes) for row in more] == [("device", 4), ("device", 8), ("other", 5), ("other", 0)]
    assert taken.returncode == 1 and "choose another port" in taken.stderr and "Traceback" not in taken.stderr


def test_a_relay_to_nobody_refuses_and_the_others_go_on(echo):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = Address("127.0.0.1", closed.getsockname()[1])
    with meters() as counted:
        dead, alive = counted.relay("dead", nobody), counted.relay("alive", echo)
        with contextlib.suppress(OSError):
            assert ask(dead, b"x") == b""
        assert ask(alive, b"x") == b"xx"
        assert counted.read()["dead"] == Count()


ROWS = [LedgerRow(1, 0, "weights", "up", 10), LedgerRow(0, "newcomer a,b", "dsv_download", "down", 5)]


def test_a_ledger_in_every_format_and_back(tmp_path):
    write_ledger(tmp_path / "ledger.json", ROWS)
    assert read_ledger(tmp_path) == ROWS
    files = [tmp_path / f"rows.{ending}" for ending in ("json", "csv", "parquet")]
    assert "newcomer a,b" in done("ledger", tmp_path, *(a for f in files for a in ("--out", f)))
    assert json.loads(files[0].read_text())[1]["bytes"] == 5
    with files[1].open(newline="") as opened:
        assert [row["client"] for row in csv.DictReader(opened)] == ["0", "newcomer a,b"]
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(files[2])
    assert table.column("bytes").to_pylist() == [10, 5] and table.column("client").to_pylist() == ["0", "newcomer a,b"]


def test_parties_stand_in_the_order_of_their_numbers(tmp_path):
    rows = [LedgerRow(1, client, "weights", "up", 10) for client in (10, 2, 0)]
    write_ledger(tmp_path / "ledger.json", [*rows, LedgerRow(0, "operator", "transport", "up", 1)])
    parties = done("ledger", tmp_path).split("Bytes moved by party")[1]
    assert re.findall(r"client \d+|operator", parties) == ["client 0", "client 2", "client 10", "operator"]


def test_a_run_that_nobody_measured_has_its_messages(tmp_path):
    log = EventLog(tmp_path)
    for event in (RoundDone(1, 2, 2, 0, 0.5), BytesMoved(1, 0, "weights", "up", 10)):
        log.write(event)
    assert read_ledger(tmp_path) == ROWS[:1]
    assert "client 0" in done("ledger", tmp_path)


def test_a_measured_runs_ledger_is_its_results_and_what_was_not_sent_is_nobodys(tmp_path):
    EventLog(tmp_path).write(BytesMoved(1, 0, "weights", "up", 999_999))
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(DsvError):
        read_ledger(tmp_path)
    rows = [LedgerRow(number, 0, "weights", "up", 30) for number in (0, 1, 2)]
    write_ledger(tmp_path / "ledger.json", [*rows, LedgerRow(0, 0, "raw_images_instead", "up", 77_000)])
    purposes, parties = done("ledger", tmp_path).split("Bytes moved by party")
    assert "77,000 B" in purposes and "77,000 B" not in parties
    assert parties.split()[-5:] == ["90", "B", "0", "B", "2"], "rounds are those with a number"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "name the folder of a finished run"),
        (b"", "not a ledger"),
        (b"{}", "not a ledger"),
        (b'{"ledger": [{"round": 1}]}', "not a ledger"),
        (b"\xff", "not a ledger"),
        (b'{"ledger": [{"round": "1", "client": 0, "purpose": "a", "direction": "up", "bytes": 1}]}', "not a ledger"),
        (b'{"ledger": [{"round": 1, "client": 0, "purpose": "a", "direction": "up", "bytes": -1}]}', "not a ledger"),
        (b'{"ledger": [{"round": 1, "client": {}, "purpose": "a", "direction": "up", "bytes": 1}]}', "not a ledger"),
    ],
)
def test_no_ledger_is_one_clear_line(content, message, tmp_path):
    if content is not None:
        (tmp_path / "ledger.json").write_bytes(content)
    assert refused(message, "ledger", tmp_path) == 1


def test_an_unknown_ending_and_a_folder_that_is_none(tmp_path):
    with pytest.raises(DsvError, match=r"must end in one of: .json, .csv, .parquet"):
        write_rows(tmp_path / "rows.xls", [{"a": 1}])
    with pytest.raises(DsvError, match="cannot write"):
        write_rows(tmp_path / "none" / "rows.csv", [{"a": 1}])
