"""Reading Parquet files: the row groups that may hold what is asked for, in few and small pieces."""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import isnan
from numbers import Real
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sciplat.errors import ColumnError, SciplatError, StoreCorrupt, may_pass
from sciplat.io.ranges import RangeReader

Bounds = Mapping[str, tuple[Any, Any]]  # of columns: inclusive low and high, None where it is open
_SMALL = 1 << 24  # decoded bytes that are read in one call: for more, one column after the other keeps memory low


def matching_groups(
    metadata: pq.FileMetaData, index: str | None, ranges: NDArray[np.int64] | None, bounds: Bounds | None
) -> list[int]:
    """Return the row groups that may hold rows inside; those without statistics always may.

    Parameters
    ----------
    metadata : pyarrow.parquet.FileMetaData
    index : str, optional
        The column of order-29 indices, if there is one.
    ranges : ndarray of int64, shape (n, 2), optional
        Sorted half-open ranges of them.
    bounds : mapping, optional
        Column to inclusive (low, high).
    """
    groups = list(range(metadata.num_row_groups))
    tests: list[tuple[str, Callable[[Any], bool]]] = []
    if ranges is not None and index is not None:
        tests.append((index, partial(_meets, ranges)))
    for name, (low, high) in (bounds or {}).items():
        if low is not None or high is not None:
            tests.append((name, partial(_may_hold, low, high)))
    if not tests or not groups:
        return groups
    places = {metadata.schema.column(place).path: place for place in range(metadata.num_columns)}
    for name, test in tests:
        if (place := places.get(name)) is not None:
            groups = [group for group in groups if test(metadata.row_group(group).column(place))]
    return groups


def _meets(ranges: NDArray[np.int64], chunk: Any) -> bool:
    """Return whether the span of a column of indices may meet the ranges."""
    span = chunk.statistics
    if span is None or not span.has_min_max:
        return True
    place = int(np.searchsorted(ranges[:, 1], span.min, side="right"))
    return place < len(ranges) and bool(ranges[place, 0] <= span.max)


def _may_hold(low: Any, high: Any, chunk: Any) -> bool:
    """Return whether a column's statistics leave it open that a value lies in [low, high]."""
    span = chunk.statistics
    if span is None:
        return True
    if not span.has_min_max:
        return not (span.has_null_count and span.null_count == chunk.num_values)
    least, most = span.min, span.max
    given = [bound for bound in (low, high) if bound is not None]
    if all(isinstance(value, str) for value in (least, most, *given)):
        # some writers cut a long text off: what begins with the largest may be larger than it
        above = low is not None and low > most and not low.startswith(most)
    elif all(isinstance(value, Real) for value in (least, most, *given)) and not (isnan(least) or isnan(most)):
        above = low is not None and low > most
    else:
        return True
    return not (above or (high is not None and high < least))


def read_groups(
    source: BinaryIO,
    reader: pq.ParquetFile,
    groups: list[int],
    columns: Sequence[str],
    index: str | None = None,
    inside: Callable[[NDArray[Any]], NDArray[np.bool_]] | None = None,
) -> pa.Table:
    """Read columns of some row groups, and of these the rows inside.

    Parameters
    ----------
    source : binary file
        That `reader` reads.
    reader : pyarrow.parquet.ParquetFile
    groups : list of int
    columns : sequence of str
        In the order of the result.
    index : str, optional
        Column that tells which rows are inside; it is read first, and nothing else of row groups without such rows.
    inside : callable, optional
        Takes its values and returns which are.
    """
    whole, columns = reader.schema_arrow, list(dict.fromkeys(columns))
    leaves = _leaves(reader, {*columns, *([index] if index else [])})
    small = _decoded_bytes(reader, groups, leaves) <= _SMALL
    if isinstance(source, RangeReader):
        # over a network a question takes longer than reading the columns that may turn out not to be needed
        _fetch(source, reader, groups, leaves if small else _under(leaves, [index]))
    schema = pa.schema([whole.field(name) for name in columns], metadata=whole.metadata)
    parts: dict[str, pa.ChunkedArray] = {}
    mask = None
    if inside is not None and index is not None:
        values = reader.read_row_groups(groups, columns=[index], use_threads=False).column(0)
        kept = inside(values.to_numpy())
        # where all rows are inside, a copy would be made for nothing
        parts[index] = values if kept.all() else values.filter(pa.array(kept))
        groups, kept = _groups_inside(reader, groups, kept)
        if not groups:
            return schema.empty_table()
        mask = None if kept.all() else pa.array(kept)
    rest = [name for name in columns if name not in parts]
    together = rest and _decoded_bytes(reader, groups, leaves) <= _SMALL
    for bundle in [rest] if together else [[name] for name in rest]:
        if isinstance(source, RangeReader) and not small:
            source.forget()
            _fetch(source, reader, groups, _under(leaves, bundle))
        table = reader.read_row_groups(groups, columns=bundle, use_threads=False)
        table = table if mask is None else table.filter(mask)
        parts.update(zip(table.schema.names, table.columns, strict=True))
    if not small:  # of few pages it would take a fifth of the time
        pa.default_memory_pool().release_unused()  # pages that were decoded
    return pa.table([parts[name] for name in columns], schema=schema)


def _leaves(reader: pq.ParquetFile, columns: set[str]) -> dict[int, str]:
    """Return the leaf columns of some columns with the column that each belongs to."""
    metadata = reader.metadata
    paths = (metadata.schema.column(place).path for place in range(metadata.num_columns))
    tops = {place: path if path in columns else path.split(".")[0] for place, path in enumerate(paths)}
    return {place: top for place, top in tops.items() if top in columns}


def _decoded_bytes(reader: pq.ParquetFile, groups: list[int], leaves: dict[int, str]) -> int:
    rows = [reader.metadata.row_group(group) for group in groups]
    return sum(row.column(place).total_uncompressed_size for row in rows for place in leaves)


def _under(leaves: dict[int, str], columns: Sequence[str | None]) -> dict[int, str]:
    return {place: top for place, top in leaves.items() if top in columns}


def _groups_inside(
    reader: pq.ParquetFile, groups: list[int], kept: NDArray[np.bool_]
) -> tuple[list[int], NDArray[np.bool_]]:
    """Return the row groups that hold rows inside, and which of their rows are."""
    ends = np.cumsum([reader.metadata.row_group(group).num_rows for group in groups])
    held = {group: part for group, part in zip(groups, np.split(kept, ends[:-1]), strict=False) if part.any()}
    return list(held), np.concatenate([kept[:0], *held.values()])


def _fetch(source: RangeReader, reader: pq.ParquetFile, groups: list[int], leaves: dict[int, str]) -> None:
    """Ask for the bytes of some leaf columns at the same time."""
    ranges = []
    for group in groups:
        row = reader.metadata.row_group(group)
        for place in leaves:
            chunk = row.column(place)
            pages = (chunk.dictionary_page_offset, chunk.data_page_offset)
            start = min(offset for offset in pages if offset is not None and offset > 0)
            ranges.append((start, start + chunk.total_compressed_size))
    source.fetch(ranges)


def parse_footer(tail: bytes) -> pq.FileMetaData:
    """Return the metadata in the last bytes of a Parquet file."""
    return pq.read_metadata(io.BytesIO(b"PAR1" + tail))


def check_columns(columns: Iterable[str], names: list[str]) -> None:
    """Raise ColumnError if one of the columns is not among the names."""
    if missing := set(columns).difference(names):
        raise ColumnError(f"the catalog has no column {min(missing)!r}", found=", ".join(names))


@contextlib.contextmanager
def damage(path: str) -> Iterator[None]:
    """Turn an error of reading a file into one that names it, unless it may pass.

    Raises
    ------
    StoreCorrupt
        If the file is not there or not readable.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, SciplatError) or may_pass(error):
            raise
        raise damaged(path, str(error)) from None


def damaged(path: str, found: str) -> StoreCorrupt:
    """Return the error of a file that is not what was written."""
    hint = "restore it from a copy; sciplat verify names all damaged files of a store of ours"
    return StoreCorrupt(f"the file {path} is damaged", found=found, hint=hint)
