"""The plan node that matches two catalogs by the places of their rows on the sky."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.errors import ArgumentError
from sciplat.io.staging import Tally
from sciplat.lazy.around import cells_around, cost_around, rows_coverage, tasks_around, united
from sciplat.lazy.concat import widest_column
from sciplat.lazy.fingerprint import Record
from sciplat.lazy.matching import HOWS, is_one_of, parse_matching
from sciplat.lazy.node import Node, OverOne, Scan, Select, extent_of, row_bytes
from sciplat.lazy.pair_count import FEW, pair_count
from sciplat.lazy.reach import Far, far_errors, far_moves
from sciplat.lazy.where import WithColumns
from sciplat.sky.align import added_cells, common_ranges
from sciplat.sky.cell import MAX_ORDER, Cell, cell_ranges, healpix_29, positions_29
from sciplat.sky.coverage import CELL_RADIUS, Coverage, Ranges
from sciplat.sky.region import Cone
from sciplat.sky.surroundings import surroundings
from sciplat.steps.crossmatch import SURE, How, Matching
from sciplat.steps.matched import BOTH_SIDES, Layout, layout
from sciplat.tasks.crossmatch import CrossmatchTask
from sciplat.tasks.quote import Cost, rates
from sciplat.tasks.task import Task

_POINT_BYTES = 90  # of a row while it is matched: index, position, rank, run, its place in the table of cells
_PAIR_BYTES = 64  # of a pair: two rows and a distance, listed, sorted and taken
_SIGMA_BYTES = 32  # more where errors count: standard deviations, a density, the order by distance
_RASTER = 4  # orders: a cell of another frame is taken for 256 small ones
_LEAST_REACH, _FARTHEST = 1e-9, 11.0  # degrees: the largest radius, and some motion
_REMEMBERED = 2048  # cells whose surroundings are known: many small ones share the cell in which a prior is estimated
_LEFT_ROWS = ("inner", "left", "anti")  # hows whose rows are rows of the left catalog


Both = tuple[Coverage, Coverage]  # one for each catalog, in its frame
Known = TypeVar("Known")


@dataclass(frozen=True)
class Crossmatch(OverOne):
    """Match the rows of a catalog with those of another one.

    Parameters
    ----------
    inner, other : Node
        The left and the right catalog.
    matching : Matching
    how : {"inner", "left", "right", "outer", "anti", "xor"}
    suffix : str
        Of the other's columns whose names are taken.
    asked : dict
        What was asked for, for the record.

    Raises
    ------
    ArgumentError
        If two columns would have one name, or how far to look is not known or farther than 10 deg.
    """

    other: Node
    matching: Matching
    how: How
    suffix: str
    asked: Record

    def __post_init__(self) -> None:
        _ = self.layout

    @cached_property
    def layout(self) -> Layout:
        """The columns of the result."""
        return layout(self.inner.schema, self.other.schema, self.matching, self.how, self.suffix)

    @property
    def schema(self) -> pa.Schema:
        """Index and position of the result, the left columns, the right ones, and what is said of each pair."""
        return self.layout.schema

    @property
    def properties(self) -> dict[str, Any]:
        """The left catalog's; where rows of the right one stand among them, only what holds for both."""
        mine, its = self.inner.properties, self.other.properties
        if self.how == "anti":
            return mine
        own = {**mine, "position": ["ra", "dec"]}
        if self.how not in BOTH_SIDES:
            return own
        same = mine.get("epoch") == its.get("epoch")
        kept = {name: value for name, value in own.items() if name not in ("motion", "errors")}
        return {**kept, "id": None, "epoch": mine.get("epoch") if same else None}

    @property
    def keeps_left(self) -> bool:
        """Whether each row comes from a left row, and which right rows it gets does not depend on other left rows."""
        alone = self.matching.find != "mutual" and self.matching.density_order is None
        return alone and self.how in _LEFT_ROWS

    def keeps(self, columns: Iterable[str]) -> bool:
        """Return whether the columns are the left catalog's, and each row comes from one of it."""
        return self.how in _LEFT_ROWS and super().keeps(columns)

    @property
    def extent(self) -> Coverage | None:
        """A coverage that holds all rows, None where it is not known."""
        return extent_of(self.inner) if self.how in _LEFT_ROWS else None

    @cached_property
    def _ranges(self) -> tuple[Ranges, Ranges]:
        return cell_ranges(list(self.inner.cells)), cell_ranges(list(self.other.cells))

    @cached_property
    def _moves(self) -> tuple[Far, Far]:
        return far_moves(self.inner, self.matching.left), far_moves(self.other, self.matching.right)

    @cached_property
    def _errors(self) -> tuple[Far, Far]:
        return far_errors(self.inner, self.matching.left), far_errors(self.other, self.matching.right)

    @cached_property
    def _farthest(self) -> float:
        """How far partners may stand from each other anywhere, in degrees."""
        return self._reach_of(None)

    def _reach(self, cell: Cell) -> float:
        """Return how far from any place in a cell the partners of its rows may stand, in degrees."""
        if not any(len(far.degrees) for far in (*self._moves, *self._errors)):
            return self._farthest
        return self._reach_of(self._both_around(cell, 2 * self._farthest))

    def _both_around(self, cell: Cell, reach: float) -> Both:
        """Return the surroundings of a cell in the frames of both catalogs."""
        around = surroundings(cell, reach)
        return around, self._turned(cell, reach) if self._is_turned else around

    def _reach_of(self, around: Both | None) -> float:
        """Return how far partners may stand from each other at most, of all rows or of those in coverages."""
        moves = sum(_largest(self._moves, around))
        reach = self._apart(around) + moves
        if reach > _FARTHEST:
            unbound = "give a radius= as well, or " if self.matching.radius is None else ""
            raise ArgumentError(
                f"partners of a row may stand farther than {_FARTHEST:g} deg from it",
                found=f"{reach:.4g} deg, of which {moves:.3g} deg by motions",
                hint=f"{unbound}.write(...) the rows without such motions or errors to a store, and match that",
            )
        return reach

    def _apart(self, around: Both | None) -> float:
        """Return how far partners may be from each other at the common epoch, of rows as for `_reach_of`."""
        matching = self.matching
        if matching.left.errors is None:
            return max(matching.radius or 0.0, _LEAST_REACH)
        scatter = matching.listed_sigma * math.hypot(*_largest(self._errors, around)) * SURE
        if matching.radius is not None and matching.density_order is None:
            scatter = min(scatter, matching.radius)
        return max(scatter, _LEAST_REACH)

    def _home(self, cell: Cell) -> Cell:
        """Return the cell whose rows decide: where a prior is estimated, no finer than that asks for."""
        order = self.matching.density_order
        if order is None or cell.order <= order:
            return cell
        return Cell(order, cell.index >> 2 * (cell.order - order))

    def _left_around(self, cell: Cell) -> Coverage | None:
        """Return where the left rows stand that a task needs; None if these are the cell's own."""
        home = self._home(cell)
        around, _ = self._around(home)
        return Coverage.from_cells([home]) if around is None and home != cell else around

    def _right_around(self, cell: Cell) -> Coverage:
        """Return where the right rows stand that a task needs, in their own frame."""
        return self._around(self._home(cell))[1]

    def _around(self, home: Cell) -> tuple[Coverage | None, Coverage]:
        """Return where left rows around a cell count, None if they do not, and right ones, in their own frame."""
        return _remembered(self._known, home, self._look_around)

    @cached_property
    def _known(self) -> dict[Cell, tuple[Coverage | None, Coverage]]:
        return {}

    def _look_around(self, home: Cell) -> tuple[Coverage | None, Coverage]:
        reach, wide = self._reach(home), 2 if self.how in BOTH_SIDES else 1
        left = None
        if self.matching.find == "mutual" or self.how in BOTH_SIDES:
            left = surroundings(home, reach * (2 if self.matching.find == "mutual" else 1))
        right = self._turned(home, wide * reach) if self._is_turned else surroundings(home, wide * reach)
        return left, right

    @property
    def _is_turned(self) -> bool:
        return self.matching.left.frame != self.matching.right.frame

    def _turned(self, cell: Cell, reach: float, *, back: bool = False) -> Coverage:
        """Return what holds the surroundings of a cell of the left frame in the right one, or the other way round."""
        from sciplat.sky.frame import turned

        frames = self.matching.left.frame, self.matching.right.frame
        centre = positions_29(np.array([cell.start + 3 * (cell.stop - cell.start) // 4]))
        ra, dec = (float(value[0]) for value in turned(*centre, *(frames[::-1] if back else frames)))
        radius = min(CELL_RADIUS / 2**cell.order + reach, 180.0)
        return Cone(f"{ra!r} deg", f"{dec!r} deg", f"{radius!r} deg").cover()

    @cached_property
    def cells(self) -> Sequence[Cell]:
        """The left cells, without those that have nothing around them to match; and what else has right rows."""
        cells = list(self.inner.cells)
        if self.how == "inner":
            cells = [cell for cell in cells if self._has_right(cell)]
        return added_cells(cells, self._right_cells) if self.how in BOTH_SIDES else cells

    @property
    def tally(self) -> Tally:
        """What becomes of the left rows in cells that are not read, because there is nothing to match around them."""
        left_out = set(self.inner.cells).difference(self.cells)
        if not left_out:
            return {}
        scan = self.inner
        if not isinstance(scan, Scan) or scan.cover is not None or scan.bounds or not scan.store.has_digests:
            return {"completeness": {"cells_not_read": len(left_out)}}
        rows = sum(entry.file.rows for entry in scan.store.entries if entry.cell in left_out)
        return {"completeness": {"rows": rows, "out_of_coverage": rows}}

    def _has_right(self, cell: Cell) -> bool:
        if not self._is_turned and len(common_ranges(cell_ranges([cell]), self._ranges[1])):
            return True  # without a look around
        return bool(cells_around(self.other, self._ranges[1], self._right_around(cell)))

    @cached_property
    def _right_cells(self) -> list[Cell]:
        """The right cells, in the left frame."""
        if not self._is_turned:
            return list(self.other.cells)
        return united(self._turned(cell, _LEAST_REACH, back=True) for cell in self.other.cells).cells

    @cached_property
    def _coverage(self) -> Coverage:
        """Where the right catalog has rows near, in the left frame."""
        return Coverage.from_cells(self._right_cells) if self._is_turned else rows_coverage(self.other)

    def task(self, cell: Cell, cover: Coverage | None = None) -> CrossmatchTask:
        """Return the matching of a cell's rows with the right rows around them."""
        around = self._left_around(cell)
        left: tuple[Task, ...]
        if around is not None:
            left = tasks_around(self.inner, self._ranges[0], around)
        else:
            left = (self.inner.task(cell, cover if self.keeps_left else None),)
        right = tasks_around(self.other, self._ranges[1], self._right_around(cell))
        near = self._coverage.clipped(cell.start, cell.stop, limit=len(self._coverage.ranges))
        return CrossmatchTask(
            cell, left, right, (self.inner.schema, self.other.schema), self.matching, self.layout, near
        )

    def cost(self, cell: Cell) -> Cost:
        """Return the cost of reading both sides and of holding all pairs."""
        left, right, listed, found = _remembered(self._needed, self._home(cell), lambda _: self._needs(cell))
        rows = self._rows(cell, found)
        varied = _varied_bytes(left, self.inner) + (0.0 if self.how == "anti" else _varied_bytes(right, self.other))
        size = rows * (row_bytes(self.schema) + varied)
        read = max(left.memory, left.size + right.memory)
        held = left.size + right.size + _POINT_BYTES * (left.rows + right.rows)
        held += (_PAIR_BYTES + (_SIGMA_BYTES if self.matching.left.errors else 0)) * listed
        held += size + max(widest_column(left, self.inner.schema), widest_column(right, self.other.schema))
        return Cost(
            read=left.read + right.read,
            requests=left.requests + right.requests,
            rows=rows,
            places=min(rows, left.places + right.places),
            size=size,
            memory=max(read, held),
            seconds=left.seconds + right.seconds + rates().nest * (left.rows + right.rows + listed) / 4,
        )

    @cached_property
    def _needed(self) -> dict[Cell, tuple[Cost, Cost, float, float]]:
        return {}

    def _needs(self, cell: Cell) -> tuple[Cost, Cost, float, float]:
        """Return the costs of both sides, and how many pairs are listed and found."""
        left_around, around = self._left_around(cell), self._right_around(cell)
        left = self.inner.cost(cell) if left_around is None else cost_around(self.inner, self._ranges[0], left_around)
        right = cost_around(self.other, self._ranges[1], around)
        return left, right, *self._pairs(cell, left, right, around)

    def _pairs(self, cell: Cell, left: Cost, right: Cost, around: Coverage) -> tuple[float, float]:
        """Return how many pairs a task is expected to list, and how many of them are wanted."""
        matching = self.matching
        lists_all = matching.find == "all" or matching.left.errors is not None
        most = left.rows * min(matching.neighbours, right.rows)
        # as many as if each place of one side had a counterpart
        same = left.rows * right.rows / max(_places(left), _places(right), 1.0)
        listed = same
        if lists_all or most > same:
            home = self._home(cell)
            apart = self._apart(self._both_around(home, self._reach(home)) if matching.left.errors else None)
            evenly = left.rows * right.rows * min(math.pi * apart**2 / around.area, 1.0)
            listed = max(same, evenly)
            if left.rows * right.rows > FEW:
                there = self._there if self._is_turned else None
                listed = max(listed, pair_count(self.inner, self.other, home, apart, right.rows, there))
            listed = min(listed, left.rows * right.rows)
        nearest = min(listed, most)
        found = {"nearest": nearest, "mutual": min(nearest, right.rows), "all": listed}[matching.find]
        return (listed if lists_all else nearest), found

    def _there(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices that places of the left frame have in the right one."""
        from sciplat.sky.frame import turned

        return healpix_29(*turned(*positions_29(index), self.matching.left.frame, self.matching.right.frame))

    def _rows(self, cell: Cell, found: float) -> float:
        """Return the expected rows of the result, given the pairs."""
        mine = float(self.inner.rows_in(cell_ranges([cell]))[0])
        its = self._right_rows(cell) if self.how in BOTH_SIDES else 0.0
        expected = {"inner": found, "right": max(found, its), "anti": mine, "xor": mine + its}
        return expected.get(self.how, max(found, mine) + its)

    def _right_rows(self, cell: Cell) -> float:
        """Return the expected right rows in a cell of the left frame."""
        if not self._is_turned:
            return float(self.other.rows_in(cell_ranges([cell]))[0])
        # as many cells of the right frame as fill it, at places spread over it
        shift = 2 * max(MAX_ORDER - cell.order - _RASTER, 0)
        places = np.arange(cell.start, cell.stop, 1 << shift) + (1 << shift) // 4 * 3
        cells, times = np.unique(self._there(places) >> shift, return_counts=True)
        return float(times @ self.other.rows_in(np.stack([cells, cells + 1], axis=1) << shift))

    def rows_in(self, ranges: Ranges) -> NDArray[np.float64]:
        """Return the rows of the left catalog, or of both: how many match is not known before they are read."""
        mine = self.inner.rows_in(ranges)
        if self.how not in BOTH_SIDES:
            return mine
        return mine + (np.zeros(len(ranges)) if self._is_turned else self.other.rows_in(ranges))

    def describe(self) -> Record:
        """Return both catalogs and what was asked for."""
        sides = {"inner": self.inner.describe(), "other": self.other.describe()}
        return {"op": "crossmatch", **sides, "how": self.how, "suffix": self.suffix, **self.asked}


def _remembered(known: dict[Cell, Known], cell: Cell, look: Callable[[Cell], Known]) -> Known:
    """Return what is known of a cell, or look; of so many cells that it takes little memory."""
    if cell not in known:
        if len(known) >= _REMEMBERED:
            known.clear()
        known[cell] = look(cell)
    return known[cell]


def _largest(sides: tuple[Far, Far], around: Both | None) -> list[float]:
    """Return the largest distance of each side, of all its rows or of those in its coverage."""
    return [far.most(part) for far, part in zip(sides, around or (None, None), strict=True)]


def _varied_bytes(side: Cost, node: Node) -> float:
    """Return by how much the texts and lists of a row are larger than they are taken for."""
    return max(side.size / side.rows - row_bytes(node.schema), 0.0) if side.rows else 0.0


def _places(side: Cost) -> float:
    return side.places or side.rows  # not all plans know


def tally_beside(node: Node) -> Tally:
    """Return the tally of a match of which a plan gives the rows, beside those of its tasks."""
    while isinstance(node, Select | WithColumns):
        node = node.inner
    return node.tally if isinstance(node, Crossmatch) else {}


def crossmatch_node(inner: Node, other: Node, *, how: Any, suffix: Any, **given: Any) -> Crossmatch:
    """Return the node that matches two plans; `given` are the arguments of `parse_matching`.

    Raises
    ------
    ArgumentError, AngleError
        If the arguments make no sense.
    """
    if not is_one_of(how, HOWS):
        raise ArgumentError(f"how={how!r} is unknown", hint=", ".join(f'"{name}"' for name in HOWS))
    if not isinstance(suffix, str):
        raise ArgumentError("the suffix is no text", found=repr(suffix), hint='suffix="_other"')
    matching = parse_matching(inner, other, **given)
    # where nothing moves, the columns of motions may be gone when the plan is made again
    moves = matching.left.moving is not None or matching.right.moving is not None
    asked = {"motion": moves, "epoch": given["epoch"] if moves else None, "density_order": matching.density_order}
    asked |= {name: getattr(matching, name) for name in ("find", "neighbours", "radius", "n_sigma")}
    return Crossmatch(inner, other, matching, how, suffix, asked)
