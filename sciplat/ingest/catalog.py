"""Tables of sources become a catalog store: positions checked, rows sorted along the sky, cells by their rows."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from sciplat.errors import ArgumentError, ColumnError, PositionError
from sciplat.ingest.sources import Source, read_sources
from sciplat.io.catalog_writer import CatalogWriter, CellReport
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.io.publish import check_absent
from sciplat.io.storage import open_storage
from sciplat.lazy.catalog import Catalog, catalog_from_store
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
_ID_NAMES = ("source_id", "id", "objid", "object_id", "objectid", "sourceid", "name")


def ingest_catalog(
    sources: Source | Sequence[Source],
    url: str | os.PathLike[str],
    *,
    ra: str | None = None,
    dec: str | None = None,
    rows_per_cell: int = 1_000_000,
    frame: str = "icrs",
    epoch: str | None = None,
    bad: Literal["refuse", "skip"] = "refuse",
    storage_options: Mapping[str, Any] | None = None,
) -> Catalog:
    """Make a catalog store of tables with positions.

    Parameters
    ----------
    sources : path, pattern, folder, pyarrow.Table, or a list of these
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
        Of the positions, for example "J2016.0".
    bad : {"refuse", "skip"}
        What to do with rows whose position is missing or off the sphere.
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
    _check_arguments(rows_per_cell, frame, bad)
    storage = open_storage(url, storage_options)
    check_absent(storage)  # before anything long is read
    table = read_sources(sources)
    names = (_find(table, ra, _RA_NAMES, "ra"), _find(table, dec, _DEC_NAMES, "dec"))
    placed, skipped = _placed(table, names, bad)
    identity = next((name for name in table.schema.names if name.lower() in _ID_NAMES), None)
    properties: dict[str, Any] = {
        "position": list(names),
        "id": identity,
        "kind": "object",
        "frame": frame,
        "epoch": epoch,
        "rows_per_cell": rows_per_cell,
        "report": {"rows": placed.num_rows, "skipped": skipped},
    }
    return _write(CatalogWriter.begin(storage, properties), placed, rows_per_cell)


def _check_arguments(rows_per_cell: int, frame: str, bad: str) -> None:
    if rows_per_cell < 1:
        raise ArgumentError("rows_per_cell is a positive number", found=repr(rows_per_cell))
    if frame not in FRAMES:
        raise ArgumentError(f"the frame {frame!r} is unknown", hint=", ".join(FRAMES))
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
                f"no column looks like {what}", found=", ".join(names), hint=f'name it: {what}="..." (--{what})'
            )
    elif named in names:
        chosen = named
    else:
        raise ColumnError(f"there is no column {named!r}", found=", ".join(names))
    kind = table.schema.field(chosen).type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise PositionError(f"the column {chosen!r} does not hold numbers", found=str(kind), hint="degrees")
    return chosen


def _placed(table: pa.Table, names: tuple[str, str], bad: str) -> tuple[pa.Table, int]:
    """Return the rows with a position, sorted by `_healpix_29` and then as they came, and how many were left out."""
    ra, dec = (np.asarray(table[name].cast(pa.float64()).fill_null(np.nan)) for name in names)
    good = np.isfinite(ra) & (np.abs(dec) <= 90)
    skipped = int((~good).sum())
    if skipped and bad == "refuse":
        first = int(np.argmin(good))
        raise PositionError(
            f"{skipped:,} of {len(ra):,} rows have no position on the sphere",
            found=f"{names[0]} = {ra[first]}, {names[1]} = {dec[first]} in row {first}",
            hint='repair the rows, or leave them out: bad="skip" (--bad skip)',
        )
    if skipped == len(ra):
        raise PositionError("no row has a position on the sphere", found=f"{len(ra)} rows")
    index = healpix_29(ra[good], dec[good])
    order = np.argsort(index, kind="stable")
    rows = table.take(pa.array(np.flatnonzero(good)[order]))
    if HEALPIX_COLUMN in rows.schema.names:
        rows = rows.drop_columns([HEALPIX_COLUMN])
    rows = rows.replace_schema_metadata(None)
    return rows.add_column(0, HEALPIX_COLUMN, pa.array(index[order])), skipped


def _write(writer: CatalogWriter, table: pa.Table, rows_per_cell: int) -> Catalog:
    parts = split_cells(table[HEALPIX_COLUMN].to_numpy(), rows_per_cell)

    def write_part(part: tuple[Cell, int, int]) -> CellReport:
        cell, first, last = part
        # a cell of order 29 may exceed the limit: nothing splits it
        return writer.write_cell(cell, table.slice(first, last - first), last - first)

    try:
        # the rows are in this process, so its threads write them
        reports = list(progress(on_threads(write_part, iter(parts)), what="ingest", total=len(parts)))
        return catalog_from_store(writer.publish(table.schema, reports))
    except BaseException:  # Ctrl-C as well
        writer.abandon()
        raise
