"""The arithmetic of the savings: bytes, links, newcomers, crossing points."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from deploy.links import LINKS
from deploy.savings import (
    Kind,
    Way,
    best,
    cheaper,
    cheapest,
    parameters_of_equal_size,
    sooner_below_bits_per_s,
)
from deploy.savings_report import Sheet

COUNTS = st.integers(0, 10**9)


def way(kind=Kind.FEDAVG_DSV, *, up=0, down=0, new_up=0, new_down=0, accuracy=0.9, training_s=0.0) -> Way:
    return Way(kind, "", "convnet:64", accuracy, 0.0, 8, up, down, 1, new_up, new_down, training_s=training_s)


ANY = st.builds(way, up=COUNTS, down=COUNTS, new_up=COUNTS, new_down=COUNTS, training_s=st.floats(0, 1e4))


@given(ANY, ANY, st.integers(1, 10**7))
def test_a_crossing_point_says_for_every_number_who_moves_less(one, other, newcomers):
    less = one.total_bytes(newcomers) < other.total_bytes(newcomers)
    found = cheaper(one, other)
    inside = found is not None and found.first <= newcomers and (found.last is None or newcomers <= found.last)
    assert less is inside


@given(ANY, st.sampled_from(LINKS), st.integers(1, 1000))
def test_totals_add_up_and_times_follow_the_link(one, link, newcomers):
    assert one.total_bytes(newcomers) == one.up_bytes(newcomers) + one.down_bytes(newcomers)
    moving_s = 8 * one.newcomer_up_bytes / link.up_bits_per_s + 8 * one.newcomer_down_bytes / link.down_bits_per_s
    assert one.newcomer_s(link) == pytest.approx(moving_s + 5 * link.round_trip_s + one.training_s)
    assert one.client_s(link) >= 5 * link.round_trip_s


@given(ANY, ANY)
def test_at_the_rate_of_equal_time_both_take_as_long(one, other):
    rate = sooner_below_bits_per_s(one, other)
    if 0 < rate < math.inf:
        took = [8 * w.newcomer_down_bytes / rate + w.training_s for w in (one, other)]
        assert took[0] == pytest.approx(took[1], rel=1e-6)
    if rate == math.inf:
        assert one.newcomer_down_bytes <= other.newcomer_down_bytes and one.training_s <= other.training_s


def test_fewer_bytes_and_training_beat_weights_on_slow_links_alone():
    dsv, weights = way(new_down=10_000, training_s=4.0), way(Kind.WEIGHTS_FLOAT32, new_down=305_000)
    rate = sooner_below_bits_per_s(dsv, weights)
    assert rate == pytest.approx(590_000)
    for link in LINKS:
        trips = 5 * link.round_trip_s
        assert (dsv.newcomer_s(link) - trips < weights.newcomer_s(link) - trips) is (link.down_bits_per_s < rate)


def test_a_dear_beginning_pays_from_some_number_of_newcomers_on():
    federated, uploaded = way(up=34_000_000, down=34_000_000, new_down=10_000), way(up=92_000, new_down=305_000)
    found = cheaper(federated, uploaded)
    assert (found.first, found.last) == (231, None)
    back = cheaper(uploaded, federated)
    assert (back.first, back.last) == (1, 230)
    assert cheaper(federated, federated) is None


def test_the_model_whose_weights_are_as_small_as_the_release():
    assert parameters_of_equal_size(10_000, 305_000, 76_250) == 2_500


def test_the_cheapest_and_the_best_of_every_kind():
    ways = [
        way(accuracy=0.7, new_down=2_000),
        way(accuracy=0.9, new_down=10_000),
        way(accuracy=0.95, new_down=50_000),
        way(Kind.WEIGHTS_INT8, accuracy=0.98, new_down=80_000),
        way(Kind.RANDOM_REAL, accuracy=0.6, new_down=600),
    ]
    assert [(w.kind, w.newcomer_down_bytes) for w in cheapest(ways, 0.9, 10)] == [
        (Kind.WEIGHTS_INT8, 80_000),
        (Kind.FEDAVG_DSV, 10_000),
    ]
    assert [w.accuracy_mean for w in best(ways)] == [0.98, 0.95, 0.6]


def test_a_devices_part_is_its_share_and_all_its_exchanges():
    federated = replace(way(up=8_000, down=16_000), client_exchanges=14)
    assert (federated.client_up_bytes, federated.client_down_bytes) == (1_000, 2_000)
    for link in LINKS:
        moving_s = 8 * 1_000 / link.up_bits_per_s + 8 * 2_000 / link.down_bits_per_s
        assert federated.client_s(link) == pytest.approx(moving_s + 14 * 5 * link.round_trip_s)


def test_an_accuracy_that_is_just_reached_counts():
    assert [w.accuracy_mean for w in cheapest([way(accuracy=0.9)], 0.9, 10)] == [0.9]


def test_of_equal_bytes_the_better_and_of_equal_accuracies_the_smaller():
    assert [w.accuracy_mean for w in cheapest([way(accuracy=0.7), way(accuracy=0.8)], 0.5, 10)] == [0.8]
    small, large = way(up=10, new_down=5), way(up=10, new_down=50)
    assert best([large, small]) == best([small, large]) == [small]
    early, late = way(up=1, new_down=50), way(up=10, new_down=5)
    assert best([late, early]) == [early]


def test_the_number_of_newcomers_decides_what_is_cheapest():
    federated, uploaded = way(up=1_000, new_down=1), way(up=10, new_down=100)
    assert [cheapest([federated, uploaded], 0.5, n)[0].clients_up_bytes for n in (1, 1_000)] == [10, 1_000]


def test_the_figures_of_the_standards():
    """As the sources of deploy/links.py give them: one direction taken for the other is seen here."""
    by_name = {link.name: link for link in LINKS}
    assert by_name["LoRa-class"].up_bits_per_s == by_name["LoRa-class"].down_bits_per_s == pytest.approx(5470 * 0.01)
    assert (by_name["NB-IoT"].up_bits_per_s, by_name["NB-IoT"].down_bits_per_s) == (62_000, 26_000)
    assert (by_name["3G"].up_bits_per_s, by_name["3G"].down_bits_per_s) == (400_000, 3_000_000)
    assert (by_name["4G"].up_bits_per_s, by_name["4G"].down_bits_per_s) == (10_000_000, 20_000_000)


def test_every_link_has_a_source_and_sane_figures():
    assert [link.name for link in LINKS] == ["LoRa-class", "NB-IoT", "3G", "4G", "Wi-Fi"]
    for link in LINKS:
        assert len(link.source) > 20 and link.round_trip_s > 0
    rates = [link.down_bits_per_s for link in LINKS]
    assert rates == sorted(rates) and len(set(rates)) == len(rates)


def test_on_a_narrow_terminal_a_variant_that_takes_two_lines_keeps_its_indentation():
    row = ("one-shot weights *", "all, then weights int8", "9 %")
    sheet = Sheet("title", ("way", "variant", "accuracy"), (row,), 2)
    console = Console(width=26, file=io.StringIO())
    sheet.show(console)
    lines = [line for line in console.file.getvalue().splitlines() if "all" in line or "int8" in line]
    assert len(lines) == 2 and all(line.startswith("  ") for line in lines)
