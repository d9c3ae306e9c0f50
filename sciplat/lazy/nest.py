"""The plan node that gathers rows into lists: the light curve of each source."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.lazy.fingerprint import Record
from sciplat.lazy.node import OverOne, with_columns_there
from sciplat.sky.cell import Cell
from sciplat.sky.coverage import Coverage
from sciplat.steps.nest import nested_type
from sciplat.tasks.nest import NestTask
from sciplat.tasks.quote import Cost, rates

_SORT_BYTES = 110  # sorting holds indices, codes, and a hash table of the keys


@dataclass(frozen=True)
class Nest(OverOne):
    """Gather the rows of each key into a list of structures."""

    by: str
    columns: tuple[str, ...]
    name: str

    @cached_property
    def head(self) -> tuple[str, ...]:
        """Columns that stay as they are: the key and the position."""
        return tuple(dict.fromkeys([HEALPIX_COLUMN, self.by, *self.inner.properties["position"]]))

    @cached_property
    def schema(self) -> pa.Schema:
        """Key, position, and the column of lists."""
        inner = self.inner.schema
        fields = [inner.field(name) for name in self.head]
        return pa.schema([*fields, pa.field(self.name, nested_type(inner, self.columns))])

    @property
    def properties(self) -> dict[str, Any]:
        """The inner node's, one row for each source."""
        return {**with_columns_there(self.inner.properties, self.head), "kind": "sources", "id": self.by}

    def keeps(self, columns: Iterable[str]) -> bool:
        """Return whether the columns are the key and the position."""
        return set(columns) <= set(self.head)

    def task(self, cell: Cell, cover: Coverage | None = None) -> NestTask:
        """Return the inner task with its rows gathered."""
        return NestTask(self.inner.task(cell, cover), self.by, self.head, self.columns, self.name)

    def cost(self, cell: Cell) -> Cost:
        """Return the inner cost, with its rows held twice; rows that share a position are taken to share their key."""
        inner = self.inner.cost(cell)
        memory = max(inner.memory, 2 * inner.size + _SORT_BYTES * inner.rows)
        return replace(inner, rows=inner.places, memory=memory, seconds=inner.seconds + rates().nest * inner.rows)

    def describe(self) -> Record:
        """Return the key and what is gathered."""
        arguments = {"by": self.by, "columns": list(self.columns), "name": self.name}
        return {"op": "nest", "inner": self.inner.describe(), **arguments}
