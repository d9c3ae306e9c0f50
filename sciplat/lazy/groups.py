"""The plan nodes that make groups of rows near each other: of one catalog, and over many."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.errors import ArgumentError
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.lazy.around import cost_around, tasks_around
from sciplat.lazy.concat import widest_column
from sciplat.lazy.fingerprint import Record
from sciplat.lazy.node import Node, OverOne, row_bytes
from sciplat.sky.align import common_ranges, joined_cells
from sciplat.sky.angle import AngleLike, parse_angle
from sciplat.sky.cell import Cell, cell_ranges
from sciplat.sky.coverage import Coverage, Ranges
from sciplat.sky.surroundings import MAX_REACH, surroundings
from sciplat.steps.groups import CATALOGS_FIELD, GROUP_FIELDS, Linking, grouped_schema
from sciplat.tasks.groups import AroundTask, CrossmatchManyTask, GroupsTask
from sciplat.tasks.quote import Cost, rates

if TYPE_CHECKING:
    from sciplat.lazy.catalog import Catalog

_SMALLEST_RADIUS = 1 / 3.6e6  # degrees: rows of one order-29 cell, at most 0.83 mas across, are then of one group
_RADII = 30  # within the reach, unless it is given
_POINT_BYTES = 90  # of a row while groups are made: index, position, unit vector, its share of a tree; measured
_MEMBER_BYTES = 60  # of a row of many catalogs, on top: its catalog, its place there, the rows that stand for groups
_PLACE_BYTES = 24  # of a group's own index and position
_OWN_NAMES = (HEALPIX_COLUMN, "ra", "dec", *(field.name for field in (*GROUP_FIELDS, CATALOGS_FIELD)))
Kept = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Groups(OverOne):
    """Give the rows of a catalog the number and the size of their groups.

    Parameters
    ----------
    inner : Node
    places : Node
        The same rows with their positions, and as little else as can be.
    linking : Linking

    Raises
    ------
    ArgumentError
        If the catalog has such columns already.
    """

    places: Node
    linking: Linking

    def __post_init__(self) -> None:
        if taken := [field.name for field in GROUP_FIELDS if field.name in self.inner.schema.names]:
            raise ArgumentError(
                f"the catalog has a column {taken[0]!r} already",
                hint="leave it out with .select(...)",
            )

    @cached_property
    def schema(self) -> pa.Schema:
        """The catalog's columns, then `group_id` and `group_size`."""
        return grouped_schema(self.inner.schema)

    @cached_property
    def _ranges(self) -> Ranges:
        return cell_ranges(list(self.places.cells))

    def _outside(self, cell: Cell) -> Coverage:
        """Return what lies around a cell."""
        beside = np.array([(0, cell.start), (cell.stop, Cell(0, 11).stop)], dtype=np.int64)
        return Coverage.from_ranges(common_ranges(beside, surroundings(cell, self.linking.reach).ranges))

    def task(self, cell: Cell, cover: Coverage | None = None) -> GroupsTask:  # noqa: ARG002
        """Return the grouping of the whole cell, whatever the cover: groups go beyond it."""
        ra, dec = self.properties["position"]
        schema = pa.schema([self.places.schema.field(name) for name in (HEALPIX_COLUMN, ra, dec)])
        parts = tasks_around(self.places, self._ranges, self._outside(cell))
        return GroupsTask(self.inner.task(cell), AroundTask(cell, parts, schema), (ra, dec), self.linking)

    def cost(self, cell: Cell) -> Cost:
        """Return the inner cost, that of the positions around, and that of the groups."""
        inner, around = self.inner.cost(cell), cost_around(self.places, self._ranges, self._outside(cell))
        both, points = _added([inner, around]), inner.rows + around.rows
        size = inner.size + inner.rows * row_bytes(GROUP_FIELDS)
        memory = size + around.size + _POINT_BYTES * points
        return replace(
            both,
            rows=inner.rows,
            places=inner.places,
            size=size,
            memory=max(both.memory, memory),
            seconds=both.seconds + rates().nest * points,
        )

    def describe(self) -> Record:
        """Return the radius and the reach."""
        return {"op": "groups", "inner": self.inner.describe(), **_describe(self.linking)}


@dataclass(frozen=True)
class CrossmatchMany:
    """Make groups of the rows of many catalogs, and one row of each group.

    Parameters
    ----------
    catalogs : tuple of Node
    linking : Linking
    kept : tuple of tuple of (str, str)
        Columns of each, with their names in the result.

    Raises
    ------
    ArgumentError
        If the catalogs have different frames.
    """

    catalogs: tuple[Node, ...]
    linking: Linking
    kept: tuple[Kept, ...]

    def __post_init__(self) -> None:
        frames = list(dict.fromkeys(node.properties["frame"] for node in self.catalogs))
        if len(frames) > 1:
            raise ArgumentError(
                "the catalogs have different frames: their rows cannot be near each other",
                found=" and ".join(map(str, frames)),
                hint="ingest the others in the frame of the first",
            )

    @cached_property
    def schema(self) -> pa.Schema:
        """Index and position of the group, the columns of all catalogs, then number, size and catalogs of the group."""
        first = self.catalogs[0]
        position = zip(("ra", "dec"), first.properties["position"], strict=True)
        fields = [first.schema.field(HEALPIX_COLUMN)]
        fields += [first.schema.field(old).with_name(new).with_type(pa.float64()) for new, old in position]
        for node, names in zip(self.catalogs, self.kept, strict=True):
            fields += [node.schema.field(old).with_name(new).with_nullable(True) for old, new in names]
        return pa.schema([*fields, *GROUP_FIELDS, CATALOGS_FIELD])

    @property
    def properties(self) -> dict[str, Any]:
        """What all catalogs say, and rows per cell as the first has them."""
        first, *others = (node.properties for node in self.catalogs)
        both = {
            name: value
            for name, value in first.items()
            if name not in ("motion", "errors") and all(name in each and each[name] == value for each in others)
        }
        if isinstance(both.get("epoch"), dict):
            del both["epoch"]  # a column, which has another name now
        own = {"position": ["ra", "dec"], "id": None, "rows_per_cell": first["rows_per_cell"]}
        return {"kind": "sources", "epoch": None, **both, **own}

    @cached_property
    def cells(self) -> Sequence[Cell]:
        """Cells that cover all catalogs' cells, the finest ones where they meet."""
        return reduce(joined_cells, [list(node.cells) for node in self.catalogs])

    @cached_property
    def _ranges(self) -> list[Ranges]:
        return [cell_ranges(list(node.cells)) for node in self.catalogs]

    def task(self, cell: Cell, cover: Coverage | None = None) -> CrossmatchManyTask:  # noqa: ARG002
        """Return the grouping of the whole cell, whatever the cover: groups go beyond it."""
        around = surroundings(cell, self.linking.reach)
        parts = tuple(
            AroundTask(cell, tasks_around(node, ranges, around), node.schema)
            for node, ranges in zip(self.catalogs, self._ranges, strict=True)
        )
        positions = tuple((ra, dec) for ra, dec in (node.properties["position"] for node in self.catalogs))
        return CrossmatchManyTask(cell, parts, positions, self.kept, self.linking, self.schema)

    def cost(self, cell: Cell) -> Cost:
        """Return the cost of all catalogs, of the groups and of the result, as many rows as if none had a match."""
        around = surroundings(cell, self.linking.reach)
        sides = [cost_around(node, ranges, around) for node, ranges in zip(self.catalogs, self._ranges, strict=True)]
        read = _added(sides)
        rows = float(self.rows_in(cell_ranges([cell]))[0])
        widths = [side.size / side.rows for side in sides if side.rows]
        size = rows * (sum(widths) + row_bytes([*GROUP_FIELDS, CATALOGS_FIELD]) + _PLACE_BYTES)
        widest = max(widest_column(side, node.schema) for side, node in zip(sides, self.catalogs, strict=True))
        grouping = (_POINT_BYTES + _MEMBER_BYTES) * read.rows
        return replace(
            read,
            rows=rows,
            places=rows,
            size=size,
            memory=max(read.memory, read.size + grouping + size + widest),
            seconds=read.seconds + rates().nest * read.rows,
        )

    def describe(self) -> Record:
        """Return all catalogs, and which columns they give."""
        catalogs = [node.describe() for node in self.catalogs]
        columns = [[list(pair) for pair in names] for names in self.kept]
        return {"op": "crossmatch_many", "catalogs": catalogs, "columns": columns, **_describe(self.linking)}

    def rows_in(self, ranges: Ranges) -> NDArray[np.float64]:
        """Return the sum of all: how many are of one group is not known before they are read."""
        return np.asarray(np.sum([node.rows_in(ranges) for node in self.catalogs], axis=0))


def crossmatch_many(catalogs: "Sequence[Catalog]", *, radius: AngleLike, reach: AngleLike | None = None) -> "Catalog":
    """Bring the rows of many catalogs together that are of one group on the sky: one row for each group. Lazy.

    Two rows, of two catalogs or of one, are linked if they are within the radius of each other; chains of links make a
    group. Rows without a link are groups of their own: ``.where("catalogs > 1")`` leaves them out. Of a catalog with
    several rows in a group, the one nearest to the group's first row is shown (that with the smallest `_healpix_29`, of
    the first catalog that has it); `group_size` counts all of them.

    Positions are taken as they are: where stars move, bring the catalogs to one epoch first.

    Parameters
    ----------
    catalogs : sequence of Catalog
        At least two, of one frame.
    radius : angle
        1 mas to 3.3 deg; the limit is included.
    reach : angle, optional
        How far around its cell a group is looked for: no row of it may be farther than (reach - radius) / 2 from the
        group's first row. By default 30 radii; at least 3 radii, at most 10 deg.

    Returns
    -------
    Catalog
        `ra`, `dec`: the position of the group's row of the first catalog that has one; the columns of all catalogs,
        null where one has no row, with ``_1``, ``_2``, ... (the catalog's number) where the name is taken; `group_id`:
        the smallest `_healpix_29` in the group; `group_size`: its rows; `catalogs`: how many catalogs have a row.

    Raises
    ------
    ArgumentError
        If these are no catalogs, their frames differ, an angle is too small or too large, or a name would stand twice;
        and, when the rows are asked for, if a group is wider than the reach allows.
    """
    given: object = catalogs  # callers are not all checked for types
    listed = list(catalogs) if isinstance(given, list | tuple) else []
    if len(listed) < 2 or not all(hasattr(getattr(each, "node", None), "rows_in") for each in listed):
        raise ArgumentError(
            "crossmatch_many takes a list of two or more catalogs",
            found=", ".join(type(each).__name__ for each in listed) or type(given).__name__,
            hint="crossmatch_many([a, b, c], ...); for one catalog a.groups(...)",
        )
    nodes = tuple(catalog.node for catalog in catalogs)
    node = CrossmatchMany(nodes, parse_linking(radius, reach), _numbered([each.schema for each in nodes]))
    return replace(catalogs[0], node=node, store=None, stored=sum(catalog.stored for catalog in catalogs))


def parse_linking(radius: AngleLike, reach: AngleLike | None) -> Linking:
    """Return what is linked, and how far around a cell.

    Raises
    ------
    AngleError, ArgumentError
        If these are no angles, or too small or too large.
    """
    near = parse_angle(radius, what="radius")
    if not _SMALLEST_RADIUS <= near <= MAX_REACH / 3:
        raise ArgumentError(
            f"the radius of groups is {near:g} degrees", hint="it is at least 1 mas and at most 3.3 deg"
        )
    far = min(_RADII * near, MAX_REACH) if reach is None else parse_angle(reach, what="reach")
    if not 3 * near <= far <= MAX_REACH:
        raise ArgumentError(
            f"the reach of groups is {far:g} degrees, with a radius of {near:g} degrees",
            hint="it is at least 3 radii and at most 10 deg",
        )
    return Linking(near, far)


def _numbered(schemas: Sequence[pa.Schema]) -> tuple[Kept, ...]:
    """Return the columns of each catalog with their names in the result.

    Raises
    ------
    ArgumentError
        If a name is taken even with the number of its catalog.
    """
    taken, kept = Counter(_OWN_NAMES), []
    for number, schema in enumerate(schemas, 1):
        names = [name for name in schema.names if name != HEALPIX_COLUMN]
        kept.append(tuple((name, f"{name}_{number}" if name in taken else name) for name in names))
        taken.update(new for _, new in kept[-1])
    if twice := [name for name, count in taken.items() if count > 1]:
        raise ArgumentError(
            f"the result would have two columns {twice[0]!r}", hint="leave one of them out with .select(...)"
        )
    return tuple(kept)


def _added(costs: Sequence[Cost]) -> Cost:
    """Return the cost of tasks that run one after the other, while their rows are held."""
    held = np.cumsum([0.0, *(cost.size for cost in costs)])
    sums = {name: sum(getattr(cost, name) for cost in costs) for name in ("read", "requests", "rows", "seconds")}
    memory = max(float(before) + cost.memory for before, cost in zip(held, costs, strict=False))
    return Cost(**sums, size=float(held[-1]), memory=memory)


def _describe(linking: Linking) -> Record:
    return {"radius": linking.radius, "reach": linking.reach}
