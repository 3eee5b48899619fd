"""``dsv report``: one run on one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploy.pages import words
from deploy.pages.accuracy_charts import accuracies
from deploy.pages.class_charts import confusion, sums_against_accuracy
from deploy.pages.curve_charts import entropy, losses, rounds
from deploy.pages.dsv_view import ReleaseView, mean_images, release_view, told
from deploy.pages.facts import ReleaseFacts, RunFacts, collect_run
from deploy.pages.headline import best_newcomer, headline, rival_in_words
from deploy.pages.html import render, write_page
from deploy.pages.ink import Chart
from deploy.pages.ledger_charts import ledger_charts, origin, totals
from deploy.pages.pictures import tile_px
from deploy.pages.private_images import Beside, Selected, beside, read_selection
from deploy.pages.provenance import provenance_of
from deploy.pages.unmeasured import unmeasured
from dsv import DsvError

REPORT_FILE = "report.html"
_IMAGES_CHARS = 2_100_000
_FRAMES_CHARS = 1_000_000
_BESIDE_CHARS = 700_000
_MEANS_CHARS = 150_000
_MOST_RELEASES = 6


@dataclass(frozen=True)
class Private:
    """Where the owner's selected real images are.

    Args:
        selection: file that ``dsv select`` wrote.
        data: data set; the run's own when empty.
        data_root: its folder; the run's own when empty.
    """

    selection: Path
    data: str = ""
    data_root: str = ""


@dataclass(frozen=True)
class _Classes:
    """What stands in the section of the classes."""

    sums: list[Chart]
    confusions: list[Chart]
    entropy: Chart | None
    means: list[tuple[str, str]]
    means_title: str
    tile_px: int


def write_report(run_dir: Path, *, out: Path | None = None, private: Private | None = None) -> Path:
    """Write a run's page, into its folder unless ``out`` names a file, and say where.

    Raises:
        DsvError: no run there, a selection that does not fit it, or a page that cannot be written.
    """
    run = collect_run(run_dir)
    selected = _selected(run, private) if private else None
    charts = _charts(run)
    path = out or run_dir / REPORT_FILE
    return write_page(path, lambda room: _page(run, charts, selected, room), private=selected is not None)


def _selected(run: RunFacts, private: Private) -> Selected:
    if not run.releases:
        raise DsvError("the run has no release to set real images beside; leave out --selected")
    data = private.data or str(run.settings.get("data", ""))
    root = private.data_root or str(run.settings.get("data-root", ""))
    return read_selection(private.selection, data, root, run.releases[-1])


@dataclass(frozen=True)
class _Charts:
    """Everything that is drawn; it does not depend on the room for pictures."""

    accuracies: list[Chart]
    classes: _Classes
    ledger: list[Chart]
    losses: list[Chart]
    rounds: list[Chart]


def _charts(run: RunFacts) -> _Charts:
    result = run.result
    return _Charts(
        accuracies=accuracies(result) if result else [],
        classes=_classes(run),
        ledger=ledger_charts(run.ledger),
        losses=losses(run),
        rounds=rounds(run),
    )


def _page(run: RunFacts, charts: _Charts, selected: Selected | None, room: float) -> str:
    releases = run.releases[-_MOST_RELEASES:]
    views = [_release(release, number, room / len(releases)) for number, release in enumerate(releases)]
    result = run.result
    return render(
        "report.html",
        "report.js",
        run=run,
        headline=headline(result) if result else None,
        unmeasured=unmeasured(run),
        newcomers=result.newcomers if result else [],
        rivals=[(rival_in_words(rival), rival) for rival in result.rivals] if result else [],
        releases=views[::-1],
        charts=charts,
        beside=_beside(run, selected, room),
        totals=totals(run.ledger),
        bytes_origin=origin(run.ledger),
        provenance=provenance_of(run),
    )


def _release(release: ReleaseFacts, number: int, room: float) -> ReleaseView:
    return release_view(
        release,
        f"release-{number}",
        budget_chars=int(_IMAGES_CHARS * room),
        frame_budget_chars=int(_FRAMES_CHARS * room),
    )


def _beside(run: RunFacts, selected: Selected | None, room: float) -> list[Beside]:
    if selected is None:
        return []
    release = run.releases[-1]
    texts = {place: told(release, place) for place in range(len(release.support_set))}
    return beside(selected, release, texts, int(_BESIDE_CHARS * room))


def _classes(run: RunFacts) -> _Classes:
    teachers = run.confusion("teacher")
    release = run.releases[-1] if run.releases else None
    names = release.class_names if release else ()
    sums: list[Chart] = []
    confusions = []
    if teachers and release:
        chart = sums_against_accuracy(release, teachers[0], "sums")
        sums = [chart] if chart else []
        confusions.append(confusion(teachers[0], names, "confusion-teacher", f"Teacher, {teachers[0].architecture}"))
        best = best_newcomer(run.result) if run.result else None
        chosen = [
            row
            for row in run.confusion("newcomer")
            if best
            and (row.architecture, row.images_per_class, row.labels)
            == (best.architecture, best.images_per_class, best.labels)
        ]
        for row in chosen[:1]:
            title = f"Newcomer, {row.architecture}, {row.images_per_class} per class, {row.labels} labels"
            confusions.append(confusion(row, names, "confusion-newcomer", title))
    means, title, tile = [], "", 0
    if release:
        support_set = release.support_set
        means = mean_images(support_set.images, support_set.labels, names, _MEANS_CHARS)
        title = words.per_class(support_set.images_per_class)
        tile = tile_px(support_set.task.image_size_px)
    return _Classes(sums, confusions, entropy(run), means, title, tile)
