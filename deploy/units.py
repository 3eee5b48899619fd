"""Bytes and seconds as people read them: in terminals, tables and pages."""

from __future__ import annotations


def exact_bytes(size_bytes: int) -> str:
    """With a thousands separator up to 100 kB, then kB or MB (powers of ten): where rows are compared to the byte."""
    if size_bytes < 100_000:
        return f"{size_bytes:,} B"
    return f"{size_bytes / 1e3:,.0f} kB" if size_bytes < 10_000_000 else f"{size_bytes / 1e6:,.1f} MB"


def short_bytes(size_bytes: float) -> str:
    """Two or three digits: 74 B, 1.3 kB, 10.2 kB, 305 kB, 34.1 MB, 305 GB (powers of ten)."""
    size, unit = _scaled(size_bytes)
    return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"


def _scaled(size_bytes: float) -> tuple[float, str]:
    size, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return size, unit


def tick_bytes(size_bytes: float) -> str:
    """Bytes at the tick of an axis, exact to four digits: 1000 as ``1 kB``, 1,250,000 as ``1.25 MB``."""
    size, unit = _scaled(size_bytes)
    return f"{size:.4g} {unit}"


def short_time(seconds: float) -> str:
    """0.03 s, 4.1 s, 5.2 min, 3.5 h, 12 days."""
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            value = seconds / divisor
            return (
                f"{value:.2f} {unit}" if value < 1 else f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
            )
    return f"{seconds / 86_400:.0f} days" if seconds >= 864_000 else f"{seconds / 86_400:.1f} days"
