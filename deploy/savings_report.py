"""The savings of one federation: as tables for the terminal and Markdown, and as rows for files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console, Group
from rich.padding import Padding

from deploy.console import table_of
from deploy.links import LINKS
from deploy.savings import NEWCOMERS, Kind, Way, best, cheapest
from deploy.tables import Row
from deploy.units import short_bytes, short_time

_WIDE = 104
NAMES = {
    Kind.RAW_IMAGES: "raw images",
    Kind.FEDAVG: "FedAvg joined",
    Kind.WEIGHTS_FLOAT32: "weights fp32",
    Kind.WEIGHTS_FLOAT16: "weights fp16",
    Kind.WEIGHTS_INT8: "weights int8",
    Kind.ONE_SHOT_WEIGHTS: "one-shot weights",
    Kind.ONE_SHOT_DSV: "one-shot + DSV",
    Kind.FEDAVG_DSV: "FedAvg + DSV",
    Kind.RANDOM_REAL: "random real",
}


@dataclass(frozen=True)
class Sheet:
    """One table: a title, headings, rows of words; the first ``words`` columns are text, the others figures."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int

    def markdown(self) -> str:
        """As Markdown."""
        lines = ["**" + self.title.replace("\n", "; ") + "**", "", "| " + " | ".join(self.headings) + " |"]
        lines.append("|" + "---|" * self.words + "---:|" * (len(self.headings) - self.words))
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join(lines)

    def show(self, console: Console) -> None:
        """On a terminal; on a narrow one, the words share a column."""
        headings, words = self.headings, self.words
        together = console.width < _WIDE and words == 2
        if together:
            headings, words = (headings[0], *headings[2:]), 1
        table = table_of(*headings, words=range(words), title=self.title)
        for row in self.rows:
            if together:
                table.add_row(Group(row[0], Padding(row[1], (0, 0, 0, 2))), *row[2:])
            else:
                table.add_row(*row)
        console.print(table)


def sheets(ways: Sequence[Way], target: float) -> list[Sheet]:
    """The comparison: each way at its best, all to the same accuracy, bytes in all, and the time on links."""
    same = cheapest(ways, target, NEWCOMERS[1])
    missing = [kind for kind in Kind if kind not in {way.kind for way in same} and any(w.kind is kind for w in ways)]
    reached = "" if not missing else "\nnot reached by: " + ", ".join(NAMES[kind] for kind in missing)
    return [
        _bytes_sheet("Each way at its best: bytes of one client and of one newcomer", best(ways)),
        _bytes_sheet(f"To the same accuracy, {target:.1%} or more: the cheapest variant of each way{reached}", same),
        _totals_sheet("To the same accuracy: bytes of all clients and all newcomers together, by newcomers", same),
        _time_sheet("Time of one client's part: transfers alone", same, newcomer=False),
        _time_sheet(
            "Time until a newcomer has its model: transfer, and training as on this machine", same, newcomer=True
        ),
    ]


def _bytes_sheet(title: str, ways: Sequence[Way]) -> Sheet:
    headings = ("way", "variant", "accuracy", "client ↑", "↓", "newcomer ↑", "↓")
    rows = [
        (
            *_named(way),
            _accuracy(way),
            *(short_bytes(size) for size in (way.client_up_bytes, way.client_down_bytes)),
            *(short_bytes(size) for size in (way.newcomer_up_bytes, way.newcomer_down_bytes)),
        )
        for way in ways
    ]
    return Sheet(title, headings, tuple(rows), 2)


def _totals_sheet(title: str, ways: Sequence[Way]) -> Sheet:
    headings = ("way", "variant", *(heading for count in NEWCOMERS for heading in (f"{count:,} ↑", "↓")))
    rows = [
        (
            *_named(way),
            *(short_bytes(f(count)) for count in NEWCOMERS for f in (way.up_bytes, way.down_bytes)),
        )
        for way in ways
    ]
    return Sheet(title, headings, tuple(rows), 2)


def _named(way: Way) -> tuple[str, str]:
    marks = ("" if way.any_architecture else "*") + ("†" if way.images_leave else "")
    return NAMES[way.kind] + (f" {marks}" if marks else ""), way.variant


FOOTNOTE = (
    "joined: newcomers take part in the rounds themselves; their training there is in none of the times   "
    "* a newcomer must run the teacher's architecture   † private images leave their device\n"
    "Bytes as Flower and gRPC serialise their messages; what sockets and links add is measured in docs/savings.md."
)


def _time_sheet(title: str, ways: Sequence[Way], *, newcomer: bool) -> Sheet:
    rows = [
        (
            *_named(way),
            *(short_time(way.newcomer_s(link) if newcomer else way.client_s(link)) for link in LINKS),
        )
        for way in ways
    ]
    return Sheet(title, ("way", "variant", *(link.name for link in LINKS)), tuple(rows), 2)


def _accuracy(way: Way) -> str:
    return f"{way.accuracy_mean:.1%}" + (f" ± {way.accuracy_std:.1%}" if way.accuracy_std else "")


def savings_rows(ways: Sequence[Way], newcomers: Sequence[int] = NEWCOMERS) -> list[Row]:
    """One row for every way and number of newcomers: everything measured, totals, and seconds on every link."""
    rows: list[Row] = []
    for way in ways:
        for count in newcomers:
            totals = {"newcomers": count, "up_bytes": way.up_bytes(count), "down_bytes": way.down_bytes(count)}
            times = {f"client_s {link.name}": way.client_s(link) for link in LINKS}
            times |= {f"newcomer_s {link.name}": way.newcomer_s(link) for link in LINKS}
            rows.append({**asdict(way), "kind": way.kind.value, **totals, **times})
    return rows
