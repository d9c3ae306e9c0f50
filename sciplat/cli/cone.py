"""`sciplat cone`: the rows in a cone, on the terminal or in a file."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sciplat.cli.inspect import counted, shown_values
from sciplat.errors import ArgumentError, StorageError

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table

_ROWS = 20  # on the terminal
_GAP = 3  # characters between columns
_LIMIT_HELP = "At most this many rows; by default 20 on the terminal, all in a file."
_OUTPUT_HELP = "Keep the rows in a .parquet, .csv, .fits or .vot file; one that is there is replaced."


@click.command(short_help="Show or keep the rows of a catalog in a cone.")
@click.argument("url")
@click.option("--ra", metavar="ANGLE", required=True, help='Of the centre, with a unit: "10.7 deg" or "00h42m44s".')
@click.option("--dec", metavar="ANGLE", required=True, help='Of the centre: "41.3 deg" or "41d16m09s".')
@click.option("--radius", metavar="ANGLE", required=True, help='"1 deg" or "30 arcsec".')
@click.option("--where", metavar="CONDITION", help='Only rows that fulfil it: "mag_g < 20 and parallax > 1".')
@click.option("--column", "columns", metavar="NAME", multiple=True, help="Only this column; once for each of several.")
@click.option("-n", "rows", metavar="N", type=click.IntRange(min=1), help=_LIMIT_HELP)
@click.option("--output", metavar="FILE", help=_OUTPUT_HELP)
def cone(
    url: str,
    *,
    ra: str,
    dec: str,
    radius: str,
    where: str | None,
    columns: tuple[str, ...],
    rows: int | None,
    output: str | None,
) -> None:
    """Show or keep the rows of the catalog at URL that lie in a cone."""
    from rich.console import Console

    from sciplat.io.hats import HEALPIX_COLUMN
    from sciplat.lazy.open import open_catalog
    from sciplat.sky.region import Cone

    if output is not None:
        _check_output(output, url)
    catalog = open_catalog(url).within(Cone(ra, dec, radius))
    catalog = catalog if where is None else catalog.where(where)
    catalog = catalog.select(*columns) if columns else catalog
    shown = list(dict.fromkeys(columns)) or [name for name in catalog.columns if name != HEALPIX_COLUMN]
    if output is not None:
        table = catalog.compute(limit=rows).select(shown)
        _write(table, output)
        click.echo(f"{output}: {counted(table.num_rows, 'row')}")
        return
    limit, console = rows or _ROWS, Console()
    table = catalog.compute(limit=limit + 1).select(shown)  # one more tells whether there are more
    lines, left_out = _fitting(table.slice(0, limit), console.width)
    console.print(lines)
    first = f"the first {counted(limit, 'row')}, -n N shows more"
    click.echo(first if table.num_rows > limit else counted(table.num_rows, "row"))
    if left_out:
        click.echo(f"{counted(left_out, 'more column')}: --column NAME shows one, --output FILE keeps all")


def _fitting(table: "pa.Table", width: int) -> "tuple[Table, int]":
    """Return the first columns that fit a terminal, a line for each row, and how many do not."""
    import pyarrow as pa
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from sciplat.sky.column import unit_of

    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    units = [unit_of(field) for field in table.schema]
    columns: list[list[str]] = []
    room = width
    for field, unit in zip(table.schema, units, strict=True):
        texts = shown_values(table[field.name])
        room -= max(map(len, (field.name, unit, *texts))) + _GAP
        if columns and room < 0:
            break
        is_text = pa.types.is_string(field.type)
        title = Text(f"{field.name}\n{unit}" if any(units) else field.name)
        shown.add_column(title, justify="left" if is_text else "right", no_wrap=True)
        columns.append(texts)
    for row in zip(*columns, strict=True):
        shown.add_row(*map(Text, row))
    return shown, table.num_columns - len(columns)


def _check_output(output: str, url: str) -> None:
    """Refuse a file that nothing can be written to, or that would lie in the store, before anything is read."""
    from sciplat.io.storage import LocalStorage, open_storage

    path, storage = Path(output), open_storage(url)
    if path.suffix.lower() not in _WRITERS:
        raise ArgumentError(f"{output}: the ending names no format", hint=", ".join(_WRITERS))
    if not path.absolute().parent.is_dir():
        raise ArgumentError(f"{output}: there is no folder {path.parent}")
    if os.path.isdir(path):  # noqa: PTH112  # false where the name is too long: writing says so
        raise ArgumentError(f"{output} is a folder", hint="the name of a file")
    if isinstance(storage, LocalStorage) and path.resolve().is_relative_to(storage.root.resolve()):
        raise ArgumentError(
            f"{output} lies inside the store {url}", hint="a file outside: a store holds its own files only"
        )


def _write(table: "pa.Table", output: str) -> None:
    """Write rows to a file that is there when it is complete."""
    import pyarrow as pa

    path = Path(output)
    temporary = path.with_name(f".{os.getpid()}{path.suffix}")
    try:
        _WRITERS[path.suffix.lower()](table, temporary)
        temporary.replace(path)
    except (pa.ArrowException, ValueError, TypeError, KeyError) as error:
        what = f"{output} cannot hold these rows"
        raise ArgumentError(what, found=str(error), hint=".parquet holds everything, or --column") from None
    except OSError as error:
        raise StorageError(f"{output} cannot be written", found=error.strerror or str(error)) from None
    finally:
        temporary.unlink(missing_ok=True)


def _write_parquet(table: "pa.Table", path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, path)


def _write_csv(table: "pa.Table", path: Path) -> None:
    import pyarrow.csv

    pyarrow.csv.write_csv(table, path)


def _write_fits(table: "pa.Table", path: Path) -> None:
    import pyarrow as pa

    from sciplat.lazy.exits import astropy_table

    # astropy writes a missing truth value as true; FITS keeps numbers without a sign shifted, and what stands for a
    # missing one is shifted by some readers and not by others
    wider = {pa.bool_(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64()}
    for place, field in enumerate(table.schema):
        if field.type in wider and table[place].null_count:
            kind = wider[field.type]
            table = table.set_column(place, field.with_type(kind), table[place].cast(kind))
    astropy_table(table).write(path, format="fits")


def _write_votable(table: "pa.Table", path: Path) -> None:
    from sciplat.lazy.exits import astropy_table

    astropy_table(table).write(path, format="votable")


_WRITERS: dict[str, Callable[["pa.Table", Path], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".fits": _write_fits,
    ".vot": _write_votable,
}
