"""Templates, style and script put together into one file that asks for no other."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from deploy.pages import words
from deploy.units import short_bytes
from dsv import DsvError
from protos.files import write_output

LIMIT_BYTES = 5_000_000
"""No page is larger."""
_TRIES = 4


def render(template: str, script: str, **context: Any) -> str:
    """A page as text.

    Args:
        template: file in ``templates/``.
        script: file in ``assets/``; the only script that the page's policy lets run, whatever strangers named things.
        context: what the template reads.
    """
    environment = Environment(
        loader=PackageLoader("deploy.pages"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = words.short
    environment.globals.update(share=words.share, size=short_bytes, plural=words.plural)
    code = _asset(script)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return environment.get_template(template).render(
        style=_asset("page.css"), script=code, script_sha256=digest, **context
    )


def write_page(path: Path, page: Callable[[float], str], *, private: bool = False) -> Path:
    """Write a page, made again with less room for pictures while it is too large.

    Args:
        page: from the share of the pictures' room that they may take, 0 to 1, to the page.
        private: its user alone may read it.

    Raises:
        DsvError: it cannot be written, or is too large even with hardly any picture.
    """
    room = 1.0
    for _ in range(_TRIES):
        content = page(room).encode("utf-8", "replace")
        if len(content) < LIMIT_BYTES:
            break
        room /= 3
    else:
        raise DsvError(f"the page for {path} would have {len(content):,} bytes; the limit is {LIMIT_BYTES:,}")
    write_output(path, content, "the page", private=private)
    return path


def _asset(name: str) -> str:
    return (files("deploy.pages") / "assets" / name).read_text(encoding="utf-8")
