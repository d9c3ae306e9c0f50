"""Rows that share a key and a position become one row with a list of structures: a light curve for each source."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_POSITION = "_healpix_29"


def nest(table: pa.Table, by: str, head: Sequence[str], columns: Sequence[str], name: str) -> pa.Table:
    """Gather the rows of each value of `by` at each position.

    A value that stands at two positions gives two rows: whether its rows meet would otherwise depend on the cells.

    Parameters
    ----------
    table : pyarrow.Table
        Sorted by `_healpix_29`.
    by : str
        Key.
    head : sequence of str
        Columns that stay as they are, from the first row of each value; `by` among them.
    columns : sequence of str
        Columns that become fields of the structures, in the order of the rows.
    name : str
        Of the column of lists.

    Returns
    -------
    pyarrow.Table
        Sorted by `_healpix_29`, then by the key.
    """
    schema, flat = table.schema, table.sort_by([(_POSITION, "ascending"), (by, "ascending")]).combine_chunks()  # stable
    del table  # the rows are held once from here on
    starts = _starts(flat[_POSITION], flat[by])
    first = flat.select(list(head)).take(pa.array(starts))
    arrays = [_one_chunk(flat[column]) for column in columns]
    structs = pa.StructArray.from_arrays(arrays, fields=[schema.field(column) for column in columns])
    offsets = pa.array(np.append(starts, flat.num_rows).astype(np.int32))
    lists = pa.ListArray.from_arrays(offsets, structs)
    return first.append_column(pa.field(name, nested_type(schema, columns)), lists)


def nested_type(schema: pa.Schema, columns: Sequence[str]) -> pa.DataType:
    """Return the type of the column of lists."""
    return pa.list_(pa.struct([schema.field(column) for column in columns]))


def _starts(positions: pa.ChunkedArray, keys: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return the first row of each run of equal positions and keys; null is a key like others."""
    codes = _one_chunk(keys).dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    index = positions.to_numpy()
    changes = (codes[1:] != codes[:-1]) | (index[1:] != index[:-1])
    return np.flatnonzero(np.concatenate([[len(codes) > 0], changes]))


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    chunks = column.combine_chunks()
    return chunks if isinstance(chunks, pa.Array) else pa.concat_arrays(chunks.chunks)
