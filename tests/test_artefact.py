"""The release file: round trip, determinism, and one error per malformation."""

import dataclasses
import hashlib
import json
import subprocess
import sys

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from dsv import DsvError, LabelledViews, ViewPlan
from protos import artefact
from protos.artefact import ArtefactError


def parts(content):
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header, payload):
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + payload


def changed_metadata(content, change):
    header, payload = parts(content)
    metadata = json.loads(header["__metadata__"]["feddsv"])
    change(metadata)
    header["__metadata__"]["feddsv"] = json.dumps(metadata, sort_keys=True, separators=(",", ":"))
    return joined(header, payload)


def test_round_trip(support_set, content):
    again = artefact.decode(content)
    for name in ("images", "labels", "multipliers"):
        assert torch.equal(getattr(again, name), getattr(support_set, name))
    torch.testing.assert_close(again.soft_labels, support_set.soft_labels, atol=1e-3, rtol=0)
    assert again.task == support_set.task
    assert again.provenance == support_set.provenance
    assert artefact.encode(again) == content
    assert artefact.digest(content) == hashlib.sha256(content).hexdigest()


def test_the_bytes_are_as_specified(support_set, content):
    """ARTEFACT.md, table by table, without the library."""
    header, payload = parts(content)
    assert list(header) == ["__metadata__", "multipliers", "soft_labels", "labels", "images"]
    assert [header[name]["dtype"] for name in list(header)[1:]] == ["F32", "F16", "U16", "U8"]
    begin, end = header["images"]["data_offsets"]
    assert payload[begin:end] == support_set.images.numpy().tobytes() and end == len(payload)
    begin, end = header["labels"]["data_offsets"]
    assert payload[begin : begin + 6] == b"\x00\x00\x00\x00\x01\x00"
    assert list(header["__metadata__"]) == ["feddsv"]


def test_another_process_with_another_hash_seed_writes_the_same_bytes(content, tmp_path):
    path = tmp_path / "a.dsv"
    path.write_bytes(content)
    code = (
        "import sys; from protos import artefact; print(artefact.digest(artefact.encode(artefact.load(sys.argv[1]))))"
    )
    for hash_seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": hash_seed, "PATH": "/usr/bin:/bin"}
        command = [sys.executable, "-c", code, str(path)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        assert printed.strip() == artefact.digest(content)


def test_arrays_that_are_not_contiguous_are_written_right(support_set):
    images = support_set.images.transpose(2, 3)
    turned = artefact.decode(artefact.encode(dataclasses.replace(support_set, images=images)))
    assert torch.equal(turned.images, images)


@pytest.mark.parametrize("length", [0, 4, 8, 100, -1])
def test_truncated(content, length):
    with pytest.raises(ArtefactError, match="not a release file, or a truncated one"):
        artefact.decode(content[:length])


def test_trailing_bytes(content):
    with pytest.raises(ArtefactError, match="truncated|canonical"):
        artefact.decode(content + b"x")


def test_a_header_that_claims_to_be_huge(content):
    with pytest.raises(ArtefactError, match="not a release file"):
        artefact.decode((2**63).to_bytes(8, "little") + content[8:])


def test_above_the_size_limit(content, monkeypatch):
    monkeypatch.setattr(artefact, "MAX_SIZE_BYTES", 10)
    with pytest.raises(ArtefactError, match="above the limit of 10"):
        artefact.decode(content)


def test_another_format(content):
    with pytest.raises(ArtefactError, match="has format 'feddsv/4'"):
        artefact.decode(changed_metadata(content, lambda m: m.update(format="feddsv/4")))


def test_unknown_metadata(content):
    with pytest.raises(ArtefactError, match="format, task and provenance, nothing else"):
        artefact.decode(changed_metadata(content, lambda m: m.update(owner="me")))


@pytest.mark.parametrize("section", ["task", "provenance"])
def test_metadata_with_a_field_too_many_or_of_the_wrong_type(content, section):
    with pytest.raises(ArtefactError, match="metadata is malformed"):
        artefact.decode(changed_metadata(content, lambda m: m[section].update(extra=1)))
    with pytest.raises(ArtefactError, match="metadata"):
        artefact.decode(changed_metadata(content, lambda m: m.update({section: []})))


def test_class_names_that_do_not_match_the_images(content):
    with pytest.raises(ArtefactError, match="inconsistent: a DSV set's"):
        artefact.decode(changed_metadata(content, lambda m: m["task"]["class_names"].append("ten")))


def test_a_tensor_missing(content):
    header, payload = parts(content)
    begin, end = header.pop("images")["data_offsets"]
    with pytest.raises(ArtefactError, match="holds tensors"):
        artefact.decode(joined(header, payload[:begin] + payload[end:]))


@pytest.mark.parametrize("name", ["images", "labels", "multipliers", "soft_labels"])
def test_a_tensor_without_a_dimension(content, name):
    tensors = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    tensors[name] = numpy.zeros((), tensors[name].dtype)
    with pytest.raises(ArtefactError):
        artefact.decode(save(tensors, metadata=header["__metadata__"]))


def test_a_tensor_of_another_type(content):
    header, payload = parts(content)
    header["images"]["dtype"] = "I8"
    with pytest.raises(ArtefactError, match="images are int8"):
        artefact.decode(joined(header, payload))


def test_bytes_that_decode_to_the_same_but_are_not_canonical(content):
    header, payload = parts(content)
    spaced = json.dumps(header).encode()
    spaced += b" " * (-len(spaced) % 8)
    with pytest.raises(ArtefactError, match="not in canonical form"):
        artefact.decode(len(spaced).to_bytes(8, "little") + spaced + payload)


def test_no_such_file(tmp_path):
    with pytest.raises(ArtefactError, match="cannot read release .*none.dsv"):
        artefact.load(tmp_path / "none.dsv")


def test_a_pickle_is_not_opened(tmp_path):
    path = tmp_path / "model.dsv"
    torch.save({"a": 1}, path)
    with pytest.raises(ArtefactError, match="not a release file"):
        artefact.load(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_bytes_is_refused_or_decodes_to_just_those_bytes(content, data):
    """No exception but ArtefactError, whatever the bytes."""
    position = data.draw(st.integers(0, len(content) - 1))
    replacement = data.draw(st.binary(min_size=1, max_size=8))
    altered = content[:position] + replacement + content[position + len(replacement) :]
    try:
        found = artefact.decode(altered)
    except ArtefactError:
        return
    assert artefact.encode(found) == altered


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


def places(value, path=()):
    """Every path into a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_anywhere_in_the_metadata_is_refused_or_harmless(content, data):
    """Well-formed JSON of the wrong kind: no exception but ArtefactError."""
    whole = {"metadata": json.loads(parts(content)[0]["__metadata__"]["feddsv"])}
    *above, last = data.draw(st.sampled_from(list(places(whole))[1:]))
    target = whole
    for key in above:
        target = target[key]
    target[last] = data.draw(_JSON)
    header, payload = parts(content)
    header["__metadata__"]["feddsv"] = json.dumps(whole["metadata"], sort_keys=True, separators=(",", ":"))
    altered = joined(header, payload)
    try:
        found = artefact.decode(altered)
    except ArtefactError:
        return
    assert artefact.encode(found) == altered


@pytest.mark.parametrize("name", ["\x1b[31mred", "", "a\nb", "\ud800"])
def test_class_names_that_a_terminal_must_not_see(content, name):
    with pytest.raises(ArtefactError, match="not printable text"):
        artefact.decode(changed_metadata(content, lambda m: m["task"]["class_names"].__setitem__(0, name)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes(garbage):
    with pytest.raises(ArtefactError):
        artefact.decode(garbage)


def test_views_of_altered_images_are_never_dropped_in_silence(support_set):
    plan, count = ViewPlan(2), support_set.task.classes
    views = LabelledViews(plan, torch.zeros(2, count, dtype=torch.uint8), 1.0, (0, 0))
    labelled = dataclasses.replace(support_set, views=views)
    assert artefact.decode(artefact.encode(labelled)).views is not None
    soft = lambda images: support_set.soft_labels  # noqa: E731
    with pytest.raises(DsvError, match="their views must be labelled anew: label_views"):
        artefact.encode(labelled, "2-bit", relabel=soft)
    anew = artefact.encode(labelled, "2-bit", relabel=soft, label_views=lambda images: views)
    assert artefact.decode(anew).views is not None


@pytest.mark.parametrize("number", [10**400, -(10**400), 1e300, float("nan")])
def test_normalisation_beyond_any_float(support_set, number):
    with pytest.raises(DsvError, match="mean"):
        dataclasses.replace(support_set.task, mean=(number,))
