"""How a run went, as curves: the federation's rounds and the synthesis's losses and entropy."""

from __future__ import annotations

from matplotlib.ticker import MaxNLocator

from deploy.pages.facts import RunFacts
from deploy.pages.ink import SERIES, Chart, drawing
from server.events import IterationDone, RoundDone, RoundEvaluated

_LINES = ("-", "--", ":", "-.")
_MOST_POINTS = 400


def entropy(run: RunFacts) -> Chart | None:
    """Mean entropy of the candidates over the synthesis."""
    return _over_iterations(
        run,
        "entropy",
        "Entropy of the candidates",
        "nats",
        "Of the teacher's answers; 0: it is sure.",
    )


def losses(run: RunFacts) -> list[Chart]:
    """Every term of the loss over the iterations."""
    terms = (
        ("total", "Total loss", ""),
        ("stationarity", "Stationarity", "How far the images are from explaining the teacher's weights."),
        ("primal", "Primal feasibility", "Cross-entropy of images that the teacher does not recognise yet."),
        ("total_variation", "Total variation of the images", ""),
        ("norm", "Norm of the images", ""),
    )
    drawn = [_over_iterations(run, name, title, "", of) for name, title, of in terms]
    return [chart for chart in drawn if chart]


def rounds(run: RunFacts) -> list[Chart]:
    """What the federation reported: training loss, and accuracy where clients test."""
    charts: list[Chart] = []
    trained = {e.round: e.train_loss for e in run.of_kind(RoundDone) if e.train_loss is not None}
    tested = {e.round: 100 * e.accuracy for e in run.of_kind(RoundEvaluated)}
    for title, values, unit in (
        ("Clients' training loss", trained, ""),
        ("Accuracy on images that clients keep", tested, "%"),
    ):
        if len(values) < 2:
            continue
        order = sorted(values)
        with drawing(f"rounds-{len(charts)}") as drawn:
            axes = drawn.axes()
            axes.plot(order, [values[number] for number in order], color=SERIES[2], marker="o", markersize=3)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_xlabel("round")
            axes.set_ylabel(unit)
        told = f"From {values[order[0]]:.3g}{unit} in round {order[0]} to {values[order[-1]]:.3g}{unit} in {order[-1]}."
        charts.append(Chart(title, drawn.svg, told))
    return charts


def _over_iterations(run: RunFacts, term: str, title: str, unit: str, caption: str) -> Chart | None:
    curves = {count: own for count, own in run.curves().items() if len(own) > 1}
    if not curves or all(getattr(event, term) == 0 for own in curves.values() for event in own):
        return None
    with drawing(f"curve-{term}") as drawn:
        axes = drawn.axes()
        for number, (count, own) in enumerate(curves.items()):
            shown = _thinned(own)
            axes.plot(
                [event.iteration for event in shown],
                [getattr(event, term) for event in shown],
                color=SERIES[number % len(SERIES)],
                linestyle=_LINES[number % len(_LINES)],
                label=f"{count} per class",
            )
        axes.set_xlabel("iteration")
        axes.set_ylabel(unit)
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        if len(curves) > 1:
            axes.legend(loc="best", handlelength=2.4)
    told = "; ".join(
        f"{count} per class: from {getattr(own[0], term):.3g} to {getattr(own[-1], term):.3g} "
        f"after {own[-1].iteration} iterations"
        for count, own in curves.items()
    )
    return Chart(title, drawn.svg, f"{told}.", caption)


def _thinned(events: list[IterationDone]) -> list[IterationDone]:
    step = -(-len(events) // _MOST_POINTS)
    return events if step == 1 else [*events[:-1:step], events[-1]]
