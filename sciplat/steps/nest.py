"""Rows that share a key become one row with a list of structures: a light curve for each source."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from sciplat.errors import ArgumentError


def nest(table: pa.Table, by: str, head: Sequence[str], columns: Sequence[str], name: str) -> pa.Table:
    """Gather the rows of each value of `by`.

    Parameters
    ----------
    table : pyarrow.Table
        Sorted so that the rows of one value stand together.
    by : str
        Key.
    head : sequence of str
        Columns that stay as they are, from the first row of each value; `by` among them.
    columns : sequence of str
        Columns that become fields of the structures, in the order of the rows.
    name : str
        Of the column of lists.

    Raises
    ------
    ArgumentError
        If the rows of one value stand apart, because they lie at different positions.
    """
    flat = table.combine_chunks()
    starts = _starts(flat[by])
    first = flat.take(pa.array(starts)).select(list(head))
    # numpy's unique sorts, so it also finds values whose rows stand apart
    if len(first[by].unique()) != len(starts):
        raise ArgumentError(
            f"rows with the same {by!r} lie at different positions", hint="nest by a key that belongs to one position"
        )
    arrays = [_one_chunk(flat[column]) for column in columns]
    structs = pa.StructArray.from_arrays(arrays, fields=[table.schema.field(column) for column in columns])
    offsets = pa.array(np.append(starts, flat.num_rows).astype(np.int32))
    return first.append_column(pa.field(name, nested_type(table.schema, columns)), _lists(offsets, structs))


def nested_type(schema: pa.Schema, columns: Sequence[str]) -> pa.DataType:
    """Return the type of the column of lists."""
    return pa.list_(pa.struct([schema.field(column) for column in columns]))


def _starts(keys: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the first row of each run of equal keys."""
    codes = _one_chunk(keys).dictionary_encode().indices.to_numpy(zero_copy_only=False)
    if len(codes) == 0:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]])).astype(np.int64)


def _lists(offsets: pa.Array, structs: pa.StructArray) -> pa.ListArray:
    return pa.ListArray.from_arrays(offsets, structs)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    chunks = column.combine_chunks()
    return chunks if isinstance(chunks, pa.Array) else pa.concat_arrays(chunks.chunks)
