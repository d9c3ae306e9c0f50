"""Sorting rows along the sky: stable, so that rows of one position stay in the order in which they came."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_POSITION = "_healpix_29"


def stable_order(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the stable sorting order of order-29 indices; shape (n,).

    numpy's fastest sort is not stable, and four times as fast as its stable one; ties are few and sorted afterwards.
    """
    order = np.argsort(index)
    ordered = index[order]
    same = ordered[1:] == ordered[:-1]
    if same.any():
        tied = np.concatenate([same, [False]]) | np.concatenate([[False], same])
        order[tied] = order[tied][np.lexsort([order[tied], ordered[tied]])]
    return order


def sorted_rows(table: pa.Table, index: NDArray[np.int64]) -> pa.Table:
    """Return a table sorted by the order-29 indices of its rows, which become its first column.

    Parameters
    ----------
    table : pyarrow.Table
    index : ndarray of int64, shape (n,)
    """
    order = stable_order(index)
    rows = _taken_all(table, pa.array(order) if (np.diff(order) != 1).any() else None)
    return rows.add_column(0, _POSITION, pa.array(index[order]))


def merged_rows(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of sorted tables as one sorted table; at one position those of earlier tables come first.

    Parameters
    ----------
    tables : sequence of pyarrow.Table
        Of one schema, each sorted by `_healpix_29`.
    """
    whole = pa.concat_tables(tables)
    index = np.concatenate([table[_POSITION].to_numpy() for table in tables])
    return _taken_all(whole, pa.array(stable_order(index)) if len(tables) > 1 else None)


def _taken_all(table: pa.Table, order: pa.Array | None) -> pa.Table:
    """Return rows in an order, or all as they are, in whole columns."""
    columns = []
    for name in table.schema.names:  # one after the other: only one of them is there twice
        whole = table[name].combine_chunks()  # what is written depends on the chunks, and taking from many is slow
        columns.append(whole if order is None else whole.take(order))
    return pa.table(columns, schema=table.schema)
