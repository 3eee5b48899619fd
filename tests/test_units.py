"""Bytes, seconds and rates as people read them."""

from __future__ import annotations

from deploy.savings_words import short_rate
from deploy.units import exact_bytes, short_bytes, short_time, tick_bytes


def test_figures_for_people():
    assert [short_bytes(n) for n in (0, 74, 999, 10_152, 305_000, 34_100_000, 305e9)] == [
        "0 B",
        "74 B",
        "999 B",
        "10.2 kB",
        "305 kB",
        "34.1 MB",
        "305 GB",
    ]
    assert [short_time(s) for s in (0.031, 4.12, 59.6, 600, 12_600, 1_300_000, 250_000)] == [
        "0.03 s",
        "4.1 s",
        "60 s",
        "10 min",
        "3.5 h",
        "15 days",
        "2.9 days",
    ]
    assert [exact_bytes(n) for n in (999, 99_999, 100_000, 9_999_499, 10_000_000)] == [
        "999 B",
        "99,999 B",
        "100 kB",
        "9,999 kB",
        "10.0 MB",
    ]
    assert [tick_bytes(n) for n in (0, 50, 1000, 2050, 1_250_000, 2_000_000)] == [
        "0 B",
        "50 B",
        "1 kB",
        "2.05 kB",
        "1.25 MB",
        "2 MB",
    ]
    assert [short_rate(r) for r in (54.7, 590_000, 1_200_000)] == ["54.7 bit/s", "590 kbit/s", "1.2 Mbit/s"]
