"""The plan nodes that join a catalog to another one, or to a table in memory, by equal keys."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.errors import ArgumentError, ColumnError
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.lazy.around import cells_around, cost_around, tasks_around
from sciplat.lazy.concat import widest_column
from sciplat.lazy.fingerprint import Record
from sciplat.lazy.node import Node, OverOne
from sciplat.sky.align import common_ranges
from sciplat.sky.cell import MAX_ORDER, Cell, cell_ranges
from sciplat.sky.coverage import Coverage, Ranges
from sciplat.sky.surroundings import check_reach, surroundings
from sciplat.steps.digest import table_digest
from sciplat.steps.join import How, Joining, Near, joined_schema, key_kind, rows_per_key
from sciplat.tasks.join import HeldTask, JoinTask
from sciplat.tasks.quote import Cost, rates
from sciplat.tasks.task import Task

On = str | tuple[str, str] | Sequence[str | tuple[str, str]]
Keys = tuple[tuple[str, str], ...]
_LARGEST_TABLE = 10e6  # bytes: it travels to a worker with each of a plan's cells
_FEW_CELLS = 4  # that a small region meets, of an order whose cells are no smaller
_KEY_BYTES = 110  # of a row's key while equal ones are found: a copy, codes, a hash table
_PAIR_BYTES = 100  # of a pair of rows while their distance is looked at


@dataclass(frozen=True)
class Join(OverOne):
    """Give the rows of a catalog the columns of another catalog's rows with the same key, near them on the sky.

    Parameters
    ----------
    inner, other : Node
    on : tuple of (str, str)
        Key columns by their names in both.
    how : {"inner", "left"}
    suffix : str
        Of the other's columns whose names are taken.
    reach : float
        Degrees; rows farther apart are no match.

    Raises
    ------
    ArgumentError, ColumnError
        If the columns are no keys, or the frames differ.
    """

    other: Node
    on: Keys
    how: How
    suffix: str
    reach: float

    def __post_init__(self) -> None:
        frames = self.inner.properties["frame"], self.other.properties["frame"]
        if frames[0] != frames[1]:
            raise ArgumentError(
                "the catalogs have different frames: their rows cannot be near each other",
                found=f"{frames[0]} and {frames[1]}",
                hint="ingest the other catalog in the frame of the first",
            )
        check_reach(self.reach)
        _ = self.joining

    @cached_property
    def joining(self) -> Joining:
        """Which rows become one, and the other's columns with their names in the result."""
        (ra, dec), (its_ra, its_dec) = (node.properties["position"] for node in (self.inner, self.other))
        joining = _joining(self.inner.schema, self.other.schema, self.on, self.how, self.suffix)
        return replace(joining, near=Near((ra, dec), (its_ra, its_dec), self.reach))

    @cached_property
    def schema(self) -> pa.Schema:
        """The catalog's columns, then the other's without its key and index."""
        return joined_schema(self.inner.schema, self.other.schema, self.joining)

    @cached_property
    def cells(self) -> Sequence[Cell]:
        """The inner node's, without those that have nothing around them to be joined to."""
        cells = self.inner.cells
        return [cell for cell in cells if self.how == "left" or self._meets(cell)]

    @cached_property
    def _ranges(self) -> Ranges:
        return cell_ranges(list(self.other.cells))

    def _meets(self, cell: Cell) -> bool:
        """Return whether the other catalog has cells around a cell."""
        return bool(cells_around(self.other, self._ranges, self._around(cell, self.extent)))

    def _around(self, cell: Cell, cover: Coverage | None) -> Coverage:
        """Return where the matches of a cell's rows lie, given a cover of these rows."""
        if cover is None:
            return surroundings(cell, self.reach)
        parts = [surroundings(part, self.reach).ranges for part in _few_cells(cell, cover)]
        return Coverage.from_ranges(np.concatenate(parts) if parts else np.empty((0, 2), np.int64))

    def task(self, cell: Cell, cover: Coverage | None = None) -> JoinTask:
        """Return the joining of a cell's rows with the other catalog's rows around them."""
        extent = self.extent
        if cover is not None and extent is not None:
            extent = Coverage(common_ranges(cover.ranges, extent.ranges))
        around = self._around(cell, cover if extent is None else extent)
        parts = tasks_around(self.other, self._ranges, around)
        return JoinTask(self.inner.task(cell, cover), parts, self.other.schema, self.joining)

    def cost(self, cell: Cell) -> Cost:
        """Return the cost of both sides; as many rows are expected as the larger of them has in the cell."""
        inner = self.inner.cost(cell)
        rows = max(inner.rows, float(self.other.rows_in(cell_ranges([cell]))[0]))
        other = cost_around(self.other, self._ranges, self._around(cell, self.extent))
        return _joined_cost([(inner, self.inner.schema), (other, self.other.schema)], rows)

    def describe(self) -> Record:
        """Return both catalogs and how they are joined."""
        arguments = {"on": [list(pair) for pair in self.on], "how": self.how, "suffix": self.suffix}
        sides = {"inner": self.inner.describe(), "other": self.other.describe()}
        return {"op": "join", **sides, **arguments, "reach": self.reach}

    def rows_in(self, ranges: Ranges) -> NDArray[np.float64]:
        """Return the larger of both: how many rows share a key is not known before they are read."""
        return np.maximum(self.inner.rows_in(ranges), self.other.rows_in(ranges))


@dataclass(frozen=True)
class JoinTable(OverOne):
    """Give the rows of a catalog the columns of a table's rows with the same key.

    Parameters
    ----------
    inner : Node
    table : pyarrow.Table
        Travels with every task.
    on : tuple of (str, str)
        Key columns by their names in the catalog and in the table.
    how : {"inner", "left"}
    suffix : str
        Of the table's columns whose names are taken.

    Raises
    ------
    ArgumentError, ColumnError
        If the columns are no keys, or the table is too large.
    """

    table: pa.Table = field(repr=False)
    on: Keys
    how: How
    suffix: str

    def __post_init__(self) -> None:
        if twice := [name for name, count in Counter(self.table.schema.names).items() if count > 1]:
            raise ArgumentError(f"the column {twice[0]!r} stands twice in the table", hint="rename one of them")
        if self.table.nbytes > _LARGEST_TABLE:
            raise ArgumentError(
                "the table is too large to travel with every task",
                found=f"{self.table.nbytes / 1e6:,.1f} MB, at most {_LARGEST_TABLE / 1e6:.0f} MB",
                hint="give it positions, ingest it with ingest_catalog, and join the catalog; or fewer columns",
            )
        _ = self.joining

    @cached_property
    def joining(self) -> Joining:
        """Which rows become one, and the table's columns with their names in the result."""
        return _joining(self.inner.schema, self.table.schema, self.on, self.how, self.suffix)

    @cached_property
    def schema(self) -> pa.Schema:
        """The catalog's columns, then the table's without its key."""
        return joined_schema(self.inner.schema, self.table.schema, self.joining)

    def task(self, cell: Cell, cover: Coverage | None = None) -> JoinTask:
        """Return the joining of a cell's rows with the table."""
        table: Task = HeldTask(cell, self.table)
        return JoinTask(self.inner.task(cell, cover), (table,), self.table.schema, self.joining)

    def cost(self, cell: Cell) -> Cost:
        """Return the inner cost and that of the table; every row is expected to find its key."""
        inner, size = self.inner.cost(cell), float(self.table.nbytes)
        held = Cost(rows=self.table.num_rows, size=size, memory=size)
        sides = [(inner, self.inner.schema), (held, self.table.schema)]
        return _joined_cost(sides, inner.rows * self._per_key)

    @cached_property
    def _per_key(self) -> float:
        return max(rows_per_key(self.table, [its for _, its in self.on]), 1.0)

    @cached_property
    def _content(self) -> str:
        return table_digest(self.table)

    def describe(self) -> Record:
        """Return a digest of the table and how it is joined."""
        table = {"content": self._content, "rows": self.table.num_rows, "columns": self.table.schema.names}
        arguments = {"on": [list(pair) for pair in self.on], "how": self.how, "suffix": self.suffix}
        return {"op": "join", "inner": self.inner.describe(), "table": table, **arguments}

    def rows_in(self, ranges: Ranges) -> NDArray[np.float64]:
        """Return the inner node's, once for each row of a key."""
        return self.inner.rows_in(ranges) * self._per_key


def _few_cells(cell: Cell, cover: Coverage) -> list[Cell]:
    """Return the finest cells of one order in a cell that hold a cover's part of it, as long as they are few."""
    inside = Coverage(cover.clipped(cell.start, cell.stop))
    found = [cell] if len(inside.ranges) else []
    for order in range(cell.order + 1, MAX_ORDER + 1):
        shift = 2 * (MAX_ORDER - order)
        finer = inside.degraded(order)
        if finer.length >> shift > _FEW_CELLS:
            break
        spans = (finer.ranges >> shift).tolist()
        found = [Cell(order, index) for first, last in spans for index in range(first, last)]
    return found


def join_nodes(
    inner: Node,
    other: Node | Any,
    *,
    on: On,
    how: How = "inner",
    suffix: str = "_other",
    reach: float,
) -> Join | JoinTable:
    """Return the node that joins a plan to another one, a pyarrow.Table or a pandas DataFrame.

    Parameters
    ----------
    inner : Node
    other : Node, pyarrow.Table or pandas.DataFrame
    on : str, tuple of str, or list of these
        A key column of both, or its names in the one and in the other; a list of several keys, all of them equal.
    how : {"inner", "left"}
    suffix : str
    reach : float
        Degrees between rows of one key of two catalogs; of no meaning for a table.

    Raises
    ------
    ArgumentError, ColumnError
        If the arguments make no sense or there are no such keys.
    """
    keys = _parse_keys(on)
    if how not in ("inner", "left"):
        raise ArgumentError(f"how={how!r} is unknown", hint='"inner" or "left"')
    if type(other).__module__.partition(".")[0] == "pandas":
        other = pa.Table.from_pandas(other, preserve_index=False)
    if isinstance(other, pa.Table):
        # what pandas says of itself there is not part of the rows
        return JoinTable(inner, other.replace_schema_metadata(None), keys, how, suffix)
    if not hasattr(other, "rows_in"):
        raise ArgumentError(
            "a catalog is joined to a catalog, a pyarrow.Table or a pandas DataFrame", found=type(other).__name__
        )
    return Join(inner, other, keys, how, suffix, reach)


def _parse_keys(on: Any) -> Keys:
    pairs = [(key, key) if isinstance(key, str) else key for key in (on if isinstance(on, list) else [on])]
    if not pairs or any(
        not isinstance(pair, tuple) or len(pair) != 2 or not all(isinstance(name, str) for name in pair)
        for pair in pairs
    ):
        raise ArgumentError(
            "on= names the key", found=repr(on), hint='on="source_id", or on=("source_id", "id") for its name in each'
        )
    return tuple(pairs)


def _joining(mine: pa.Schema, its: pa.Schema, on: Keys, how: How, suffix: str) -> Joining:
    """Return how two sides are joined.

    Raises
    ------
    ColumnError, ArgumentError
        If a key is not there or of no use, or the name of a kept column is taken all the same.
    """
    for pair in on:
        kinds = [_checked_key(name, schema) for name, schema in zip(pair, (mine, its), strict=True)]
        if kinds[0] != kinds[1]:
            raise ArgumentError(
                f"the key {pair[0]!r} holds {kinds[0]}, and {pair[1]!r} of the other side {kinds[1]}",
                hint="bring one of them to the other's type",
            )
    left_out = {HEALPIX_COLUMN, *(name for _, name in on)}
    kept = [(name, f"{name}{suffix}" if name in mine.names else name) for name in its.names if name not in left_out]
    counts = Counter([*mine.names, *(new for _, new in kept)])
    if taken := [name for name, count in counts.items() if count > 1]:
        raise ArgumentError(f"the result would have two columns {taken[0]!r}", hint="another suffix=")
    return Joining(on, how, tuple(kept))


def _checked_key(name: str, schema: pa.Schema) -> str:
    if name not in schema.names:
        raise ColumnError(f"there is no column {name!r} to join on", found=", ".join(schema.names))
    kind = schema.field(name).type
    if (known := key_kind(kind)) is None:
        raise ArgumentError(
            f"{name!r} cannot be a key", found=str(kind), hint="keys are integers or texts: only these are surely equal"
        )
    return known


def _joined_cost(sides: Sequence[tuple[Cost, pa.Schema]], rows: float) -> Cost:
    """Return the cost of reading two sides and joining them into some rows."""
    (inner, _), (other, _) = sides
    size = rows * sum(side.size / side.rows for side in (inner, other) if side.rows)
    read = max(inner.memory, inner.size + other.memory)
    joined = _KEY_BYTES * (inner.rows + other.rows) + _PAIR_BYTES * rows + size
    joined += max(widest_column(*side) for side in sides)  # taken from as a whole
    return Cost(
        read=inner.read + other.read,
        requests=inner.requests + other.requests,
        rows=rows,
        places=inner.places,
        size=size,
        memory=max(read, inner.size + other.size + joined),
        seconds=inner.seconds + other.seconds + rates().nest * (inner.rows + other.rows),
    )
