"""`sciplat status`, `rerun`, `replay` and `calibrate`: plans that run, ran, failed or shall run."""

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from sciplat.cli.inspect import plain_text
from sciplat.errors import StoreCorrupt, StoreNotFound

if TYPE_CHECKING:
    from rich.table import Table


@click.command(short_help="Show how the plans stand that write to a store.")
@click.argument("url")
def status(url: str) -> None:
    """Show how the plans stand that write to the store at URL."""
    from rich.console import Console
    from rich.text import Text

    from sciplat.io.storage import open_storage
    from sciplat.tasks.log import read_logs

    logs = read_logs(open_storage(url))
    if not logs:
        raise StoreNotFound(f"no plan writes to {url}", hint="the URL that was given to .write() or to an ingest")
    console = Console()
    for place, log in enumerate(logs):
        if place:
            console.print()
        try:
            console.print(_standing(log))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreCorrupt(f"a log of {url} is damaged", found=repr(error)) from None
        for event in log:
            if event["event"] in ("retried", "quarantined", "stopped"):
                where = f" cell {event['cell']}" if "cell" in event else ""
                line = f"  {_moment(event)} {event['event']}{where}: {event['error']}"
                console.print(Text(plain_text(line)), soft_wrap=True)


@click.command(short_help="Repeat the plan that made a store.")
@click.argument("url")
@click.option("--to", "target", metavar="URL", help="Store for the new result; by default the next version of URL.")
def rerun(url: str, target: str | None) -> None:
    """Repeat the plan that made the store at URL, on the same versions of its inputs.

    Functions of users are imported by their names, also from this folder, and run: repeat only what you trust.
    """
    _find_functions_here()
    from sciplat.lazy.rebuild import rerun as repeat

    result, same = repeat(url, target)
    verdict = {True: "the same files, bit for bit", False: "other files than before", None: "finished"}[same]
    click.echo(f"{target or url}: version {result.version}, {len(result):,} rows, {verdict}")


@click.command(short_help="Put one cell of a plan into a folder where it runs alone.")
@click.argument("url")
@click.option("--cell", metavar="ORDER/INDEX", required=True, help="For example 5/1284.")
@click.option("--output", metavar="FOLDER", help="For the bundle; by default replay-ORDER-INDEX.")
def replay(url: str, cell: str, output: str | None) -> None:
    """Put one cell of the plan at URL into a folder where it runs alone, in a debugger if need be.

    Functions of users are imported by their names, also from this folder: use it on what you trust.
    """
    _find_functions_here()
    from sciplat.lazy.replay import write_replay

    folder = write_replay(url, cell, output)
    click.echo(f"{folder}: python {folder}/replay.py runs the cell, python -m pdb {folder}/replay.py step by step")


@click.command(short_help="Measure this machine, so that .explain() tells times.")
def calibrate() -> None:
    """Measure how fast this machine is, so that .explain() can say how long a plan will take."""
    from dataclasses import asdict

    from sciplat.tasks.calibrate import measure_rates
    from sciplat.tasks.quote import keep_rates

    measured = measure_rates()
    path = keep_rates(measured)
    for name, seconds in asdict(measured).items():
        click.echo(f"{name:<8} {seconds:.3g} s")
    click.echo(f"kept in {path}")


def _find_functions_here() -> None:
    """Let modules in the folder where the user works be found, as with python -m."""
    if "" not in sys.path:
        sys.path.append("")


def _standing(log: list[dict[str, Any]]) -> "Table":
    """Return the last word of a log."""
    from rich.table import Table
    from rich.text import Text

    from sciplat.lazy.explain import format_seconds
    from sciplat.tasks.progress import format_bytes

    last = log[-1]
    first = next((event for event in reversed(log) if event["event"] == "started"), log[0])  # an ingest has two passes
    latest: dict[str, Any] = {}
    for event in log:
        latest |= event
    ended = last["event"] in ("finished", "stopped")
    facts = Table.grid(padding=(0, 2))
    if first["event"] == "started":  # otherwise what an earlier run has left could not be read
        done = first["resumed"] + latest.get("cells", 0)
        earlier = f", {first['resumed']:,} of them by earlier runs" if first["resumed"] else ""
        facts.add_row("plan", Text(plain_text(first["what"])))
        started = f"{_moment(first)} on {first['host']}, process {first['process']}"
        facts.add_row("started", Text(plain_text(started)))
        facts.add_row("cells", f"{done:,} of {first['total']:,}{earlier}")
    state = last["event"] if ended else f"running or killed, last heard of at {_moment(last)}"
    facts.add_row("state", Text(plain_text(state)))
    if "rows" in latest:
        rate = latest["rows"] / latest["elapsed"] if latest["elapsed"] else 0.0
        facts.add_row("rows", f"{latest['rows']:,}, {rate:,.0f} rows/s")
        facts.add_row("elapsed", format_seconds(latest["elapsed"]))
        facts.add_row("memory", format_bytes(latest["memory"]))
    return facts


def _moment(event: dict[str, Any]) -> str:
    return f"{datetime.fromisoformat(event['time']).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
