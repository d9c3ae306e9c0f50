"""Cells of HATS catalogs that others made: one file or a folder of them, without digests, perhaps without our index."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sciplat.errors import PositionError, SciplatError
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.io.objects import Storage
from sciplat.io.parquet import Bounds, check_columns, damage, damaged, matching_groups, read_groups
from sciplat.io.publish import FileEntry
from sciplat.sky.cell import MAX_ORDER, Cell, healpix_29
from sciplat.sky.coverage import Coverage

_WHOLE = Cell(0, 0)
_STRAY = 1e-3  # of a cell's rows: so many lie across its border where libraries round differently


@dataclass(frozen=True)
class ForeignFile(FileEntry):
    """The rows of one cell as another writer left them; nothing is promised of their bytes.

    Size and rows may be shares of what the catalog says of all its cells.

    Parameters
    ----------
    cell : Cell
    is_folder : bool
        Whether the path is a folder of Parquet files.
    index : str or None
        The column of order-29 indices; without one they are computed.
    position : tuple of str
        Names of the columns of right ascension and declination.
    schema : pyarrow.Schema
        Of the catalog, `_healpix_29` first.
    """

    cell: Cell = _WHOLE
    is_folder: bool = False
    index: str | None = None
    position: tuple[str, str] = ("ra", "dec")
    schema: pa.Schema = field(default_factory=lambda: pa.schema([]), repr=False, compare=False)


def read_foreign_cell(
    storage: Storage,
    file: ForeignFile,
    columns: Sequence[str] | None,
    cover: Coverage | None,
    bounds: Bounds | None,
) -> pa.Table:
    """Read the rows of one cell, sorted by `_healpix_29`, equal ones as they lie in the files by their names.

    Parameters and errors are `read_cell`'s; `cover` are its ranges and squares.
    """
    names = list(columns or file.schema.names)
    check_columns(names, file.schema.names)
    needed = [name for name in dict.fromkeys(names) if name != HEALPIX_COLUMN]
    paths = _paths(storage, file.path, is_folder=file.is_folder)
    parts = [_read_file(storage, path, file, needed, cover, bounds) for path in paths]
    table = pa.concat_tables(parts) if parts else file.schema.empty_table()
    index = table[HEALPIX_COLUMN].to_numpy()
    if len(index) > 1 and np.any(index[1:] < index[:-1]):
        table = table.take(pa.array(np.argsort(index, kind="stable")))
    return table.select(names)


def footers(storage: Storage, path: str, *, is_folder: bool) -> list[pq.FileMetaData]:
    """Return the metadata of a cell's files."""
    found = []
    for name in _paths(storage, path, is_folder=is_folder):
        with _understood(name), storage.open(name) as source:
            found.append(pq.ParquetFile(source).metadata)
    return found


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type under which we keep a column: no dictionaries, views or extensions."""
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    return {"string_view": pa.string(), "binary_view": pa.binary()}.get(str(kind), kind)


def _paths(storage: Storage, path: str, *, is_folder: bool) -> list[str]:
    """Return the Parquet files of a cell, by their names."""
    if not is_folder:
        return [path]
    names = [name for name in storage.names(path) if not name.startswith("_")]
    if not names:
        raise damaged(path, "no folder with files in it, or none that can be listed")
    return [f"{path}/{name}" for name in names]


@contextlib.contextmanager
def _understood(path: str) -> Iterator[None]:
    """Turn whatever comes of a file that makes no sense into StoreCorrupt."""
    with damage(path):
        try:
            yield
        except pa.ArrowException:
            raise
        except SciplatError as error:
            if isinstance(error, PositionError):
                raise damaged(path, error.found or error.what) from None
            raise
        except (ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
            raise damaged(path, " ".join(str(error).split())[:300]) from None


def _read_file(
    storage: Storage,
    path: str,
    file: ForeignFile,
    needed: list[str],
    cover: Coverage | None,
    bounds: Bounds | None,
) -> pa.Table:
    """Return the index and the needed columns of the rows inside, as they lie in the file."""
    read = list(dict.fromkeys([*needed, *([file.index] if file.index else file.position)]))

    def inside(index: NDArray[Any]) -> NDArray[np.bool_]:
        if index.dtype.kind == "f":  # whole numbers come so where some are null
            raise damaged(path, f"nulls in {file.index}")
        values = index.astype(np.int64)
        _check_in_cell(values, file, path)
        return np.ones(len(values), bool) if cover is None else cover.contains(values)

    with _understood(path):
        with storage.open(path) as source:
            reader = pq.ParquetFile(source, page_checksum_verification=True)
            if missing := set(read).difference(reader.schema_arrow.names):
                raise damaged(path, f"it has no column {min(missing)!r}")
            if file.index is not None:
                _check_spans(reader, file.index, file, path)
            groups = matching_groups(reader.metadata, file.index, None if cover is None else cover.ranges, bounds)
            table = read_groups(source, reader, groups, read, file.index, inside)
        return _placed(table, file, path, needed, inside)


def _placed(
    table: pa.Table,
    file: ForeignFile,
    path: str,
    needed: list[str],
    inside: Callable[[NDArray[Any]], NDArray[np.bool_]],
) -> pa.Table:
    """Return the columns in the catalog's types with the index before them."""
    index = _computed(table, file, path) if file.index is None else np.asarray(table[file.index].cast(pa.int64()))
    fields = [file.schema.field(name) for name in needed]
    plain = [_as_type(table[each.name], each.type) for each in fields]
    schema = pa.schema([file.schema.field(HEALPIX_COLUMN), *fields])
    placed = pa.table([pa.chunked_array([pa.array(index)]), *plain], schema=schema)
    return placed.filter(pa.array(inside(index))) if file.index is None else placed


def _check_spans(reader: pq.ParquetFile, index: str, file: ForeignFile, path: str) -> None:
    """Refuse row groups of another cell before they are left out as not asked for."""
    if not pa.types.is_integer(reader.schema_arrow.field(index).type):
        raise damaged(path, f"{index} holds no whole numbers")
    metadata = reader.metadata
    place = [metadata.schema.column(number).path for number in range(metadata.num_columns)].index(index)
    spans = [metadata.row_group(number).column(place).statistics for number in range(metadata.num_row_groups)]
    ends = [end for span in spans if span is not None and span.has_min_max for end in (span.min, span.max)]
    _check_in_cell(np.array(ends, dtype=np.int64), file, path)


def _check_in_cell(index: NDArray[np.int64], file: ForeignFile, path: str) -> None:
    if np.any((index < file.cell.start) | (index >= file.cell.stop)):
        raise damaged(path, f"rows that do not lie in cell {file.cell}")


def _computed(table: pa.Table, file: ForeignFile, path: str) -> NDArray[np.int64]:
    ra, dec = (table[name].cast(pa.float64()).to_numpy() for name in file.position)
    index = healpix_29(ra, dec)
    stray = (index < file.cell.start) | (index >= file.cell.stop)
    if stray.sum() > 1 + _STRAY * len(index):
        raise damaged(path, f"positions that do not lie in cell {file.cell}")
    if stray.any():
        index[stray] = _inside(index[stray], file)
    return index


def _inside(index: NDArray[np.int64], file: ForeignFile) -> NDArray[np.int64]:
    """Return for rows outside a cell the order-29 cell beside them that lies inside: rounding puts them there.

    Rows that stray farther, as where cells were made of older positions, go to the cell's first or last place.
    """
    from cdshealpix.nested import neighbours

    beside = np.asarray(neighbours(index.astype(np.uint64), np.uint8(MAX_ORDER), num_threads=1)).astype(np.int64)
    inside = (beside >= file.cell.start) & (beside < file.cell.stop)
    far = np.clip(index, file.cell.start, file.cell.stop - 1)
    return np.where(inside.any(axis=1), beside[np.arange(len(index)), inside.argmax(axis=1)], far)


def _as_type(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Return a column in another type, without loss."""
    if column.type == kind:
        return column
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    return pc.cast(column, kind)
