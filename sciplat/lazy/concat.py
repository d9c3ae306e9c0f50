"""The plan node of the rows of two catalogs in one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.errors import ArgumentError
from sciplat.lazy.fingerprint import Record
from sciplat.lazy.node import Node, row_bytes
from sciplat.sky.align import joined_cells, meeting_pairs
from sciplat.sky.cell import Cell, cell_ranges
from sciplat.sky.column import unit_of
from sciplat.sky.coverage import Coverage, Ranges
from sciplat.tasks.concat import ConcatTask
from sciplat.tasks.quote import Cost, rates

_ORDER_BYTES = 24  # of a row's index and its place in the result
_SAME = {
    "position": "position columns",
    "frame": "frames",
    "epoch": "epochs",
    "kind": "kinds of rows",
}


@dataclass(frozen=True)
class Concat:
    """Put the rows of two catalogs into one.

    Parameters
    ----------
    inner, other : Node
        Where rows share a position, those of `inner` come first.

    Raises
    ------
    ArgumentError
        If their positions do not mean the same, or a column has other units or another kind of values.
    """

    inner: Node
    other: Node

    def __post_init__(self) -> None:
        sides = self.inner.properties, self.other.properties
        for name, what in _SAME.items():
            mine, its = (side.get(name) for side in sides)
            if mine != its:
                raise ArgumentError(
                    f"the catalogs have different {what}: their rows cannot stand in one",
                    found=f"{_in_words(mine)} and {_in_words(its)}",
                    hint="ingest the other catalog with those of the first",
                )
        _ = self.schema  # refuses columns that do not fit

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of the first catalog, then those that only the other has."""
        mine, its = self.inner.schema, self.other.schema
        fields = [_joined_field(field, its) for field in mine]
        return pa.schema([*fields, *(field.with_nullable(True) for field in its if field.name not in mine.names)])

    @property
    def properties(self) -> dict[str, Any]:
        """What both say, and rows per cell as the first has them."""
        mine, its = self.inner.properties, self.other.properties
        both = {name: value for name, value in mine.items() if name in its and its[name] == value}
        return {"id": None, "rows_per_cell": mine["rows_per_cell"], **both}

    @cached_property
    def cells(self) -> Sequence[Cell]:
        """Cells that cover both catalogs' cells, the finer ones where they meet."""
        return joined_cells(list(self.inner.cells), list(self.other.cells))

    @cached_property
    def _ranges(self) -> tuple[Ranges, Ranges]:
        return cell_ranges(list(self.inner.cells)), cell_ranges(list(self.other.cells))

    def _sides(self, cell: Cell) -> list[Node]:
        """Return the catalogs that have a cell there."""
        sides = zip((self.inner, self.other), self._ranges, strict=True)
        return [node for node, ranges in sides if len(meeting_pairs(cell_ranges([cell]), ranges)[0])]

    def task(self, cell: Cell, cover: Coverage | None = None) -> ConcatTask:
        """Return the tasks of both catalogs with their rows put into order."""
        return ConcatTask(cell, tuple(node.task(cell, cover) for node in self._sides(cell)), self.schema)

    def cost(self, cell: Cell) -> Cost:
        """Return the cost of both, and of holding all rows twice while they are sorted."""
        sides = [(node, node.cost(cell)) for node in self._sides(cell)]
        memory = held = widest = 0.0
        for node, cost in sides:
            memory = max(memory, held + cost.memory)
            held += max(cost.size + cost.rows * (row_bytes(self.schema) - row_bytes(node.schema)), 0.0)
            widest += widest_column(cost, node.schema)
        rows = sum(cost.rows for _, cost in sides)
        if len(sides) > 1:
            memory = max(memory, 2 * held + widest + _ORDER_BYTES * rows)
        return Cost(
            read=sum(cost.read for _, cost in sides),
            requests=sum(cost.requests for _, cost in sides),
            rows=rows,
            places=sum(cost.places for _, cost in sides),
            size=held,
            memory=max(memory, held),
            seconds=sum(cost.seconds for _, cost in sides) + rates().nest * rows,
        )

    def describe(self) -> Record:
        """Return both catalogs."""
        return {"op": "concat", "inner": self.inner.describe(), "other": self.other.describe()}

    def rows_in(self, ranges: Ranges) -> NDArray[np.float64]:
        """Return the rows of both."""
        return self.inner.rows_in(ranges) + self.other.rows_in(ranges)


def widest_column(cost: Cost, schema: pa.Schema) -> float:
    """Return the bytes of the widest column of a task's rows: how they are spread over texts and lists is not known."""
    fixed = [field for field in schema if pa.types.is_primitive(field.type)]
    widest = max((row_bytes([field]) for field in fixed), default=0.0) * cost.rows
    return max(widest, cost.size - row_bytes(fixed) * cost.rows) if len(fixed) < len(schema) else widest


def _joined_field(mine: pa.Field, others: pa.Schema) -> pa.Field:
    """Return a column for the values of both catalogs, with what either says of it."""
    if mine.name not in others.names:
        return mine.with_nullable(True)
    its = others.field(mine.name)
    units = [unit_of(mine), unit_of(its)]
    if all(units) and units[0] != units[1]:
        raise ArgumentError(
            f"the unit of {mine.name!r} is not the same in both catalogs",
            found=f"{units[0]} and {units[1]}",
            hint="leave the column out of one of them with .select(...), or bring it to one unit",
        )
    pair = [pa.schema([pa.field(mine.name, field.type)]) for field in (mine, its)]
    try:
        kind = pa.unify_schemas(pair, promote_options="permissive").field(0).type
    except pa.ArrowException:
        raise ArgumentError(
            f"{mine.name!r} holds other values in one catalog than in the other",
            found=f"{mine.type} and {its.type}",
            hint="leave the column out of one of them with .select(...)",
        ) from None
    about = {**(its.metadata or {}), **(mine.metadata or {})}
    return pa.field(mine.name, kind, mine.nullable or its.nullable, about or None)


def _in_words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
