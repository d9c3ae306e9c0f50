"""The smallest and largest values of columns in one file, which its statistics mostly tell."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sciplat.errors import ColumnError
from sciplat.io.catalog_store import read_cell, read_footers
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.io.publish import FileEntry
from sciplat.io.storage import Storage

Extremes = tuple[float, float]


def read_extremes(storage: Storage, file: FileEntry, columns: Sequence[str]) -> dict[str, Extremes]:
    """Return the smallest and largest finite value of columns of numbers in one file.

    Parameters
    ----------
    storage : Storage
        Of the catalog.
    file : FileEntry
        As the manifest has it.
    columns : sequence of str
        A column is read only where the statistics of a row group do not tell.

    Returns
    -------
    dict of str to (float, float)
        Both are nan where there is no finite value.

    Raises
    ------
    StoreCorrupt, StoreNotFound, StorageError
        As by `read_cell`.
    ColumnError
        If a column is not there or holds no numbers.
    """
    metadata = read_footers(storage, file)
    # the index of other writers may have another order or name
    told = {name: None if name == HEALPIX_COLUMN else _told(metadata, name) for name in columns}
    return {name: span or _found(read_cell(storage, file, [name])[name], name) for name, span in told.items()}


def _told(metadata: Iterable[pq.FileMetaData], name: str) -> Extremes | None:
    """Return what statistics tell, None where that is not all."""
    ends: list[float] = []
    for chunk in _chunks(metadata, name):
        span = None if chunk is None else chunk.statistics
        if span is None:
            return None
        if span.has_min_max and all(_is_finite(end) for end in (span.min, span.max)):
            ends += [float(span.min), float(span.max)]
        elif not (span.has_null_count and span.null_count == chunk.num_values):
            return None  # values that are not finite take the place of those that are, or leave it empty
    return (min(ends), max(ends)) if ends else None


def _chunks(metadata: Iterable[pq.FileMetaData], name: str) -> Iterator[Any]:
    """Yield a column's part of each row group that has rows; None where there is no such column."""
    for each in metadata:
        place = next((place for place in range(each.num_columns) if each.schema.column(place).path == name), None)
        for group in map(each.row_group, range(each.num_row_groups)):
            if group.num_rows:
                yield None if place is None else group.column(place)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _found(column: pa.ChunkedArray, name: str) -> Extremes:
    """Return what the values tell."""
    kind = column.type
    if not pa.types.is_integer(kind):
        if not (pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            raise ColumnError(f"the column {name!r} holds no numbers", found=str(kind))
        column = column.cast(pa.float64())
        column = column.filter(pc.is_finite(column))
    ends = pc.min_max(column).as_py()
    return (math.nan, math.nan) if ends["min"] is None else (float(ends["min"]), float(ends["max"]))
