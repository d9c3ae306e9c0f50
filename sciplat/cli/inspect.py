"""`sciplat info`, `head` and `verify`: look at a store."""

from typing import TYPE_CHECKING

import click

from sciplat.errors import ColumnError, StoreCorrupt

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table

    from sciplat.io.catalog_store import CatalogStore
    from sciplat.io.storage import Storage
    from sciplat.lazy.images import Images

_LONG = ("wcs", "cells", "corners", "source_sha256")  # columns of the images table that no terminal can show


@click.command()
@click.argument("url")
def info(url: str) -> None:
    """Say what the store at URL holds."""
    from rich.console import Console

    store, images = _open(url)
    console = Console()
    console.print(_facts(store))
    if images is None:
        console.print(_columns(store.schema))
    else:
        console.print(_summary(images))
        for source, reason in images.report["refused"]:
            console.print(f"refused {source}: {reason}", markup=False, highlight=False)


@click.command()
@click.argument("url")
@click.option("-n", "rows", type=click.IntRange(min=1), default=5, show_default=True, help="Rows to show.")
@click.option("--column", "columns", multiple=True, help="Show these columns only.")
def head(url: str, rows: int, columns: tuple[str, ...]) -> None:
    """Show the first rows of the store at URL, each as a column."""
    from rich.console import Console

    from sciplat.lazy.catalog import Catalog

    store, _ = _open(url)
    table = Catalog.of_store(store).head(rows)
    if missing := [name for name in columns if name not in table.schema.names]:
        raise ColumnError(f"there is no column {missing[0]!r}", found=", ".join(table.schema.names))
    shown = columns or [name for name in table.schema.names if name not in _LONG]
    Console().print(_transposed(table.select(list(shown))))


@click.command()
@click.argument("url")
def verify(url: str) -> None:
    """Check every file of the store at URL against its manifest."""
    from sciplat.io.publish import read_manifest
    from sciplat.io.verify import verify_files

    storage, _ = _table_storage(url)
    manifest = read_manifest(storage)
    problems = verify_files(storage, manifest)
    for problem in problems:
        click.echo(problem)
    if problems:
        raise StoreCorrupt(
            f"{len(problems)} of {len(manifest.files)} files of {url} are damaged",
            found=problems[0],
            hint="restore the files from a copy, or make the store again",
        )
    click.echo(f"{url}: {len(manifest.files)} files, all as they were written")


def _open(url: str) -> "tuple[CatalogStore, Images | None]":
    """Return a catalog's store, or the images table of an image store and the images."""
    from sciplat.io.catalog_store import open_catalog_store
    from sciplat.lazy.images import open_images

    storage, has_images = _table_storage(url)
    if not has_images:
        return open_catalog_store(storage), None
    images = open_images(url)
    return images.store.table, images


def _table_storage(url: str) -> "tuple[Storage, bool]":
    """Return where the store's table lies, and whether it is the table of an image store."""
    from sciplat.io.image_store import TABLE
    from sciplat.io.storage import open_storage

    storage = open_storage(url)
    return (storage.child(TABLE), True) if storage.names(f"{TABLE}/versions") else (storage, False)


def _facts(store: "CatalogStore") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from sciplat.io.provenance import recorded_plan
    from sciplat.tasks.progress import format_bytes

    about, manifest = store.manifest.properties, store.manifest
    orders = sorted({entry.cell.order for entry in store.entries})
    facts = Table.grid(padding=(0, 2))
    facts.add_row("store", store.storage.url)
    facts.add_row("version", str(manifest.number))
    facts.add_row("rows", f"{manifest.rows:,} in {len(store.entries)} cells of order {orders[0]} to {orders[-1]}")
    facts.add_row("size", f"{format_bytes(manifest.size)} in {len(manifest.files)} files")
    facts.add_row("position", f"{', '.join(about['position'])}; {about['frame']}, epoch {about['epoch'] or 'unknown'}")
    facts.add_row("identity", about["id"] or "none")
    if store.provenance:
        facts.add_row("made by", recorded_plan(store.provenance)["op"])
    for cell, error in about.get("report", {}).get("quarantined", []):
        facts.add_row("missing", Text(f"cell {cell}: {error.splitlines()[0]}"))
    for citation in about.get("citations", []):
        facts.add_row("to cite", Text(citation))
    return facts


def _columns(schema: "pa.Schema") -> "Table":
    from rich.table import Table

    columns = Table("column", "type", "unit", "radius", "description")
    for field in schema:
        text = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        about = (text.get(key, "") for key in ("unit", "radius", "description"))
        columns.add_row(field.name, str(field.type), *about)
    return columns


def _summary(images: "Images") -> "Table":
    """Return the images of each band, shape and instrument with their dates."""
    from rich.table import Table

    summary = Table("band", "instrument", "shape", "images", "first mjd", "last mjd", "zero points", "variance planes")
    names = ("band", "instrument", "ny", "nx", "mjd", "zero_point", "has_variance")
    groups: dict[tuple[str, str, str], list[dict[str, object]]] = {}
    for row in images.rows.select(names).to_pylist():
        key = str(row["band"] or ""), str(row["instrument"] or ""), f"{row['ny']} x {row['nx']}"
        groups.setdefault(key, []).append(row)
    for key, rows in sorted(groups.items()):
        dates = sorted(float(str(row["mjd"])) for row in rows if row["mjd"] is not None)
        span = (f"{dates[0]:.5f}", f"{dates[-1]:.5f}") if dates else ("", "")
        counts = (sum(row["zero_point"] is not None for row in rows), sum(bool(row["has_variance"]) for row in rows))
        summary.add_row(*key, str(len(rows)), *span, *map(str, counts))
    return summary


def _transposed(table: "pa.Table") -> "Table":
    """Return a table for the terminal with one line for each column."""
    from rich.table import Table
    from rich.text import Text

    shown = Table("column", "unit")
    for row in range(table.num_rows):
        shown.add_column(str(row), overflow="fold")
    for field in table.schema:
        unit = (field.metadata or {}).get(b"unit", b"").decode()
        values = (_short(value) for value in table[field.name].to_pylist())
        shown.add_row(field.name, unit, *(Text(value) for value in values))
    return shown


def _short(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.8g}"
    if isinstance(value, list):
        return f"{len(value)} entries"
    return str(value)
