"""The README's picture of a report: python -m benchmarks.report_picture docs/example-report.html

Its head beside its DSVs, into docs/results/report.png.
Drives the system's own Chromium through Playwright (extra ``dev``).
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

OUT = Path("docs/results/report.png")


def view(browser: Browser, page_file: Path, theme: str, heading: str) -> Image.Image:
    """900 x 900 pixels of the page in one theme, from a heading on."""
    page = browser.new_page(viewport={"width": 900, "height": 900}, color_scheme=theme)  # type: ignore[arg-type]
    page.goto(page_file.absolute().as_uri())
    if heading:
        page.get_by_role("heading", name=heading).first.evaluate("e => window.scrollTo(0, e.offsetTop - 30)")
        page.wait_for_timeout(300)
    return Image.open(io.BytesIO(page.screenshot()))


def main() -> None:
    """Write the picture."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium on this machine; install one (Debian: apt-get install chromium)")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        halves = [
            view(browser, Path(sys.argv[1]), "light", ""),
            view(browser, Path(sys.argv[1]), "dark", "The Deep Support Vectors"),
        ]
        browser.close()
    both = Image.new("RGB", (1800, 900))
    for number, half in enumerate(halves):
        both.paste(half, (900 * number, 0))
    both.quantize(128).save(OUT, optimize=True)


if __name__ == "__main__":
    main()
