"""Rows that are near each other become groups: within one catalog, or over the rows of many."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.errors import ArgumentError
from sciplat.sky.cell import Cell
from sciplat.sky.surroundings import MAX_REACH
from sciplat.steps.sort import stable_order

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]
_POSITION = "_healpix_29"
GROUP_FIELDS = (
    pa.field(
        "group_id",
        pa.int64(),
        nullable=False,
        metadata={"ucd": "meta.id.parent", "description": "smallest _healpix_29 among the rows of the group"},
    ),
    pa.field(
        "group_size",
        pa.int64(),
        nullable=False,
        metadata={"ucd": "meta.number", "description": "rows of the group"},
    ),
)
CATALOGS_FIELD = pa.field(
    "catalogs",
    pa.int64(),
    nullable=False,
    metadata={"ucd": "meta.number", "description": "catalogs that have a row in the group"},
)


@dataclass(frozen=True)
class Linking:
    """Which rows are linked, and how far around a cell they are looked for.

    Parameters
    ----------
    radius : float
        Degrees, at least 1 mas, so that rows of one order-29 cell are always of one group; the limit is included.
    reach : float
        Degrees: all rows within this distance of any place in a cell are there when its groups are made.
    """

    radius: float
    reach: float

    @property
    def extent(self) -> float:
        """Degrees that a row of a group may be away from the group's first row.

        Take a group that holds a row p of the cell, and is not whole: it has a row m with a neighbour, within
        `radius`, that was not read. The neighbour is farther from p than `reach`, hence m is farther from p than
        reach - radius, hence one of the two is farther than half of that from the first row, whichever that is. So a
        group all of whose rows are within (reach - radius) / 2 of its first row is whole; and if one is refused, the
        whole group is too wide as well: whether there is an error does not depend on the cells.
        """
        return (self.reach - self.radius) / 2


@dataclass(frozen=True)
class Groups:
    """The groups of some rows.

    Parameters
    ----------
    index : ndarray of int64, shape (n,)
        Order-29 indices, sorted.
    ra, dec : ndarray of float64, shape (n,)
        Degrees.
    first, size : ndarray of int64, shape (n,)
        The first row of each row's group, and how many rows it has (the latter at the first row only).
    square : ndarray of float64, shape (n,)
        sin^2(d/2) of the distance from the group's first row.
    """

    index: Indices
    ra: Floats
    dec: Floats
    first: Indices
    size: Indices
    square: Floats


def group_rows(own: pa.Table, around: pa.Table, position: tuple[str, str], linking: Linking) -> pa.Table:
    """Return the rows of a cell with the number and the size of their groups.

    Parameters
    ----------
    own : pyarrow.Table
        The rows of the cell, sorted by `_healpix_29`.
    around : pyarrow.Table
        Those around it: `_healpix_29` and the position, sorted; none of them lies in the cell.
    position : tuple of str
        Names of the right ascension and declination.
    linking : Linking

    Returns
    -------
    pyarrow.Table
        The rows of the cell, with `group_id` and `group_size`.

    Raises
    ------
    ArgumentError
        If a group is too wide to be sure that it is whole.
    """
    if not own.num_rows:
        return grouped_schema(own.schema).empty_table()
    before = int(np.searchsorted(around[_POSITION].to_numpy(), own[_POSITION][0].as_py()))
    parts = [around.slice(0, before), own.select([_POSITION, *position]), around.slice(before)]
    index = np.concatenate([part[_POSITION].to_numpy() for part in parts])
    ra, dec = (np.concatenate([_degrees(part, name) for part in parts]) for name in position)
    groups = find_groups(index, ra, dec, linking)
    inside = slice(before, before + own.num_rows)
    _whole_groups(groups, inside, linking)
    first = groups.first[inside]
    columns = [*own.columns, pa.array(index[first]), pa.array(groups.size[first])]
    return pa.table(columns, schema=grouped_schema(own.schema))


def group_catalogs(
    tables: Sequence[pa.Table],
    positions: Sequence[tuple[str, str]],
    kept: Sequence[Sequence[tuple[str, str]]],
    linking: Linking,
    cell: Cell,
    schema: pa.Schema,
) -> pa.Table:
    """Return the groups of many catalogs' rows, one row for each group whose own position lies in a cell.

    Parameters
    ----------
    tables : sequence of pyarrow.Table
        The rows of each catalog in the cell and around it, sorted by `_healpix_29`.
    positions : sequence of tuple of str
        Names of the right ascension and declination in each.
    kept : sequence of sequence of (str, str)
        Columns of each, with their names in the result.
    linking : Linking
    cell : Cell
    schema : pyarrow.Schema
        Of the result.

    Returns
    -------
    pyarrow.Table
        Index and position of the group's row of the first catalog that has one, the kept columns, then number, size and
        catalogs of the group. Sorted by `_healpix_29`, which no two groups share.

    Raises
    ------
    ArgumentError
        If a group is too wide to be sure that it is whole.
    """
    groups, catalog, row = _groups_of_many(tables, positions, linking)
    inside = (groups.index >= cell.start) & (groups.index < cell.stop)
    first = _whole_groups(groups, inside, linking)
    member = _members(groups, first, catalog, len(tables))
    own = member[np.arange(len(member)), (member >= 0).argmax(axis=1)]
    chosen = np.flatnonzero(inside[own])  # the other groups belong to other cells
    chosen = chosen[np.argsort(groups.index[own[chosen]])]
    first, member, own = first[chosen], member[chosen], own[chosen]
    columns = [groups.index[own], groups.ra[own], groups.dec[own]]
    for number, (table, names) in enumerate(zip(tables, kept, strict=True)):
        its = member[:, number]
        places = pa.array(row[its], mask=its < 0)
        columns += [table[name].combine_chunks().take(places) for name, _ in names]
    columns += [groups.index[first], groups.size[first], (member >= 0).sum(axis=1)]
    arrays = [pa.array(each) if isinstance(each, np.ndarray) else each for each in columns]
    return pa.Table.from_arrays(arrays, schema=schema)


def grouped_schema(own: pa.Schema) -> pa.Schema:
    """Return the columns of rows with their groups."""
    return pa.schema([*own, *GROUP_FIELDS])


def find_groups(index: Indices, ra: Floats, dec: Floats, linking: Linking) -> Groups:
    """Return the groups of rows that are sorted along the sky; all shapes are (n,).

    Rows without a position, which other writers may have, are groups of their own.
    """
    from sciplat.kernels.groups import group_scratch, link_rows, measure_groups  # numba

    placed = np.isfinite(ra) & (np.abs(dec) <= 90)
    if not placed.all():
        rows = np.flatnonzero(placed)
        found = find_groups(index[rows], ra[rows], dec[rows], linking)
        first, size, square = np.arange(len(index)), np.ones(len(index), np.int64), np.zeros(len(index))
        first[rows], size[rows], square[rows] = rows[found.first], found.size, found.square
        return Groups(index, ra, dec, first, size, square)
    first, size = np.empty(len(index), np.int64), np.empty(len(index), np.int64)
    square = np.empty(len(index))
    vectors, boxes, pairs = group_scratch(len(index))
    link_rows(ra, dec, linking.radius, np.empty(vectors), np.empty(boxes), np.empty(pairs, np.int64), first)
    measure_groups(ra, dec, first, size, square)
    return Groups(index, ra, dec, first, size, square)


def _degrees(table: pa.Table, name: str) -> Floats:
    return table[name].to_numpy().astype(np.float64, copy=False)


def _groups_of_many(
    tables: Sequence[pa.Table], positions: Sequence[tuple[str, str]], linking: Linking
) -> tuple[Groups, Indices, Indices]:
    """Return the groups of all rows, sorted along the sky, then by catalog; and each row's catalog and place there."""
    index = np.concatenate([table[_POSITION].to_numpy() for table in tables])
    order = stable_order(index)
    ra, dec = (
        np.concatenate([_degrees(table, pair[axis]) for table, pair in zip(tables, positions, strict=True)])[order]
        for axis in (0, 1)
    )
    starts = np.cumsum([0, *(table.num_rows for table in tables)])
    catalog = np.searchsorted(starts, order, side="right") - 1
    return find_groups(index[order], ra, dec, linking), catalog, order - starts[catalog]


def _members(groups: Groups, first: Indices, catalog: Indices, catalogs: int) -> Indices:
    """Return the row that stands for each catalog in each of some groups, -1 for none; shape (groups, catalogs)."""
    from sciplat.kernels.groups import choose_members  # numba

    number = np.full(len(groups.index), -1)
    number[first] = np.arange(len(first))
    wanted = np.flatnonzero(number[groups.first] >= 0)
    member = np.empty((len(first), catalogs), np.int64)
    choose_members(number[groups.first[wanted]], catalog[wanted], groups.square[wanted], member)
    return np.where(member >= 0, wanted[member], -1)


def _whole_groups(groups: Groups, inside: slice | NDArray[np.bool_], linking: Linking) -> Indices:
    """Return the first rows of the groups of some rows; refuse groups that may go on where nothing was read."""
    touched = np.zeros(len(groups.index), np.bool_)
    touched[groups.first[inside]] = True
    outside = np.flatnonzero((groups.square > np.sin(np.radians(linking.extent / 2)) ** 2) & touched[groups.first])
    if not outside.size:
        return np.flatnonzero(touched)
    row = outside[np.argmax(groups.square[outside])]
    away = float(np.degrees(2 * np.arcsin(np.sqrt(groups.square[row]))))
    home, reach = groups.first[row], min(2 * linking.reach, MAX_REACH)
    larger = f'reach="{_in_words(reach)}", or ' if reach > linking.reach else ""
    raise ArgumentError(
        f"the group around ra {groups.ra[home]:.6f}, dec {groups.dec[home]:.6f} reaches farther than "
        f"{_in_words(linking.extent)} from its first row: it may go on beyond what was read",
        found=f"a member {_in_words(away)} away; {groups.size[home]:,} rows so far",
        hint=f"{larger}a smaller radius, so that fewer rows are linked",
    )


def _in_words(degrees: float) -> str:
    size, unit = next((pair for pair in ((1.0, "deg"), (1 / 60, "arcmin")) if degrees >= pair[0]), (1 / 3600, "arcsec"))
    return f"{degrees / size:.4g} {unit}"
