"""What a plan is made of: nodes that answer schema, cells and tasks. Nothing runs here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from sciplat.io.catalog_store import CatalogStore
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.io.publish import FileEntry
from sciplat.lazy.explain import Cost
from sciplat.sky.align import common_ranges
from sciplat.sky.cell import Cell, cell_ranges
from sciplat.sky.coverage import Coverage, Ranges
from sciplat.sky.region import Region
from sciplat.steps.nest import nested_type
from sciplat.tasks.nest import NestTask
from sciplat.tasks.task import ScanTask, SelectTask, Task, WithinTask


class Node(Protocol):
    """One operation of a plan."""

    @property
    def schema(self) -> pa.Schema:
        """Columns of the result."""
        ...

    @property
    def properties(self) -> dict[str, Any]:
        """What the result says of itself: names of the position columns, frame, kind, rows per cell."""
        ...

    @property
    def cells(self) -> Sequence[Cell]:
        """Disjoint cells that hold all rows, in the order of the sky."""
        ...

    def task(self, cell: Cell) -> Task:
        """Return the task for one of the cells, or for a part of one."""
        ...

    def cost(self, cell: Cell) -> Cost:
        """Return what that task is expected to take."""
        ...

    def rows_in(self, ranges: Ranges) -> float:
        """Return the expected rows in ranges of order-29 cells."""
        ...


@dataclass(frozen=True)
class Scan:
    """Read a catalog store.

    Parameters
    ----------
    store : CatalogStore
    columns : tuple of str
        In the order of the result.
    cover : Coverage, optional
        Cells that it does not touch are not read.
    """

    store: CatalogStore
    columns: tuple[str, ...]
    cover: Coverage | None = None

    @cached_property
    def schema(self) -> pa.Schema:
        """The chosen columns."""
        return pa.schema([self.store.schema.field(name) for name in self.columns])

    @property
    def properties(self) -> dict[str, Any]:
        """The store's."""
        return self.store.manifest.properties

    @cached_property
    def cells(self) -> Sequence[Cell]:
        """The store's cells, without those that the cover does not touch."""
        entries = self.store.entries
        return [e.cell for e in entries if self.cover is None or self.cover.meets(e.cell.start, e.cell.stop)]

    @cached_property
    def _starts(self) -> list[int]:
        return [entry.cell.start for entry in self.store.entries]

    def task(self, cell: Cell) -> ScanTask:
        """Return the reading of a cell or of a part of it."""
        return ScanTask(self.store.storage, self._file(cell), cell, self.columns, self.cover)

    def cost(self, cell: Cell) -> Cost:
        """Return the cost if all columns of a row are read."""
        file, rows = self._file(cell), self.rows_in(cell_ranges([cell]))
        return Cost(file.size * rows / file.rows, rows, rows * row_bytes(self.schema))

    def rows_in(self, ranges: Ranges) -> float:
        """Return the expected rows by the store's sky map."""
        return self.store.expected_rows(ranges)

    def _file(self, cell: Cell) -> FileEntry:
        return self.store.entries[int(np.searchsorted(self._starts, cell.start, side="right")) - 1].file


@dataclass(frozen=True)
class Within:
    """Keep the rows in a region."""

    inner: Node
    region: Region
    cover: Coverage = field(repr=False)

    @property
    def schema(self) -> pa.Schema:
        """The inner node's."""
        return self.inner.schema

    @property
    def properties(self) -> dict[str, Any]:
        """The inner node's."""
        return self.inner.properties

    @cached_property
    def cells(self) -> Sequence[Cell]:
        """The inner node's cells that the region touches."""
        return [cell for cell in self.inner.cells if self.cover.meets(cell.start, cell.stop)]

    def task(self, cell: Cell) -> WithinTask:
        """Return the inner task with the rows outside left out."""
        ra, dec = self.properties["position"]
        return WithinTask(self.inner.task(cell), self.region, (ra, dec))

    def cost(self, cell: Cell) -> Cost:
        """Return the inner cost, with the rows that are expected inside."""
        inner = self.inner.cost(cell)
        return Cost(inner.read, self.rows_in(cell_ranges([cell])), inner.memory)

    def rows_in(self, ranges: Ranges) -> float:
        """Return the expected rows in the part of the ranges that the region covers."""
        return self.inner.rows_in(common_ranges(ranges, self.cover.ranges))


@dataclass(frozen=True)
class Select:
    """Keep some columns."""

    inner: Node
    columns: tuple[str, ...]

    @cached_property
    def schema(self) -> pa.Schema:
        """The chosen columns."""
        return pa.schema([self.inner.schema.field(name) for name in self.columns])

    @property
    def properties(self) -> dict[str, Any]:
        """The inner node's."""
        return self.inner.properties

    @property
    def cells(self) -> Sequence[Cell]:
        """The inner node's."""
        return self.inner.cells

    def task(self, cell: Cell) -> SelectTask:
        """Return the inner task with the other columns left out."""
        return SelectTask(self.inner.task(cell), self.columns)

    def cost(self, cell: Cell) -> Cost:
        """Return the inner cost."""
        return self.inner.cost(cell)

    def rows_in(self, ranges: Ranges) -> float:
        """Return the inner node's."""
        return self.inner.rows_in(ranges)


@dataclass(frozen=True)
class Nest:
    """Gather the rows of each key into a list of structures."""

    inner: Node
    by: str
    columns: tuple[str, ...]
    name: str

    @cached_property
    def head(self) -> tuple[str, ...]:
        """Columns that stay as they are: the key and the position."""
        return tuple(dict.fromkeys([HEALPIX_COLUMN, self.by, *self.properties["position"]]))

    @cached_property
    def schema(self) -> pa.Schema:
        """Key, position, and the column of lists."""
        inner = self.inner.schema
        fields = [inner.field(name) for name in self.head]
        return pa.schema([*fields, pa.field(self.name, nested_type(inner, self.columns))])

    @property
    def properties(self) -> dict[str, Any]:
        """The inner node's, one row for each source."""
        return {**self.inner.properties, "kind": "sources", "id": self.by}

    @property
    def cells(self) -> Sequence[Cell]:
        """The inner node's."""
        return self.inner.cells

    def task(self, cell: Cell) -> NestTask:
        """Return the inner task with its rows gathered."""
        return NestTask(self.inner.task(cell), self.by, self.head, self.columns, self.name)

    def cost(self, cell: Cell) -> Cost:
        """Return the inner cost, with its rows held twice; how many share a key is not known before."""
        inner = self.inner.cost(cell)
        return Cost(inner.read, inner.rows, 2 * inner.memory)

    def rows_in(self, ranges: Ranges) -> float:
        """Return the inner node's: at most as many."""
        return self.inner.rows_in(ranges)


def row_bytes(schema: pa.Schema) -> int:
    """Return about how many bytes one row takes in memory; texts and lists count as 32."""
    widths = (column.type.bit_width // 8 if _fixed_width(column.type) else 32 for column in schema)
    return sum(widths)


def _fixed_width(kind: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(kind))
