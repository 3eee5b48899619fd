"""A synthesis from every client's own model: one-shot federations."""

import dataclasses

import pytest
import torch

from dsv import DsvError, Ensemble, build_model, estimated_counts, predict
from protos import artefact
from protos.checkpoint import Checkpoint, save_checkpoint
from protos.exchange import as_record, exchanged_tensors
from protos.settings import CLIENTS, RunSettings
from server.client_models import FOLDER, load_client_models, usable
from server.events import Published
from server.store import DirectoryStore
from server.synthesis_job import publish_releases
from server.uploads import Upload, keep_client_models

SETTINGS = RunSettings(images_per_class="1", iterations=3, synthesis_from=CLIENTS)


@pytest.fixture
def kept(teacher, tmp_path):
    drawn = [build_model(teacher.spec, seed=seed) for seed in range(3)]
    sent = [Upload(as_record(exchanged_tensors(model, "*")), 10 + seed) for seed, model in enumerate(drawn)]
    keep_client_models(tmp_path, teacher, [sent[0]])
    keep_client_models(tmp_path, teacher, sent)
    return tmp_path / FOLDER


def ensemble(kept, teacher):
    models = [client.model.eval() for client in load_client_models(kept, teacher)]
    return Ensemble(models, estimated_counts(models, [10, 11, 12], teacher.task))


def test_models_come_back_as_they_were_sent(teacher, kept):
    found = load_client_models(kept, teacher)
    assert len(found) == 3 and not list(kept.parent.glob("*.partial"))
    assert kept.stat().st_mode & 0o777 == 0o700
    for seed, checkpoint in enumerate(found):
        assert checkpoint.examples == 10 + seed
        for name, tensor in build_model(teacher.spec, seed=seed).state_dict().items():
            assert torch.equal(checkpoint.model.state_dict()[name], tensor)


def test_a_trained_head_is_put_on_the_teachers_backbone(teacher, tmp_path):
    head = {name: t + 1 for name, t in exchanged_tensors(teacher.model, "head").items()}
    keep_client_models(tmp_path, teacher, [Upload(as_record(head), 1)])
    (found,) = load_client_models(tmp_path / FOLDER, teacher)
    for name, tensor in teacher.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], head.get(name, tensor))


@pytest.mark.parametrize("encoding", ["raw", "2-bit"])
def test_the_release_is_of_the_clients_and_labelled_by_their_ensemble(teacher, kept, tmp_path, encoding):
    settings = dataclasses.replace(SETTINGS, image_encoding=encoding)
    store = DirectoryStore(tmp_path / "store")
    events = []
    for models in (kept, None, kept):
        publish_releases(teacher, settings, store, client_models=models, on_event=events.append)
    of_clients, of_teacher, again = [event.digest for event in events if isinstance(event, Published)]
    assert of_clients == again != of_teacher
    release = artefact.load(store.path(of_clients))
    expected = predict(ensemble(kept, teacher), release.images, teacher.task)
    torch.testing.assert_close(release.soft_labels, expected, atol=0.003, rtol=0)
    assert not torch.allclose(release.soft_labels, predict(teacher.model, release.images, teacher.task), atol=0.01)
    assert "anchors_sha256" in release.provenance.config


def test_views_are_labelled_by_the_clients_ensemble(teacher, kept, tmp_path):
    settings = dataclasses.replace(SETTINGS, views="20")
    store = DirectoryStore(tmp_path / "store")
    publish_releases(teacher, settings, store, client_models=kept, on_event=lambda event: None)
    [path] = (tmp_path / "store").glob("*.dsv")
    release = artefact.load(path)
    drawn = release.views.of(release.images, teacher.task).draw(torch.arange(20))
    with torch.no_grad():
        expected = ensemble(kept, teacher)(drawn).softmax(dim=1)
    coarse = 2 * release.views.scale / 15
    torch.testing.assert_close(release.views.logits(torch.arange(20)).softmax(1), expected, atol=coarse / 4, rtol=0)


def test_a_folder_without_models_or_with_others_is_named(teacher, task, kept, tmp_path):
    with pytest.raises(DsvError, match="holds no client's model"):
        load_client_models(tmp_path / "nowhere", teacher)
    spec = dataclasses.replace(teacher.spec, width=4)
    save_checkpoint(kept / "0009.safetensors", Checkpoint(build_model(spec, seed=0), spec, task))
    with pytest.raises(DsvError, match="0009.safetensors is not a model of the teacher's architecture"):
        load_client_models(kept, teacher)


def test_a_client_whose_answers_are_no_numbers_is_left_out(teacher, kept, tmp_path):
    """Weights may be finite, so that they pass the allow-list, and still answer NaN: one must not end all labels."""
    absurd = build_model(teacher.spec, seed=9)
    for parameter in absurd.parameters():
        parameter.data.fill_(3e38)
    save_checkpoint(kept / "0009.safetensors", Checkpoint(absurd, teacher.spec, teacher.task, 10))
    clients = load_client_models(kept, teacher)
    assert len(clients) == 4 and len(usable(clients)) == 3
    published = []
    publish_releases(
        teacher, SETTINGS, DirectoryStore(tmp_path / "store"), client_models=kept, on_event=published.append
    )
    assert isinstance(published[-1], Published)
    with pytest.raises(DsvError, match="no client's model gives finite answers"):
        usable(clients[3:])
