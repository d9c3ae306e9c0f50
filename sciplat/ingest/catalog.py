"""Tables of sources become a catalog store: positions checked, rows sorted along the sky, cells by their rows."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sciplat.errors import ArgumentError, ColumnError, InputError, PositionError
from sciplat.ingest.sources import Source, read_sources, unit_of
from sciplat.io.catalog_writer import CatalogWriter, CellReport
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.io.publish import check_absent
from sciplat.io.storage import open_storage
from sciplat.lazy.catalog import Catalog
from sciplat.sky.cell import Cell, healpix_29, split_cells
from sciplat.tasks.progress import progress
from sciplat.tasks.stream import on_threads

_RA_NAMES = (
    "ra",
    "raj2000",
    "_raj2000",
    "ra_icrs",
    "ra_deg",
    "radeg",
    "ramean",
    "alpha_j2000",
    "right_ascension",
    "coord_ra",
)
_DEC_NAMES = (
    "dec",
    "dej2000",
    "_dej2000",
    "de_icrs",
    "dec_deg",
    "dedeg",
    "decmean",
    "delta_j2000",
    "declination",
    "coord_dec",
)
FRAMES = ("icrs", "fk5", "galactic")
_VIEWS = {"string_view": pa.string(), "binary_view": pa.binary()}  # what some writers use; Arrow cannot sort them
_DEGREES = ("", "deg", "degree", "degrees")
_EPOCH = re.compile(r"[JB]\d{4}(\.\d+)?")
_ID_NAMES = ("source_id", "id", "objid", "object_id", "objectid", "sourceid")


def ingest_catalog(
    sources: Source | Iterable[Source],
    url: str | os.PathLike[str],
    *,
    ra: str | None = None,
    dec: str | None = None,
    rows_per_cell: int = 1_000_000,
    frame: str = "icrs",
    epoch: str | None = None,
    citation: str | None = None,
    bad: Literal["refuse", "skip"] = "refuse",
    storage_options: Mapping[str, Any] | None = None,
) -> Catalog:
    """Make a catalog store of tables with positions.

    Parameters
    ----------
    sources : path, pattern, folder, pyarrow.Table, or any number of these
        Parquet, CSV or FITS tables.
    url : str or path
        Of the new store.
    ra, dec : str, optional
        Columns with the position in degrees; found by their usual names otherwise.
    rows_per_cell : int
        Cells are split until none holds more.
    frame : {"icrs", "fk5", "galactic"}
        Of the positions.
    epoch : str, optional
        Of the positions: a Julian or Besselian year, for example "J2016.0".
    citation : str, optional
        How to cite the catalog; what is made of it repeats it.
    bad : {"refuse", "skip"}
        What to do with rows whose position is missing or off the sphere: declinations lie within 90 degrees of the
        equator, right ascensions from -360 to 360.
    storage_options : Mapping, optional
        For the file system of a remote URL.

    Returns
    -------
    Catalog
        The store; ``properties["report"]`` counts rows read and skipped.

    Raises
    ------
    StoreExists
        If something stands at the URL.
    InputNotFound, InputError, ColumnError, PositionError, ArgumentError
        If the input cannot be used; nothing is left behind.
    """
    _check_arguments(rows_per_cell, frame, epoch, bad)
    storage = open_storage(url, storage_options)
    check_absent(storage)  # before anything long is read
    table = read_sources(sources)
    if table.num_rows == 0:
        raise InputError("there is nothing to ingest", found=f"{len(table.schema)} columns, no row")
    names = (_find(table, ra, _RA_NAMES, "ra"), _find(table, dec, _DEC_NAMES, "dec"))
    placed, skipped = _placed(table, names, bad)
    lowered = {name.lower(): name for name in reversed(table.schema.names)}
    identity = next((lowered[name] for name in _ID_NAMES if name in lowered), None)
    properties: dict[str, Any] = {
        "position": list(names),
        "id": identity,
        "kind": "sources",
        "frame": frame,
        "epoch": epoch,
        "rows_per_cell": int(rows_per_cell),
        "citations": [citation] if citation else [],
        "report": {"rows": placed.num_rows, "skipped": skipped},
    }
    return _write(CatalogWriter.begin(storage, properties), placed, rows_per_cell)


def _check_arguments(rows_per_cell: object, frame: str, epoch: object, bad: str) -> None:
    if not isinstance(rows_per_cell, int | np.integer) or rows_per_cell < 1:
        raise ArgumentError("rows_per_cell is a positive whole number", found=repr(rows_per_cell))
    if frame not in FRAMES:
        raise ArgumentError(f"the frame {frame!r} is unknown", hint=", ".join(FRAMES))
    if epoch is not None and not _EPOCH.fullmatch(str(epoch)):
        raise ArgumentError(f"the epoch {epoch!r} is no year", hint='"J2016.0"')
    if bad not in ("refuse", "skip"):
        raise ArgumentError(f"bad={bad!r} is unknown", hint='"refuse" or "skip"')


def _find(table: pa.Table, named: str | None, usual: Sequence[str], what: str) -> str:
    """Return the column that is named, or the first with a usual name."""
    names = table.schema.names
    if named is None:
        lowered = {name.lower(): name for name in reversed(names)}
        chosen = next((lowered[name] for name in usual if name in lowered), None)
        if chosen is None:
            raise ColumnError(
                f"no column looks like {what}", found=_shown(names), hint=f'name it: {what}="..." (--{what})'
            )
    elif named in names:
        chosen = named
    else:
        raise ColumnError(f"there is no column {named!r}", found=_shown(names))
    field = table.schema.field(chosen)
    if not (pa.types.is_floating(field.type) or pa.types.is_integer(field.type)):
        raise PositionError(
            f"the column {chosen!r} does not hold numbers", found=str(field.type), hint="decimal degrees as numbers"
        )
    if unit_of(field) not in _DEGREES:
        raise PositionError(f"the column {chosen!r} is not in degrees", found=unit_of(field), hint="convert it first")
    return chosen


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")


def _placed(table: pa.Table, names: tuple[str, str], bad: str) -> tuple[pa.Table, int]:
    """Return the rows with a position, sorted by `_healpix_29` and then as they came, and how many were left out."""
    ra, dec = (np.asarray(table[name].cast(pa.float64()).fill_null(np.nan)) for name in names)
    good = (np.abs(ra) <= 360) & (np.abs(dec) <= 90)
    skipped = int((~good).sum())
    if skipped and bad == "refuse":
        first = int(np.argmin(good))
        raise PositionError(
            f"{skipped:,} of {len(ra):,} rows have no position on the sphere",
            found=f"{names[0]} = {ra[first]}, {names[1]} = {dec[first]} in row {first}",
            hint='repair the rows, or leave them out: bad="skip" (--bad skip)',
        )
    if skipped == len(ra):
        raise PositionError("no row has a position on the sphere", found=f"{skipped:,} rows without")
    index = healpix_29(ra[good], dec[good])
    order = np.argsort(index, kind="stable")
    rows = _taken(table, np.flatnonzero(good)[order])
    return rows.add_column(0, HEALPIX_COLUMN, pa.array(index[order])), skipped


def _taken(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """Return some rows in a given order, without what an earlier store added to the table."""
    kept = table.select([name for name in table.schema.names if name != HEALPIX_COLUMN])
    columns = [_plain(kept[field.name], field) for field in kept.schema]
    fields = [field.with_type(column.type) for field, column in zip(kept.schema, columns, strict=True)]
    return pa.table(columns, schema=pa.schema(fields)).take(pa.array(rows))


def _plain(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """Return a column in a type that Parquet holds and that can be sorted."""
    if pa.types.is_dictionary(field.type):
        return column.cast(field.type.value_type)
    if str(field.type) in _VIEWS:
        return column.cast(_VIEWS[str(field.type)])
    try:
        pq.write_metadata(pa.schema([field]), pa.BufferOutputStream())
        column.slice(0, 1).take(pa.array([0]))
    except pa.ArrowException:
        raise InputError(
            f"the column {field.name!r} has a type that no catalog can hold", found=str(field.type), hint="remove it"
        ) from None
    return column


def _write(writer: CatalogWriter, table: pa.Table, rows_per_cell: int) -> Catalog:
    parts = split_cells(table[HEALPIX_COLUMN].to_numpy(), rows_per_cell)

    def write_part(part: tuple[Cell, int, int]) -> CellReport:
        cell, first, last = part
        # a cell of order 29 may exceed the limit: nothing splits it
        return writer.cells.write(cell, table.slice(first, last - first), last - first)

    try:
        # the rows are in this process, so its threads write them
        reports = list(progress(on_threads(write_part, iter(parts)), what="ingest", total=len(parts)))
        return Catalog.of_store(writer.publish(table.schema, reports))
    except BaseException:  # Ctrl-C as well
        writer.abandon()
        raise
