"""Rows of two tables that share a key become one: the left row with columns of the right one."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

How = Literal["inner", "left"]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Near:
    """How near to each other two rows of one key are.

    Parameters
    ----------
    left, right : tuple of str
        Names of the right ascension and declination.
    reach : float
        Degrees, the limit included.
    """

    left: tuple[str, str]
    right: tuple[str, str]
    reach: float


@dataclass(frozen=True)
class Joining:
    """Which rows become one, and which columns they get.

    Parameters
    ----------
    on : tuple of (str, str)
        Key columns by their names left and right; all of them are equal.
    how : {"inner", "left"}
        Whether left rows without a match are left out or get nulls.
    kept : tuple of (str, str)
        Columns of the right table that follow the left ones, with their new names.
    near : Near, optional
        Rows farther apart are no match.
    """

    on: tuple[tuple[str, str], ...]
    how: How
    kept: tuple[tuple[str, str], ...]
    near: Near | None = None


def join(left: pa.Table, right: pa.Table, joining: Joining) -> pa.Table:
    """Return all pairs of left and right rows with equal keys.

    A null equals nothing. A key that stands more than once on both sides gives all pairs.

    Parameters
    ----------
    left, right : pyarrow.Table
    joining : Joining

    Returns
    -------
    pyarrow.Table
        The left columns, then the kept ones. Pairs are in the order of the left rows, then of the right ones.
    """
    i, j = _pairs(left, right, joining.on)
    if joining.near is not None:
        near = _are_near(left, right, i, j, joining.near)
        i, j = i[near], j[near]
    if joining.how == "left":
        i, j = _with_unmatched(i, j, left.num_rows)
    mine, its = pa.array(i), pa.array(j, mask=j < 0)
    # taking from many chunks is slow
    columns = [left[name].combine_chunks().take(mine) for name in left.schema.names]
    columns += [right[name].combine_chunks().take(its) for name, _ in joining.kept]
    return pa.Table.from_arrays(columns, schema=joined_schema(left.schema, right.schema, joining))


def joined_schema(left: pa.Schema, right: pa.Schema, joining: Joining) -> pa.Schema:
    """Return the columns of the result."""
    kept = [right.field(old).with_name(new) for old, new in joining.kept]
    return pa.schema([*left, *(field.with_nullable(True) if joining.how == "left" else field for field in kept)])


def key_kind(kind: pa.DataType) -> str | None:
    """Return "integers" or "texts", None for a type whose values are no keys."""
    if pa.types.is_dictionary(kind):
        return key_kind(kind.value_type)
    if pa.types.is_integer(kind):
        return "integers"
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return "texts" if is_text else None


def rows_per_key(table: pa.Table, names: Iterable[str]) -> float:
    """Return the average number of rows that share a key."""
    codes = _codes(table.slice(0, 0), table, [(name, name) for name in names])
    known = codes[codes >= 0]
    return len(known) / max(len(np.unique(known)), 1)


def _pairs(left: pa.Table, right: pa.Table, on: Iterable[tuple[str, str]]) -> tuple[Indices, Indices]:
    """Return the left and right row of all pairs with equal keys, ordered by left, then right."""
    codes = _codes(left, right, on)
    mine, its = codes[: left.num_rows], codes[left.num_rows :]
    order = np.argsort(its, kind="stable")
    # one more than there are codes: where there is no key, -1 counts the last, which stays empty
    counts = np.bincount(its[its >= 0], minlength=int(codes.max(initial=-1)) + 2)
    first = (its < 0).sum() + np.cumsum(counts) - counts
    found = counts[mine]
    i = np.repeat(np.arange(len(mine)), found)
    offsets = np.arange(len(i)) - np.repeat(np.cumsum(found) - found, found)
    return i, order[np.repeat(first[mine], found) + offsets]


def _codes(left: pa.Table, right: pa.Table, on: Iterable[tuple[str, str]]) -> Indices:
    """Return a number from 0 for the key of each left row, then of each right row: equal keys, equal numbers.

    It is -1 where a column of the key is null.
    """
    codes, *others = (_column_codes(left[mine], right[its]) for mine, its in on)
    for more in others:
        known = (codes >= 0) & (more >= 0)
        both = codes[known] * (more.max(initial=0) + 1) + more[known]
        codes = np.full(len(codes), -1)
        codes[known] = np.unique(both, return_inverse=True)[1]
    return codes


def _column_codes(left: pa.ChunkedArray, right: pa.ChunkedArray) -> Indices:
    if key_kind(left.type) == "texts":
        kind = pa.large_string()
    else:
        kind = pa.uint64() if pa.uint64() in (left.type, right.type) else pa.int64()
    chunks = [chunk for column in (left, right) for chunk in _widened(column, kind).chunks]
    codes = pa.chunked_array(chunks, type=kind).combine_chunks().dictionary_encode().indices
    return codes.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def _widened(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if kind == pa.uint64() and column.type != kind:
        wide = column.cast(pa.int64())
        column = pc.if_else(pc.less(wide, 0), None, wide)  # no unsigned number equals a negative one
    return column.cast(kind)


def _are_near(left: pa.Table, right: pa.Table, i: Indices, j: Indices, near: Near) -> NDArray[np.bool_]:
    """Return for each pair whether its rows are within the reach, by the haversine formula."""
    ra, dec = (np.radians(left[name].to_numpy())[i] for name in near.left)
    its_ra, its_dec = (np.radians(right[name].to_numpy())[j] for name in near.right)
    square = np.sin((dec - its_dec) / 2) ** 2 + np.cos(dec) * np.cos(its_dec) * np.sin((ra - its_ra) / 2) ** 2
    return square <= np.sin(np.radians(near.reach) / 2) ** 2


def _with_unmatched(i: Indices, j: Indices, rows: int) -> tuple[Indices, Indices]:
    """Return the pairs with those of the left rows that are in none, and -1, in the order of the left rows."""
    alone = np.setdiff1d(np.arange(rows), i)
    place = np.searchsorted(i, alone)
    return np.insert(i, place, alone), np.insert(j, place, -1)
