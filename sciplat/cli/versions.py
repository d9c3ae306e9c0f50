"""`sciplat versions` and `gc`: the versions of a store, and what can be removed of it."""

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from sciplat.cli.inspect import counted, operation, own_manifest
from sciplat.errors import ArgumentError, SciplatError, StoreNotFound

if TYPE_CHECKING:
    from rich.table import Table

    from sciplat.io.catalog_store import CatalogStore

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}


@click.command(short_help="List the versions of a store, and what made them.")
@click.argument("url")
def versions(url: str) -> None:
    """List the versions of the store at URL: when each was made, and by what."""
    from rich.console import Console

    from sciplat.io.catalog_store import CatalogStore
    from sciplat.io.publish import read_manifest, version_numbers

    storage, newest = own_manifest(url)
    earlier = [number for number in version_numbers(storage) if number < newest.number]
    manifests = [*(read_manifest(storage, number) for number in earlier), newest]
    Console().print(_table([CatalogStore(storage, manifest) for manifest in manifests]))


@click.command("gc", short_help="Remove leftovers and old versions of a store.")
@click.argument("url")
@click.option(
    "--keep",
    metavar="N",
    type=click.IntRange(min=1),
    help="Also remove all versions but the newest N, whatever their age.",
)
@click.option(
    "--older-than", metavar="AGE", default="1d", show_default=True, help="Leave younger leftovers: 30min, 12h, 7d."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def collect(url: str, *, keep: int | None, older_than: str, dry_run: bool) -> None:
    """Remove what no version of the store at URL needs.

    These are leftovers of writes that were killed, and of runs that were not taken up again. A version that is removed
    with --keep is gone for whoever still reads it.
    """
    from sciplat.io.gc import collect_garbage
    from sciplat.io.storage import open_storage
    from sciplat.tasks.progress import format_bytes

    grace = parse_duration(older_than)
    try:
        removed = collect_garbage(open_storage(url), keep=keep, grace=grace, dry_run=dry_run)
    except StoreNotFound:
        own_manifest(url)  # says what stands there instead
        raise
    if not removed:
        click.echo(f"{url}: nothing to remove (leftovers younger than {older_than} stay)")
        return
    widths = max(len(each.path) for each in removed), max(len(format_bytes(each.bytes)) for each in removed)
    for each in removed:
        click.echo(f"{each.path:<{widths[0]}}  {format_bytes(each.bytes):>{widths[1]}}  {each.why}")
    total = format_bytes(sum(each.bytes for each in removed))
    click.echo(f"{url}: {counted(len(removed), 'removal')}, {total} {'would be freed' if dry_run else 'freed'}")


def parse_duration(text: str) -> float:
    """Return the seconds in a text such as "7d".

    Raises
    ------
    ArgumentError
        If it is no duration.
    """
    found = _DURATION.fullmatch(text.strip())
    if not found or found[2] not in _SECONDS:
        raise ArgumentError(f"{text!r} is no duration", hint=f"a number and a unit ({', '.join(_SECONDS)}): 7d")
    return float(found[1]) * _SECONDS[found[2]]


def _table(stores: "list[CatalogStore]") -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from sciplat.tasks.progress import format_bytes

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("version", "rows", "cells", "size"):
        table.add_column(name, justify="right")
    for name in ("made (UTC)", "by", ""):
        table.add_column(name, no_wrap=True)
    for store in stores:
        manifest = store.manifest
        counts = (str(manifest.number), f"{manifest.rows:,}", f"{len(store.entries):,}", format_bytes(manifest.size))
        made, by = _origin(store)
        table.add_row(*counts, made, by, "current" if store is stores[-1] else "")
    return table


def _origin(store: "CatalogStore") -> tuple[str, str]:
    """Return when and by which operation a version was made."""
    from sciplat.io.provenance import recorded_plan

    try:
        record = store.provenance
        plan = recorded_plan(record) if record else {"op": "ingest"}
        ended = record["activity"]["run:activity"]["prov:endTime"] if record else None
        by = operation(plan)
        made = datetime.fromisoformat(ended) if ended else _published(store)
    except (SciplatError, OSError, KeyError, TypeError, ValueError):
        return "?", "damaged"  # the other versions are to be seen all the same
    return made.astimezone(UTC).strftime("%Y-%m-%d %H:%M"), by


def _published(store: "CatalogStore") -> datetime:
    modified = store.storage.modified(f"versions/{store.manifest.number}.json")
    return datetime.fromtimestamp(modified, UTC)
