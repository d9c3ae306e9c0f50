"""The rows of a cross-match: pairs, and what stands alone, with the columns of both catalogs."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.errors import ArgumentError
from sciplat.steps.crossmatch import How, Matches, Matching, Placed, matches, placed
from sciplat.steps.pairs import Indices, separations
from sciplat.steps.sort import stable_order

_INDEX = "_healpix_29"
_OWN = ("ra", "dec")
_LEFT_NULLS, _RIGHT_NULLS = ("right", "outer", "xor"), ("left", "outer", "xor")
BOTH_SIDES = ("right", "outer", "xor")  # that have rows of the right catalog alone


@dataclass(frozen=True)
class Layout:
    """The columns of the result.

    Parameters
    ----------
    how : {"inner", "left", "right", "outer", "anti", "xor"}
    schema : pyarrow.Schema
    mine, its : tuple of (str, str)
        Columns of the left and the right catalog with their names in the result.
    measured : tuple of (str, str)
        What is said of each pair, with its names in the result.
    """

    how: How
    schema: pa.Schema = field(repr=False)
    mine: tuple[tuple[str, str], ...]
    its: tuple[tuple[str, str], ...]
    measured: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Completeness:
    """What became of the left rows.

    Parameters
    ----------
    rows, matched, unmatched, out_of_coverage : int
        The last are those without a match where the right catalog has no rows near.
    """

    rows: int = 0
    matched: int = 0
    unmatched: int = 0
    out_of_coverage: int = 0


def layout(left: pa.Schema, right: pa.Schema, matching: Matching, how: How, suffix: str) -> Layout:
    """Return the columns of a cross-match.

    Raises
    ------
    ArgumentError
        If two of them would have one name.
    """
    if how == "anti":
        return Layout(how, left, tuple((name, name) for name in left.names), ())
    position = matching.left.position
    is_own = {own for own, name in zip(_OWN, position, strict=True) if own == name}
    mine = [name for name in left.names if name != _INDEX and name not in is_own]
    if clash := [name for name in mine if name in _OWN]:
        raise ArgumentError(
            f"the result has a {clash[0]!r} of its own, and the left catalog such a column that means something else",
            found=f"its right ascension and declination are {' and '.join(position)}",
            hint=f"leave {clash[0]!r} out with .select(...), or ingest it under another name",
        )
    taken = {_INDEX, *_OWN, *mine}
    its = [(name, f"{name}{suffix}" if name in taken else name) for name in right.names if name != _INDEX]
    places = zip(_OWN, position, strict=True)
    fields = [left.field(_INDEX), *(left.field(name).with_name(own).with_type(pa.float64()) for own, name in places)]
    fields += [_nullable(left.field(name), how in _LEFT_NULLS) for name in mine]
    fields += [_nullable(right.field(old).with_name(new), how in _RIGHT_NULLS) for old, new in its]
    taken |= {new for _, new in its}
    said = _measured(matching, how)
    measured = [(each.name, _free_name(each.name, suffix, taken)) for each in said]
    fields += [each.with_name(name) for each, (_, name) in zip(said, measured, strict=True)]
    counts = Counter(each.name for each in fields)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ArgumentError(f"the result would have two columns {twice[0]!r}", hint="another suffix=")
    return Layout(how, pa.schema(fields), tuple((name, name) for name in mine), tuple(its), tuple(measured))


def _free_name(name: str, suffix: str, taken: set[str]) -> str:
    while name in taken and suffix:
        name += suffix
    return name


def _measured(matching: Matching, how: How) -> list[pa.Field]:
    """Return what is said of each pair."""
    if how == "xor":
        return []
    about = {"separation": ("arcsec", "Angle between the two rows")}
    if matching.left.errors is not None:
        about["sigma"] = "", "Separation in combined standard deviations of both positions"
    if matching.density_order is not None:
        about["match_probability"] = "", "Probability that both rows are one source"
        about["no_match_probability"] = "", "Probability that the left row has no counterpart"
    fields = []
    for name, (unit, description) in about.items():
        metadata = {"description": description} | ({"unit": unit} if unit else {})
        fields.append(pa.field(name, pa.float64(), metadata=metadata))
    if matching.left.moving is not None or matching.right.moving is not None:
        told = {"description": "One of the rows should have been moved to the common epoch and has no motion"}
        fields.append(pa.field("motion_missing", pa.bool_(), metadata=told))
    return fields


def _nullable(column: pa.Field, nulls: bool) -> pa.Field:  # noqa: FBT001
    return column.with_nullable(True) if nulls else column


def crossmatch(
    left: pa.Table,
    right: pa.Table,
    span: tuple[int, int],
    matching: Matching,
    layout: Layout,
    coverage: NDArray[np.int64],
) -> tuple[pa.Table, Completeness]:
    """Match the rows of a cell.

    Parameters
    ----------
    left, right : pyarrow.Table
        Rows of the cell and of its surroundings, sorted by `_healpix_29`.
    span : tuple of int
        The cell's range of order-29 indices, half open.
    matching : Matching
    layout : Layout
    coverage : ndarray of int64, shape (n, 2)
        Ranges in which the right catalog has rows near.

    Returns
    -------
    pyarrow.Table
        Rows whose own position lies in the cell, sorted by `_healpix_29`.
    Completeness
        Of the left rows in the cell.
    """
    frame = matching.left.frame
    mine, its = placed(left, matching.left, frame), placed(right, matching.right, frame)
    found = matches(mine, its, matching)
    first, last = np.searchsorted(mine.index, span)
    here = (found.left >= first) & (found.left < last)
    inside = found if here.all() else found.kept(here)
    alone = first + _unmarked(inside.left - first, int(last - first))
    about = _completeness(last - first, mine.index[alone], coverage)
    if layout.how == "anti":
        return pa.Table.from_arrays(_taken(left, alone).columns, schema=left.schema), about
    only_right = np.empty(0, np.int64)
    if layout.how in BOTH_SIDES:
        only_right = _only_right(its, found, span)
    if layout.how == "xor":
        inside = found.kept(np.empty(0, np.int64))
    rows = _Rows.of(inside, alone if layout.how in _RIGHT_NULLS else alone[:0], only_right, mine, its)
    return _table(left, right, rows, mine, its, layout), about


def _completeness(rows: int, alone: Indices, coverage: NDArray[np.int64]) -> Completeness:
    begun = np.searchsorted(coverage[:, 0], alone, side="right")
    outside = int((begun == np.searchsorted(coverage[:, 1], alone, side="right")).sum())
    return Completeness(int(rows), int(rows) - len(alone), len(alone) - outside, outside)


def _only_right(its: Placed, found: Matches, span: tuple[int, int]) -> Indices:
    """Return the right rows in the cell that no left row has, in the order of their places."""
    rows = _unmarked(found.right, len(its.index))
    rows = rows[(its.index[rows] >= span[0]) & (its.index[rows] < span[1])]
    return rows[np.argsort(its.index[rows], kind="stable")]


def _unmarked(marks: Indices, size: int) -> Indices:
    """Return the numbers below `size` that are not among some."""
    left = np.ones(size, bool)
    left[marks] = False
    return np.flatnonzero(left)


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of the result: their left and right rows and their pair, -1 where there is none."""

    left: Indices
    right: Indices
    pair: Indices
    matches: Matches

    @classmethod
    def of(cls, found: Matches, alone: Indices, only_right: Indices, mine: Placed, its: Placed) -> "_Rows":
        """Put pairs, left rows without a match and right rows without one into the order of the sky."""
        i, j, pair = found.left, found.right, np.arange(len(found.left))
        if len(alone):
            i, j = np.concatenate([i, alone]), np.concatenate([j, np.full(len(alone), -1)])
            order = np.argsort(i, kind="stable")
            i, j, pair = i[order], j[order], np.concatenate([pair, np.full(len(alone), -1)])[order]
        if len(only_right):
            order = stable_order(np.concatenate([mine.index[i], its.index[only_right]]))
            nothing = np.full(len(only_right), -1)
            i, j, pair = (np.concatenate(both)[order] for both in ((i, nothing), (j, only_right), (pair, nothing)))
        return cls(i, j, pair, found)


def _table(left: pa.Table, right: pa.Table, rows: _Rows, mine: Placed, its: Placed, layout: Layout) -> pa.Table:
    """Return the columns of the result."""
    columns = [_own(mine.index, its.index, rows), _own(mine.ra, its.ra, rows), _own(mine.dec, its.dec, rows)]
    columns += _taken(left.select([old for old, _ in layout.mine]), rows.left).columns
    columns += _taken(right.select([old for old, _ in layout.its]), rows.right).columns
    columns += [_said(name, rows, mine, its) for name, _ in layout.measured]
    return pa.Table.from_arrays(columns, schema=layout.schema)


def _own(mine: NDArray[Any], its: NDArray[Any], rows: _Rows) -> pa.Array:
    """Return what places the rows: of the left row, else of the right one."""
    alone = rows.left < 0
    if not alone.any():
        return pa.array(mine[rows.left])
    values = np.empty(len(alone), mine.dtype)
    values[alone], values[~alone] = its[rows.right[alone]], mine[rows.left[~alone]]
    return pa.array(values)


def _said(name: str, rows: _Rows, mine: Placed, its: Placed) -> pa.Array:
    """Return one of the columns that say something of each pair, or of its rows; nulls where there is none."""
    found = rows.matches
    if name == "motion_missing":
        return pa.array(_are_missing(mine, rows.left) | _are_missing(its, rows.right))
    values = {"sigma": found.sigma, "match_probability": found.match, "no_match_probability": found.none}.get(name)
    if values is None:
        values = 3600 * separations(found.square)
    places = rows.left if name == "no_match_probability" else rows.pair
    absent = places < 0
    some = values[places] if len(values) else np.zeros(len(places))
    return pa.array(some, mask=absent if absent.any() else None)


def _are_missing(side: Placed, rows: Indices) -> NDArray[np.bool_]:
    """Return for each row whether it should have been moved and has no motion; False for -1."""
    if side.missing is None or not len(side.missing):
        return np.zeros(len(rows), bool)
    missing: NDArray[np.bool_] = side.missing[rows] & (rows >= 0)
    return missing


def _taken(table: pa.Table, rows: Indices) -> pa.Table:
    """Return rows of a table, nulls for -1."""
    if len(rows) == table.num_rows and np.array_equal(rows, np.arange(len(rows))):
        return table  # a copy would be made for nothing
    absent = rows < 0
    places = pa.array(rows, mask=absent if absent.any() else None)
    # taking from many chunks is slow
    columns = [column.combine_chunks().take(places) for column in table.columns]
    return pa.Table.from_arrays(columns, names=table.schema.names)
