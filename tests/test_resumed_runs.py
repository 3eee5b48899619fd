"""Runs that were cut off: what of them is taken up again, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from in_process import InProcessGrid
from test_federation import content, initial

from deploy.addresses import Address
from deploy.certificates import make_certificates
from deploy.control import control
from deploy.flower_nodes import SuperNode
from dsv import DsvError, build_model
from protos import allowlist
from protos.checkpoint import Checkpoint, save_checkpoint
from protos.exchange import as_record
from protos.settings import CLIENTS, RunSettings
from server.app import main as server_main
from server.events import BytesMoved, ClientNumbered, EventLog, Failed, RoundDone, read_events
from server.resume import (
    ResumedFedAvg,
    claimed,
    finished_teacher,
    keep_settings,
    numbered_clients,
    round_path,
    rounds_done,
)

pytestmark = pytest.mark.usefixtures("a_flower_task")

SETTINGS = RunSettings(architecture="convnet:8", rounds=5)


def checkpoint(seed: int) -> Checkpoint:
    model = build_model(SETTINGS.model_spec(), seed=seed)
    return Checkpoint(model, SETTINGS.model_spec(), SETTINGS.task())


def test_the_rest_of_a_federation_counts_on():
    seen, events, kept = [], [], []

    def client(message):
        from flwr.app import Message

        seen.append(message.content.config_records[allowlist.CONFIG][allowlist.ROUND])
        return Message(content(1.0), reply_to=message)

    strategy = ResumedFedAvg(
        initial(), rounds=5, on_event=events.append, on_round=lambda number, arrays: kept.append(number), done=3
    )
    strategy.start(InProcessGrid([client, client]), initial(), num_rounds=2)
    assert sorted(seen) == [4, 4, 5, 5]
    assert [e.round for e in events if isinstance(e, RoundDone)] == [4, 5]
    assert kept == [0, 4, 5]


def test_a_folder_is_taken_once_and_taken_up_again_with_the_same_settings(tmp_path):
    run_dir = tmp_path / "new" / "run"
    with claimed(run_dir, replace(SETTINGS, seed=3)):
        pass  # what the checks refuse may be mended in the same folder
    with claimed(run_dir, SETTINGS):
        keep_settings(run_dir, SETTINGS)
    with claimed(run_dir, replace(SETTINGS, run_dir=str(run_dir), store="elsewhere")):
        pass
    with (
        pytest.raises(DsvError, match=r"holds a run with other settings \(rounds, seed\)"),
        claimed(run_dir, replace(SETTINGS, rounds=6, seed=1)),
    ):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": "many"}, "views must be a number"),
        ({"start": "/none"}, "start folder /none does not exist"),
        ({"micro_batch": -1}, "micro-batch must be"),
        ({"stationary_parameters": "nosuch"}, "no parameter of the model fits"),
        ({"device": "toaster"}, "unknown device"),
    ],
)
def test_what_cannot_be_synthesised_is_refused_before_a_client_is_asked(tmp_path, change, message):
    wrong = replace(SETTINGS, run_dir=str(tmp_path / "run"), **change)
    with pytest.raises(DsvError, match=message):
        server_main(InProcessGrid([]), Context(1, 1, {}, RecordDict(), dict(wrong.to_run_config())))
    [event] = read_events(tmp_path / "run")
    assert isinstance(event, Failed) and event.reason
    with claimed(tmp_path / "run", SETTINGS):
        pass  # the mended options may have the same folder


def test_a_last_round_without_clients_models_is_run_again(tmp_path):
    settings = RunSettings(
        **{"architecture": "convnet:4", "rounds": 2, "synthesis_from": CLIENTS, "run_dir": str(tmp_path / "run")},
        **{"images_per_class": "1", "iterations": 1, "views": "0", "min_train_nodes": 1, "min_available_nodes": 1},
    )
    context, rounds, well = Context(1, 1, {}, RecordDict(), dict(settings.to_run_config())), [], [True, False]

    def client(message):
        rounds.append(message.content.config_records[allowlist.CONFIG][allowlist.ROUND])
        arrays = message.content.array_records[allowlist.ARRAYS]
        metrics = MetricRecord({allowlist.EXAMPLES: 5, allowlist.LOSS: 1.0})
        reply = {allowlist.ARRAYS: arrays, allowlist.METRICS: metrics}
        return Message(RecordDict(reply if well.pop(0) else {}), reply_to=message)

    with pytest.raises(DsvError, match="no client returned usable weights in the last round, .* run it again in .*run"):
        server_main(InProcessGrid([client]), context)
    assert finished_teacher(tmp_path / "run") is None and rounds == [1, 2]
    well.append(True)
    server_main(InProcessGrid([client]), context)
    assert finished_teacher(tmp_path / "run") and rounds == [1, 2, 2]
    assert len(list((tmp_path / "run" / "releases").glob("*.dsv"))) == 1


def test_a_client_keeps_its_number_over_a_break(tmp_path):
    log = EventLog(tmp_path)
    for event in (ClientNumbered(0, 50), ClientNumbered(1, 90), RoundDone(1, 2, 2, 0, 0.5)):
        log.write(event)
    events = []
    strategy = ResumedFedAvg(
        as_record({"w": torch.zeros(2)}),
        rounds=2,
        on_event=events.append,
        on_round=lambda *_: None,
        done=1,
        numbers=numbered_clients(tmp_path),
    )
    instruction = RecordDict(
        {
            allowlist.ARRAYS: as_record({"w": torch.zeros(2)}),
            allowlist.CONFIG: ConfigRecord({allowlist.ROUND: 2}),
        }
    )
    strategy._checked(2, [Message(instruction, dst_node_id=node, message_type="train") for node in (30, 50)])
    assert [e for e in events if isinstance(e, ClientNumbered)] == [ClientNumbered(2, 30)]
    assert {e.client for e in events if isinstance(e, BytesMoved)} == {0, 2}


def test_a_folder_in_which_a_run_is_at_work(tmp_path, monkeypatch):
    monkeypatch.setattr("server.resume._LET_GO_S", 0.3)
    with claimed(tmp_path, SETTINGS), pytest.raises(DsvError, match="a run is at work in"), claimed(tmp_path, SETTINGS):
        pass


@pytest.mark.parametrize("damaged", ["{broken", "[]"])
def test_a_folder_that_cannot_be_used(damaged, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DsvError, match="cannot use the run's folder"), claimed(tmp_path / "file" / "run", SETTINGS):
        pass
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.json").write_text(damaged)
    with pytest.raises(DsvError, match="cannot use the run's folder"), claimed(tmp_path / "run", SETTINGS):
        pass


def test_the_last_whole_round_is_found_and_half_written_ones_are_not(tmp_path):
    (tmp_path / "rounds").mkdir()
    assert rounds_done(tmp_path, checkpoint(0)) == 0 and finished_teacher(tmp_path) is None
    for number in (0, 1, 2):
        save_checkpoint(round_path(tmp_path, number), checkpoint(number))
    round_path(tmp_path, 3).with_suffix(".tmp").write_bytes(b"half")
    found = checkpoint(9)
    assert rounds_done(tmp_path, found) == 2
    for name, tensor in checkpoint(2).model.state_dict().items():
        assert (found.model.state_dict()[name] == tensor).all()


def test_parts_that_lack_something_say_so(tmp_path, image_tree):
    make_certificates(tmp_path / "certs", hosts=("localhost",), nodes=("a",), days=1)
    keys = tmp_path / "certs" / "nodes" / "a"
    server = Address("localhost", 9093)
    command = SuperNode(keys, server, image_tree, tmp_path / "state", 9094).command()
    assert "--insecure" not in command and f'data-root="{image_tree}"' in command
    with pytest.raises(DsvError, match="has no class folder with an image in it"):
        SuperNode(keys, server, tmp_path / "certs", tmp_path / "state", 9094).command()
    (keys / "node").unlink()
    with pytest.raises(DsvError, match="node is missing; make it with 'dsv certs'"):
        SuperNode(keys, server, image_tree, tmp_path / "state", 9094).command()


def test_plain_speech_with_another_machine_is_refused():
    with (
        pytest.raises(DsvError, match="is another machine; run 'dsv deploy operator'"),
        control(Address("x.org", 1), None),
    ):
        pass
