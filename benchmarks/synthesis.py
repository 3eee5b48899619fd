"""Seconds and memory of one iteration, ours beside the plain double-backward loop:

    python -m benchmarks.synthesis [--device cuda] [--cases small] [--compiled]

ConvNet (width 128) at 32 px with 10, 50, 100 and 500 DSVs, ResNet-50 at 224 px with 8, one copy of the candidates (no
augmentation); gains and offsets of the norms lie where training may leave them. Ours asks stationarity of what the
per-layer cosine depends on, as ``synthesize`` does, the plain loop of all parameters. Times are the best of several,
taken in turns in one process. Memory is the growth of the peak over what was there before: of the process's resident
set, the median of three processes of their own (the C library's allocator strews), or of the CUDA allocator. The error
is of ours against the plain loop in float32, whatever the precision of both. Operations are those of an iteration with
everything in one part, as a card has it, counted by the run without options. Writes docs/results/synthesis.json and
prints a Markdown table.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from operator import itemgetter
from pathlib import Path

import click
import torch

from benchmarks.machine import fresh_peak_bytes, peak_resident_bytes, this_machine
from benchmarks.operations import operations
from dsv import (
    DISTANCES,
    Candidates,
    Compute,
    KktWeights,
    ModelSpec,
    StationarityEngine,
    Task,
    build_model,
    chosen_parameters,
    deepkkt_loss,
    kkt_gradient,
    scale_invariant_parameters,
    steered_by_cosine,
)

CASES = {"small": ("convnet", 128, 32, 10, (10, 50, 100, 500)), "large": ("resnet50", 0, 224, 1000, (8,))}
WEIGHTS = KktWeights(primal=0.1, total_variation=0.0, norm=0.0, augmented=0.0)
REPEATS = {"small": 5, "large": 2}
SAME = ("device", "case", "precision", "compiled", "count", "micro_batch")
"""Fields of a row by which it replaces an older one."""


@dataclass(frozen=True)
class Row:
    """One case; ``first_s`` is the first iteration, which a compiled run spends on compilation."""

    case: str
    device: str
    count: int
    micro_batch: int
    precision: str
    compiled: bool
    ours_s: float
    plain_s: float
    ours_peak_bytes: int
    plain_peak_bytes: int
    first_s: float
    gradient_error: float
    share_of_matmul: float | None


Step = Callable[[], torch.Tensor]


def steps(case: str, count: int, compute: Compute, *, autocast: torch.dtype | None = None) -> tuple[Step, Step]:
    """One iteration of ours and of the plain loop, this one under torch's autocast to a dtype where one is given; each
    returns the gradient in the images."""
    _, _, side, classes, _ = CASES[case]
    model, task = compute.place(_model(case)), _task(case)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, side, side, generator=generator).to(compute.device)
    multipliers = torch.rand(count, generator=generator).to(compute.device)
    labels = (torch.arange(count) % classes).to(compute.device)
    parameters, distance = chosen_parameters(model), DISTANCES["layer-cosine"]
    engine = StationarityEngine(model, *steered_by_cosine(model, task, parameters), compute=compute)
    candidates = Candidates(images, labels, multipliers, count)

    def ours() -> torch.Tensor:
        return kkt_gradient(engine, candidates, [(1.0, lambda x, first: x * 1.0)], WEIGHTS).images

    def plain() -> torch.Tensor:
        leaves = images.clone().requires_grad_(), multipliers.clone().requires_grad_()
        rounded = torch.autocast(torch.device(compute.device).type, autocast, enabled=autocast is not None)
        with compute.running(), rounded:
            terms = deepkkt_loss(
                model,
                leaves[0],
                labels,
                leaves[1],
                parameters=parameters,
                augment=lambda x: x,
                distance=distance,
                weights=WEIGHTS,
            )
            return torch.autograd.grad(terms.total, leaves)[0]

    return ours, plain


def _title(case: str) -> str:
    return f"{CASES[case][0]} {CASES[case][2]} px"


def _task(case: str) -> Task:
    _, _, side, classes, _ = CASES[case]
    return Task(3, side, tuple(str(k) for k in range(classes)), (0.5,) * 3, (0.5,) * 3)


def _model(case: str) -> torch.nn.Module:
    """With norms that are not at 1 and 0: an offset of 0 would be left out too."""
    name, width, side, classes, _ = CASES[case]
    model = build_model(ModelSpec(name, 3, side, classes, width), seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def timed(step: Step, device: str) -> float:
    """Seconds of one call, the device's queue emptied before and after."""
    if device != "cpu":
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak_bytes(case: str, count: int, compute: Compute, which: int) -> int:
    """Growth of the peak during an iteration."""
    if compute.device == "cpu":
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            told = [pool.apply(_resident_growth, (case, count, compute, which)) for _ in range(3)]
        return sorted(told)[1]
    step = steps(case, count, compute)[which]
    step()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return torch.cuda.max_memory_allocated() - before


def _resident_growth(case: str, count: int, compute: Compute, which: int) -> int:
    step = steps(case, count, compute)[which]
    steps(case, 1, compute)[which]()  # libraries and thread pools come into memory with the first use
    before = fresh_peak_bytes()
    step()
    return peak_resident_bytes() - before


def measure(case: str, count: int, compute: Compute) -> Row:
    """One row."""
    ours, plain = steps(case, count, compute)
    first_s = timed(ours, compute.device)
    reference, found = steps(case, count, replace(compute, precision="float32"))[1](), ours()
    error = float((found - reference).norm() / reference.norm())
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS[case]):
        for step, values in zip((ours, plain), times, strict=True):
            values.append(timed(step, compute.device))
    peaks = [peak_bytes(case, count, compute, which) for which in (0, 1)]
    best = min(times[0])
    return Row(
        case=_title(case),
        device=compute.device,
        count=count,
        micro_batch=compute.chunk(CASES[case][2]),
        precision=compute.precision,
        compiled=compute.compiled,
        ours_s=best,
        plain_s=min(times[1]),
        ours_peak_bytes=peaks[0],
        plain_peak_bytes=peaks[1],
        first_s=first_s,
        gradient_error=error,
        share_of_matmul=_share_of_matmul(case, count, best, compute),
    )


def _same(case: str, count: int, compute: Compute) -> list[object]:
    """The fields ``SAME`` of a row that has not been measured."""
    at_once = compute.chunk(CASES[case][2])
    return [compute.device, _title(case), compute.precision, compute.compiled, count, at_once]


def operations_of(case: str) -> dict[str, int]:
    """Of one iteration, ours and the plain loop's, by ``ours`` and ``plain``."""
    both = steps(case, 2, Compute(micro_batch=2))
    return {name: operations(step).total() for name, step in zip(("ours", "plain"), both, strict=True)}


def _share_of_matmul(case: str, count: int, seconds: float, compute: Compute) -> float | None:
    """Arithmetic of the two passes per second, over what a matrix product reaches.

    Nine forward passes' worth, of which three are for the weights' own gradients and tangents, where there are any.
    """
    if compute.device == "cpu":
        return None
    model, side = _model(case), CASES[case][2]
    everything = chosen_parameters(model)
    left_out = scale_invariant_parameters(model, _task(case), everything)
    weights = {name: p.numel() for name, p in everything.items() if p.ndim > 1}
    passes = 9 - 3 * sum(weights.get(name, 0) for name in left_out) / sum(weights.values())
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, side, side))
    matrix = torch.randn(8192, 8192, device=compute.device)
    product: Step = lambda: matrix @ matrix  # noqa: E731
    with compute.running():
        reached = 2 * 8192**3 / min(timed(product, compute.device) for _ in range(5))
    return float(passes * count * counter.get_total_flops() / seconds / reached)


@click.command()
@click.option("--device", default="cpu", show_default=True)
@click.option("--cases", default="small,large", show_default=True, help="Names, separated by commas.")
@click.option("--counts", default="", help="DSV counts instead of the case's own, separated by commas.")
@click.option("--micro-batch", default=0, show_default=True)
@click.option("--precision", default="float32", show_default=True)
@click.option("--compiled/--no-compiled", default=False, show_default=True)
@click.option(
    "--missing", is_flag=True, help="Measure but the rows that the file lacks: to go on after an interruption."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results/synthesis.json"), show_default=True)
def main(  # noqa: PLR0917
    device: str, cases: str, counts: str, micro_batch: int, precision: str, compiled: bool, missing: bool, out: Path
) -> None:
    """Measure; rows of an existing file that are of the same (``SAME``) are replaced."""
    compute = Compute(device, micro_batch, precision, compiled)
    stored = json.loads(out.read_text()) if out.exists() else {"machines": {}, "rows": []}
    kept, machines = stored["rows"], {**stored["machines"], device: this_machine(device)}
    counted = stored.get("operations", {})
    for case in cases.split(","):
        if compute == Compute() and not (missing and _title(case) in counted):  # they are the same whatever the way
            counted[_title(case)] = operations_of(case)
        for count in [int(c) for c in counts.split(",")] if counts else CASES[case][4]:
            if missing and any([row[name] for name in SAME] == _same(case, count, compute) for row in kept):
                continue
            row = asdict(measure(case, count, compute))
            kept = [other for other in kept if any(other[name] != row[name] for name in SAME)] + [row]
            kept.sort(key=itemgetter(*SAME))
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps({"machines": machines, "operations": counted, "rows": kept}, indent=1) + "\n")
    print(markdown([Row(**row) for row in kept]))
    for case, of in counted.items():
        print(f"\noperations an iteration of {case}: ours {of['ours']}, plain {of['plain']}")


def markdown(rows: list[Row]) -> str:
    """The table."""
    settings = ("case", "device", "DSVs", "at once", "precision", "compiled")
    found = ("ours, s", "plain, s", "ratio", "ours, peak MB", "plain, peak MB", "error", "of matrix throughput")
    columns = settings + found
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        share = "-" if row.share_of_matmul is None else f"{row.share_of_matmul:.0%}"
        compiled = "yes" if row.compiled else "no"
        lines.append(
            f"| {row.case} | {row.device} | {row.count} | {row.micro_batch} | {row.precision} | {compiled} "
            f"| {row.ours_s:.3f} | {row.plain_s:.3f} | {row.plain_s / row.ours_s:.2f} "
            f"| {row.ours_peak_bytes / 1e6:.0f} | {row.plain_peak_bytes / 1e6:.0f} "
            f"| {row.gradient_error:.0e} | {share} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
