"""The page on a folder, and which images no page shows."""

from __future__ import annotations

from dataclasses import replace

from command_line import dsv
from run_folders import HOSTILE, a_release, a_run, a_task

from deploy.pages.run_page import write_report
from dsv import (
    GIVEN_IMAGES,
)
from protos import artefact
from server.run_folder import RESULT_FILE


def with_start(support_set, start):
    return replace(support_set, provenance=replace(support_set.provenance, start=start))


def test_no_page_shows_what_was_made_of_given_pictures(tmp_path):
    edited = artefact.encode(with_start(a_release(a_task(), 2, seed=9), GIVEN_IMAGES))
    (tmp_path / "edits").mkdir()
    (tmp_path / "edits" / "edit.dsv").write_bytes(edited)
    assert dsv("gallery", tmp_path / "edits").exit_code == 0
    text = (tmp_path / "edits" / "gallery.html").read_text()
    assert "0 runs and 1 release<" in text and artefact.digest(edited) in text
    assert "data:image" not in text and text.count("made of given pictures (dsv edit)") == 2, "on its card and below"
    run = a_run(tmp_path / "run", a_task(), (1,))
    (run / "releases" / f"{artefact.digest(edited)}.dsv").write_bytes(edited)
    text = write_report(run).read_text()
    assert "made of given pictures (dsv edit)" in text and artefact.digest(edited) not in text


def test_a_page_says_of_which_pictures_its_images_grew(tmp_path):
    for start, told in (("crops", True), ("noise", False), ("dead-leaves", False)):
        path = tmp_path / start / "loose.dsv"
        path.parent.mkdir()
        path.write_bytes(artefact.encode(with_start(a_release(a_task(), 2), start)))
        assert dsv("gallery", path.parent).exit_code == 0
        text = (path.parent / "gallery.html").read_text()
        assert "data:image" in text and ("grew from pictures of “crops” and may still show them" in text) is told


def test_a_gallery_of_runs_and_of_releases(tmp_path):
    a_run(tmp_path / "folder" / "first", a_task())
    unfinished = a_run(tmp_path / "folder" / "second", a_task())
    (unfinished / RESULT_FILE).unlink()
    (tmp_path / "folder" / "latest").symlink_to("second")
    (tmp_path / "folder" / "loose.dsv").write_bytes(artefact.encode(a_release(a_task(names=HOSTILE), 2)))
    (tmp_path / "folder" / "harm.dsv").write_bytes(b"harm")
    done = dsv("gallery", tmp_path / "folder")
    assert done.exit_code == 0 and "gallery.html" in done.output
    text = (tmp_path / "folder" / "gallery.html").read_text()
    assert "2 runs and 1 release<" in text and "harm.dsv: not a release file" in text and "<script>alert" not in text
    assert str(tmp_path) not in text
    assert dsv("gallery", tmp_path / "folder" / "first" / "releases", "--out", tmp_path / "g.html").exit_code == 0
    assert "0 runs and 2 releases" in (tmp_path / "g.html").read_text()
