"""`sciplat info`, `head` and `verify`: look at a store."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import click

from sciplat.errors import ArgumentError, StoreCorrupt

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table

    from sciplat.io.catalog_store import CatalogStore
    from sciplat.io.publish import Manifest
    from sciplat.io.storage import Storage
    from sciplat.lazy.images import Images

_LONG = ("_healpix_29", "wcs", "cells", "corners", "source_sha256")  # columns that say nothing on a terminal
_WIDEST = 24  # characters of a value on one line
_GAP = 3  # characters between columns
_MEASURES = {"motion": ("pmra", "pmdec", "parallax", "rv"), "errors": ("ra", "dec", "corr")}


@click.command(short_help="Say what a store holds.")
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
            console.print(plain_text(f"refused {source}: {reason}"), markup=False, highlight=False)


@click.command(short_help="Show the first rows of a store.")
@click.argument("url")
@click.option("-n", "rows", metavar="N", type=click.IntRange(min=1), default=5, show_default=True, help="Rows to show.")
@click.option("--column", "columns", metavar="NAME", multiple=True, help="Only this column; once for each of several.")
def head(url: str, rows: int, columns: tuple[str, ...]) -> None:
    """Show the first rows of the store at URL, each as a column."""
    from rich.console import Console

    from sciplat.lazy.catalog import Catalog

    store, _ = _open(url)
    catalog = Catalog.of_store(store)
    shown = list(dict.fromkeys(columns)) or [name for name in catalog.columns if name not in _LONG]
    table, console = catalog.select(*shown).head(rows).select(shown), Console()
    for block in _transposed(table, console.width):
        console.print(block)


@click.command(short_help="Check every file of a store against its manifest.")
@click.argument("url")
def verify(url: str) -> None:
    """Check every file of the store at URL against its manifest."""
    from sciplat.io.verify import verify_files

    storage, manifest = own_manifest(url)
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


def own_manifest(url: str) -> "tuple[Storage, Manifest]":
    """Return the storage of a store's table, and its newest manifest.

    Raises
    ------
    ArgumentError
        If another program made the catalog: it has neither versions nor digests.
    """
    from sciplat.io.publish import read_manifest, version_numbers
    from sciplat.lazy.open import open_catalog

    storage, has_images = _table_storage(url)
    if not has_images and not version_numbers(storage):
        open_catalog(url)  # raises if nothing is there at all
        raise ArgumentError(
            f"{url} was not written by sciplat: no manifest promises what its files hold",
            found="a HATS catalog of another program, without versions and digests",
            hint="sciplat info and head show it; sciplat.open_catalog(url).write(new_url) makes a store of it",
        )
    return storage, read_manifest(storage)


def _open(url: str) -> "tuple[CatalogStore, Images | None]":
    """Return a catalog's store, or the images table of an image store and the images."""
    from sciplat.lazy.images import open_images
    from sciplat.lazy.open import open_catalog

    _, has_images = _table_storage(url)
    if has_images:
        images = open_images(url)
        return images.store.table, images
    catalog = open_catalog(url)
    return cast("CatalogStore", catalog.store), None


def _table_storage(url: str) -> "tuple[Storage, bool]":
    """Return where the store's table lies, and whether it is the table of an image store."""
    from sciplat.io.image_store import TABLE
    from sciplat.io.publish import version_numbers
    from sciplat.io.storage import open_storage

    storage = open_storage(url)
    has_images = not version_numbers(storage) and bool(version_numbers(storage.child(TABLE)))
    return (storage.child(TABLE), True) if has_images else (storage, False)


def _facts(store: "CatalogStore") -> "Table":
    """Return what a store says of itself, a line for each fact."""
    from rich.table import Table
    from rich.text import Text

    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, fact in (*_extent(store), *_meaning(store.manifest.properties), *_history(store)):
        facts.add_row(name, Text(plain_text(str(fact))))  # a store may hold another citation than a text
    return facts


def _extent(store: "CatalogStore") -> Iterator[tuple[str, str]]:
    """Yield where a store is, and how large."""
    from sciplat.io.image_store import TABLE
    from sciplat.io.publish import version_numbers
    from sciplat.tasks.progress import format_bytes

    manifest, orders = store.manifest, [entry.cell.order for entry in store.entries]
    has_images = manifest.properties.get("kind") == "images"
    yield "store", store.storage.url.removesuffix(f"/{TABLE}") if has_images else store.storage.url
    if manifest.number:
        others = len(version_numbers(store.storage)) - 1
        yield "version", f"{manifest.number}{f' of {others + 1} (sciplat versions)' if others else ''}"
    else:
        yield "version", "none, a HATS catalog of another program"
    low, high = min(orders, default=0), max(orders, default=0)
    span = f" of order {low} to {high}" if low < high else f" of order {low}"
    yield "images" if has_images else "rows", f"{manifest.rows:,} in {counted(len(orders), 'cell')}{span}"
    limit = manifest.properties.get("rows_per_cell") if manifest.number else None  # others do not say it
    largest = f"{max((entry.file.rows for entry in store.entries), default=0):,} in the largest"
    yield "rows per cell", f"at most {limit:,}, {largest}" if limit else largest
    yield (
        "size",
        f"{format_bytes(manifest.size) if manifest.size else 'unknown'} in {counted(len(manifest.files), 'file')}",
    )


def _meaning(about: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield which columns hold what."""
    epoch = about.get("epoch") or "unknown"
    if isinstance(epoch, dict):
        epoch = f"in column {_named(epoch)}"
    yield "position", f"{', '.join(about['position'])}; {about.get('frame') or 'unknown frame'}, epoch {epoch}"
    for name, parts in _MEASURES.items():
        if columns := about.get(name):
            yield name, ", ".join(_named(columns[part]) for part in parts if part in columns)
    yield "identity", about.get("id") or "none"


def _named(column: dict[str, str]) -> str:
    return f"{column['column']} ({column['unit']})" if column["unit"] else column["column"]


def _history(store: "CatalogStore") -> Iterator[tuple[str, str]]:
    """Yield how a store was made, what is missing, and what to cite."""
    from sciplat.io.provenance import recorded_plan

    about = store.manifest.properties
    report = about.get("report", {})
    made_by = operation(recorded_plan(store.provenance)) if store.provenance else "ingest"
    if made_by in ("ingest", "append") and "skipped" in report:
        made_by += f" of {counted(report['rows'], 'row')}, {report['skipped']:,} without a position skipped"
        yield "made by", made_by
    elif store.provenance:
        yield "made by", made_by
    if "completeness" in report:
        yield "completeness", completeness(report)
    over = report.get("cells_over_limit", [])
    if over:
        yield "over limit", f"{len(over)} cells, the first is {over[0][0]} with {over[0][1]:,} rows"
    for cell, error in report.get("quarantined", []):
        yield "missing", f"cell {cell}: {error.splitlines()[0]}"
    cited = about.get("citations") or []
    for citation in cited if isinstance(cited, list) else [cited]:
        yield "to cite", citation


def operation(plan: dict[str, Any]) -> str:
    """Return the operation that made a version, in the words of people."""
    if plan["op"] == "ingest":
        return "append" if "added_to" in plan else "ingest"
    return "select" if plan["op"] == "scan" else str(plan["op"])


def completeness(report: dict[str, Any]) -> str:
    """Return what became of the left rows of a cross-match, given the report of its result."""
    told = report["completeness"]
    lost = f"{told['unmatched']:,} unmatched, {told['out_of_coverage']:,} out of coverage"
    return f"{counted(told['rows'], 'row')} in: {told['matched']:,} matched, {lost}"


def _columns(schema: "pa.Schema") -> "Table":
    """Return the columns with what is known of them; what is known of none takes no space."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    about = [{key.decode(): value.decode() for key, value in (field.metadata or {}).items()} for field in schema]
    known = [key for key in ("unit", "radius", "ucd", "description") if any(key in each for each in about)]
    columns = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("column", "type", *known):
        columns.add_column(name, overflow="fold")
    for field, each in zip(schema, about, strict=True):
        texts = (field.name, _type_name(field.type), *(each.get(key, "") for key in known))
        columns.add_row(*map(Text, texts))
    return columns


def _type_name(kind: "pa.DataType") -> str:
    """Return a type in short: the fields of a structure are too many for a line."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return f"list of {_type_name(kind.value_type)}"
    if types.is_struct(kind):
        return f"({', '.join(field.name for field in kind)})"
    return str(kind)


def _summary(images: "Images") -> "Table":
    """Return the images of each band, shape and instrument with their dates."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    summary = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    for name in ("band", "instrument", "shape", "images", "first mjd", "last mjd", "zero\npoints", "variance\nplanes"):
        summary.add_column(name, overflow="fold", justify="left" if name in ("band", "instrument") else "right")
    names = ("band", "instrument", "ny", "nx", "mjd", "zero_point", "has_variance")
    groups: dict[tuple[str, str, str], list[dict[str, object]]] = {}
    for row in images.rows.select(names).to_pylist():
        key = str(row["band"] or ""), str(row["instrument"] or ""), f"{row['ny']} x {row['nx']}"
        groups.setdefault(key, []).append(row)
    for key, rows in sorted(groups.items()):
        dates = sorted(float(str(row["mjd"])) for row in rows if row["mjd"] is not None)
        span = (f"{dates[0]:.3f}", f"{dates[-1]:.3f}") if dates else ("", "")
        counts = (sum(row["zero_point"] is not None for row in rows), sum(bool(row["has_variance"]) for row in rows))
        texts = (*key, f"{len(rows):,}", *span, *map(str, counts))
        summary.add_row(*(Text(plain_text(text)) for text in texts))
    return summary


def _transposed(table: "pa.Table", width: int) -> "Iterator[Table]":
    """Yield tables with a line for each column, and as many rows side by side as fit a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from sciplat.sky.column import unit_of

    units = [unit_of(field) for field in table.schema]
    titles = {"column": table.schema.names} | ({"unit": units} if any(units) else {})
    rows = list(zip(*(shown_values(table[name]) for name in table.schema.names), strict=True))
    room = width - sum(_width((title, *texts)) for title, texts in titles.items())
    first = 0
    while first < max(len(rows), 1):
        last = first + _fitting_rows(rows[first:], room)
        block = Table(box=SIMPLE_HEAD, pad_edge=False)
        for title in titles:
            block.add_column(title, overflow="fold")
        for number in range(first, last):
            block.add_column(str(number), overflow="fold", max_width=max(_WIDEST, room // (last - first) - _GAP))
        for line in zip(*titles.values(), *rows[first:last], strict=True):
            block.add_row(*(Text(plain_text(text)) for text in line))
        yield block
        first = max(last, first + 1)


def _fitting_rows(rows: Sequence[Sequence[str]], room: int) -> int:
    """Return how many of some rows fit beside each other, one at least if there is one."""
    fitting = 0
    for row in rows:
        room -= min(_width(row), _WIDEST + _GAP)
        if fitting and room < 0:
            break
        fitting += 1
    return fitting


def _width(texts: Iterable[str]) -> int:
    return max(map(len, texts), default=0) + _GAP


def shown_values(column: "pa.ChunkedArray") -> list[str]:
    """Return the values of a column as a terminal has room for them."""
    from pyarrow import types

    digits = 7 if types.is_float32(column.type) else 8
    return [_short(value, digits) for value in column.to_pylist()]


def _short(value: object, digits: int) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    if isinstance(value, list):
        return counted(len(value), "value")
    return plain_text(str(value)).replace("\n", " ")


def plain_text(text: str) -> str:
    """Return a text without anything but line ends that a terminal would obey."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)


def counted(number: int, what: str) -> str:
    """Return a number of things: "1 row", "2 rows"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
