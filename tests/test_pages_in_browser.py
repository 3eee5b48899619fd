"""The pages as people meet them: in a real browser, offline, light and dark, with keys, on a phone, on paper.

Needs Chromium of the system's packages (``apt-get install chromium``); skipped where there is none.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe_api = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; apt-get install chromium")
SERIOUS = ("serious", "critical")
SIZES = {"desktop": (1200, 900), "phone": (390, 844)}


@dataclass
class Opened:
    """A page in the browser, and what went wrong or over the wire meanwhile."""

    page: object
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with sync_api.sync_playwright() as started:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        launched = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield launched
        launched.close()


def opened(browser, path: Path, *, size: str = "desktop", scheme: str = "light") -> Opened:
    width, height = SIZES[size]
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": height}, has_touch=size == "phone"
    )
    found = Opened(context.new_page())
    found.page.on("console", lambda message: found.faults.append(message.text) if message.type != "log" else None)
    found.page.on("pageerror", lambda error: found.faults.append(str(error)))
    found.page.on("request", lambda request: found.requests.append(request.url))
    found.page.goto(path.as_uri())
    return found


@pytest.mark.parametrize("name", ["report", "hostile", "gallery"])
def test_opens_whole_and_asks_for_nothing(browser, pages, name):
    found = opened(browser, pages[name])
    page = found.page
    sources = page.locator("img").count()
    decoded = page.evaluate(
        "Promise.all([...document.images].filter(i => i.src).map(i => i.decode().then(() => i.naturalWidth > 0)))"
    )
    assert sources > 10 and all(decoded)
    assert found.faults == []
    outside = [url for url in found.requests if not url.startswith("data:")]
    assert outside == [pages[name].as_uri()]
    page.context.close()


@pytest.mark.parametrize(
    ("name", "size", "scheme"),
    [
        ("report", "desktop", "light"),
        ("report", "phone", "dark"),
        ("hostile", "phone", "light"),
        ("gallery", "desktop", "dark"),
        ("gallery", "phone", "light"),
    ],
)
def test_no_overflow_and_no_serious_fault_of_access(browser, pages, name, size, scheme):
    found = opened(browser, pages[name], size=size, scheme=scheme)
    page = found.page
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= SIZES[size][0], f"{wide} px wide"
    sides = page.evaluate("[...document.querySelectorAll('.tile img')].map(i => i.clientWidth).filter(w => w)")
    assert min(sides) >= 15 and (name != "report" or min(sides) >= 60)
    backdrop = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, backdrop[4:-1].split(",")[:3])) > 384
    assert light == (scheme == "light")
    if size == "desktop" or name == "report":
        results = axe_api.Axe().run(page).response["violations"]
        serious = [
            f"{v['id']}: {v['nodes'][0]['html'][:150]}" for v in results if v["impact"] in ("serious", "critical")
        ]
        assert serious == []
    page.context.close()


def test_slider_and_keys_of_the_report(browser, pages):
    found = opened(browser, pages["report"])
    page = found.page
    first = page.locator(".release:not([hidden]) .tile img").first
    final = first.get_attribute("src")
    slider = page.locator("#grown")
    slider.focus()
    page.keyboard.press("Home")
    assert first.get_attribute("src") != final and slider.get_attribute("aria-valuetext") == "iteration 0 of 20"
    page.keyboard.press("ArrowRight")
    assert page.locator(".growth output").inner_text() != "0 of 20"
    page.keyboard.press("End")
    assert first.get_attribute("src") == final
    page.locator(".release:not([hidden]) .tile").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    name = page.evaluate("document.activeElement.firstElementChild.alt")
    assert name.startswith("DSV of class class 1, 2nd of 10")
    assert page.locator(".lens").inner_text().startswith("class class 1, no. 2")
    page.locator(".release:not([hidden]) .tile").nth(3).hover()
    assert page.locator(".lens").inner_text().startswith("class class 0, no. 4")
    page.get_by_role("radio", name="1 per class").check()
    assert page.locator(".release:not([hidden]) .tile").count() == 10
    page.locator(".play").click()
    sync_api.expect(slider).not_to_have_value(slider.get_attribute("max"))
    sync_api.expect(slider).to_have_value(slider.get_attribute("max"), timeout=30_000)
    assert found.faults == []
    page.context.close()


def test_any_two_of_the_gallery(browser, pages):
    found = opened(browser, pages["gallery"], size="phone")
    page = found.page
    page.locator(".card").nth(1).get_by_role("button", name="left").click()
    page.locator(".card").nth(1).get_by_role("button", name="right").click()
    assert page.locator(".slot .entry").count() == 2 and page.locator(".versus .differs").count() == 0
    page.locator("select").nth(1).select_option(index=0)
    assert page.locator(".versus .differs").count() > 0
    assert page.locator(".slot h3").all_inner_texts() == page.locator(".card h2").all_inner_texts()[1::-1]
    assert found.faults == []
    page.context.close()


def test_reads_without_its_script_and_on_paper(browser, pages):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["report"].as_uri())
    assert page.locator(".release:visible").count() == 2 and not page.locator(".console").is_visible()
    page.emulate_media(media="print")
    assert page.locator(".strip:visible").count() == 2 and not page.locator("nav").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")
    context.close()
