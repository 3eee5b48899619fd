"""Commands about bytes: ``dsv ledger``, ``dsv savings``, and TensorBoard's view of a run."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click

from deploy.addresses import Address
from deploy.options import ADDRESS, QUIET, Within
from dsv import DsvError

_METER_PORT = 9096
_WRITE_EVERY_S = 5.0

_RUN = click.argument("run", type=click.Path(path_type=Path), default=Path("runs/latest"))
_OUT = click.option(
    "--out",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Also write the rows into this file, .json, .csv or .parquet; may be given several times.",
)


@click.command()
@_RUN
@_OUT
def ledger(run: Path, out: tuple[Path, ...]) -> None:
    """Every byte of a RUN (default: runs/latest) by purpose, direction, party and round.

    RUN is the folder of a run or a deployment.
    """
    from deploy.ledger import ledger_rows, print_ledger, read_ledger
    from deploy.tables import check_outputs, write_rows

    check_outputs(out)
    rows = read_ledger(run)
    print_ledger(rows, run)
    for path in out:
        write_rows(path, ledger_rows(rows))
        click.echo(f"written: {path}")


@click.command()
@_RUN
@click.option(
    "--accuracy",
    type=Within(0, 1, min_open=True),
    help="Share of test images that all ways must reach; default: what the run's best DSVs reach, less its spread.",
)
@click.option(
    "--one-shot",
    type=click.Choice(["both", "average", "ensemble", "none"]),
    default="both",
    show_default=True,
    help="Teachers of the one-shot way: the average of the clients' weights, or all of them.",
)
@click.option("--device", default="", help="Where to measure: cpu, cuda or cuda:N; the run's own when empty.")
@click.option("--again", is_flag=True, help="Measure anew what an earlier call measured and kept in savings.json.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Also write the tables and words as Markdown.")
@_OUT
@QUIET
def savings(
    *,
    run: Path,
    accuracy: float | None,
    one_shot: str,
    device: str,
    again: bool,
    markdown: Path | None,
    out: tuple[Path, ...],
    quiet: bool,
) -> None:
    """What DSVs save in a RUN (default: runs/latest), and where they lose: every other way on its task, really trained.

    Raw images uploaded, FedAvg, its weights in 32, 16 and 8 bits, one-shot + DSV, FedAvg + DSV, random real images:
    bytes a device and in all at 10, 1,000 and 1,000,000 newcomers, time on links from LoRa to Wi-Fi.
    """
    from deploy.progress import display
    from deploy.savings_run import SavingsOptions, savings_of, show
    from deploy.tables import check_outputs
    from protos.files import check_output

    check_outputs(out)
    if markdown is not None:
        check_output(markdown, "the tables")
    teachers = {"both": ("average", "ensemble"), "none": ()}.get(one_shot, (one_shot,))
    with display(quiet=quiet) as shown:
        found = savings_of(run, SavingsOptions(accuracy or 0.0, teachers, again, device), shown)
    show(found, markdown, out)


@click.command()
@_RUN
@click.option(
    "--logdir", type=click.Path(path_type=Path), help="Folder for the event files; default: tensorboard/ in RUN."
)
def tensorboard(run: Path, logdir: Path | None) -> None:
    """Write the curves of a RUN (default: runs/latest) for TensorBoard.

    Losses and accuracy of the rounds, bytes, terms of the synthesis.
    """
    from deploy.curves import FOLDER, write_curves

    folder = logdir or run / FOLDER
    click.echo(f"{write_curves(run, folder)} points; look at them with: tensorboard --logdir {folder}")


@click.command()
@click.option("--server", required=True, type=ADDRESS, help="Where what passes is sent on to.")
@click.option(
    "--port", default=_METER_PORT, show_default=True, type=click.IntRange(1, 65535), help="TCP port on loopback."
)
@click.option("--party", default="device", show_default=True, help="Whose bytes they are, in the ledger.")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=Path("state"),
    show_default=True,
    help="Folder that takes ledger.json.",
)
def meter(server: Address, port: int, party: str, state: Path) -> None:
    """Count what crosses the sockets between this machine and a server, until interrupted.

    Give 'dsv deploy supernode' or 'dsv bootstrap' localhost:PORT as their server. TLS passes through unopened.
    'dsv ledger STATE' shows the sums; what an earlier call counted there stays in them.
    """
    from deploy.ledger import LEDGER_FILE, print_ledger, read_ledger, sums_of, write_ledger
    from deploy.meter import meters

    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DsvError(f"cannot use the state folder {state}: {error.strerror}; name another") from None
    before = read_ledger(state) if (state / LEDGER_FILE).exists() else []
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    with meters() as counted:
        counted.relay(party, server, port)
        click.echo(f"counting what passes localhost:{port} on its way to {server}")
        told = ""
        try:
            while not stop.wait(_WRITE_EVERY_S):
                try:
                    write_ledger(state / LEDGER_FILE, sums_of(counted.read(), before))
                    told = ""
                except DsvError as error:  # the way to the server is worth more than its count
                    if str(error) != told:
                        click.echo(f"{error}; going on", err=True)
                    told = str(error)
        except KeyboardInterrupt:
            pass
        finally:
            rows = sums_of(counted.read(), before)
            print_ledger(rows, state)  # first: it is all that is left where the disk is full
            write_ledger(state / LEDGER_FILE, rows)
