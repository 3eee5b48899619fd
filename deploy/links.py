"""The links that savings are reckoned on: the one table of them, each with where its figures come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """A link of one device.

    Args:
        name: as tables show it.
        up_bits_per_s, down_bits_per_s: what a device gets for long, above 0; rules of the band are in them.
        round_trip_s: there and back.
        source: of these figures.
    """

    name: str
    up_bits_per_s: float
    down_bits_per_s: float
    round_trip_s: float
    source: str

    def seconds(self, up_bytes: float, down_bytes: float, round_trips: int) -> float:
        """Time to move this much, one direction after the other: the device has one radio and one at a time to do."""
        moving_s = 8 * up_bytes / self.up_bits_per_s + 8 * down_bytes / self.down_bits_per_s
        return moving_s + round_trips * self.round_trip_s


LINKS = (
    Link(
        "LoRa-class",
        54.7,
        54.7,
        2.0,
        "LoRaWAN regional parameters, EU868, DR5 (SF7, 125 kHz): 5,470 bit/s; 1 % duty cycle of the band, ETSI EN "
        "300 220-2; windows open 1 and 2 s after an uplink. One device alone: a gateway's own duty cycle is shared by "
        "all of its devices",
    ),
    Link(
        "NB-IoT",
        62_000,
        26_000,
        1.6,
        "3GPP release 13, LTE Cat NB1, sustained peak with one HARQ process: 26 kbit/s down, 62 kbit/s up "
        "(multi-tone); latency 1.6 to 10 s, here the lower end",
    ),
    Link(
        "3G",
        400_000,
        3_000_000,
        0.2,
        "typical, not peak: 3 Mbit/s down, 0.4 Mbit/s up (4g4u.org); 100 to 500 ms (Grigorik, High Performance Browser "
        "Networking, table 7-2)",
    ),
    Link(
        "4G",
        10_000_000,
        20_000_000,
        0.055,
        "typical, not peak: 20 Mbit/s down, 10 Mbit/s up (4g4u.org); median ping 55 ms (Web Performance Calendar 2013)",
    ),
    Link(
        "Wi-Fi",
        36_000_000,
        36_000_000,
        0.005,
        "IEEE 802.11n, one stream of 20 MHz, MCS 7: 72.2 Mbit/s on the air, of which about half is left to TCP",
    ),
)
"""From the slowest to the fastest download."""
