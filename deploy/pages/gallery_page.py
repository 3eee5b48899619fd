"""``dsv gallery``: all runs and releases of a folder on one page, any two side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from deploy.pages.dsv_view import ReleaseView, release_view
from deploy.pages.facts import ReleaseFacts
from deploy.pages.gallery_facts import MOST_ENTRIES, Entry, Found, find_entries
from deploy.pages.html import render, write_page
from deploy.pages.pictures import encoded, fit, tile_px

GALLERY_FILE = "gallery.html"
_IMAGES_CHARS = 2_600_000
_STRIPS_CHARS = 600_000
_MOST_IMAGES = 2_000
_STRIP = 10


@dataclass(frozen=True)
class Strip:
    """The strongest DSV of a few classes, as data URIs, and the side at which they are shown."""

    sources: list[str]
    tile_px: int
    pixelated: bool


@dataclass(frozen=True)
class EntryView:
    """An entry with its pictures."""

    key: str
    entry: Entry
    strip: Strip | None
    release: ReleaseView | None


def write_gallery(folder: Path, *, out: Path | None = None) -> Path:
    """Write the page of a folder, into it unless ``out`` names a file, and say where.

    Raises:
        DsvError: no such folder, nothing in it, or a page that cannot be written.
    """
    found = find_entries(folder)
    name = folder.resolve().name
    return write_page(out or folder / GALLERY_FILE, lambda room: _page(name, found, room))


def _page(name: str, found: Found, room: float) -> str:
    share = room / max(1, len(found.entries))
    entries = [_view(entry, f"entry-{number}", share) for number, entry in enumerate(found.entries)]
    runs = sum(entry.kind == "run" for entry in found.entries)
    return render(
        "gallery.html",
        "gallery.js",
        folder=name,
        entries=entries,
        runs=runs,
        releases=len(found.entries) - runs,
        total=found.total,
        most=MOST_ENTRIES,
        unreadable=found.unreadable,
    )


def _view(entry: Entry, key: str, share: float) -> EntryView:
    if entry.release is None:
        return EntryView(key, entry, None, None)
    most = max(1, int(_MOST_IMAGES * share)) if share < 0.1 else 200
    view = release_view(entry.release, key, budget_chars=int(_IMAGES_CHARS * share), most=most)
    return EntryView(key, entry, _strip(entry.release, int(_STRIPS_CHARS * share)), view)


def _strip(release: ReleaseFacts, budget_chars: int) -> Strip:
    orders = [release.of_class(label) for label in range(len(release.class_names))]
    firsts = [int(order[0]) for order in orders if len(order)][:_STRIP]
    images = release.support_set.images[torch.tensor(firsts)]
    coding = fit([image[None] for image in images], budget_chars).coding
    side = release.support_set.task.image_size_px
    return Strip([encoded(image, coding) for image in images], tile_px(side, 32) if side <= 32 else 32, side <= 32)
