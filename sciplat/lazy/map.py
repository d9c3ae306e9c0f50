"""The plan node of a user's own function on every cell of a catalog."""

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.errors import ArgumentError
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.lazy.fingerprint import Record
from sciplat.lazy.function import check_sendable, function_record
from sciplat.lazy.node import OverOne, row_bytes, with_columns_there
from sciplat.sky.align import meeting_pairs
from sciplat.sky.cell import Cell, cell_ranges
from sciplat.sky.coverage import Coverage
from sciplat.sky.surroundings import check_reach, surroundings
from sciplat.tasks.map import MapTask
from sciplat.tasks.quote import Cost

_PROCESS_BYTES = 150e6  # of a process that has imported Arrow and a function


@dataclass(frozen=True)
class Map(OverOne):
    """Call a function with the rows of every cell.

    Parameters
    ----------
    inner : Node
    step : callable
        Takes a pyarrow.Table and returns one.
    schema : pyarrow.Schema
        Of its result.
    reach : float or None
        Degrees around the cell from which the function sees rows too.
    timeout : float or None
        Seconds after which the function is stopped.
    memory : int or None
        Bytes that it may take.

    Raises
    ------
    ArgumentError
        If the function cannot travel or be told from others, or the schema lacks the position.
    """

    step: Callable[[pa.Table], pa.Table]
    schema: pa.Schema = field(repr=False)
    reach: float | None = None
    timeout: float | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        if not callable(self.step):
            raise ArgumentError("the step is no function", found=type(self.step).__name__)
        if not isinstance(self.schema, pa.Schema):
            raise ArgumentError(
                "schema= is the pyarrow.Schema of the function's result",
                found=type(self.schema).__name__,
                hint='catalog.schema.append(pa.field("name", pa.float64()))',
            )
        if twice := [name for name, count in Counter(self.schema.names).items() if count > 1]:
            raise ArgumentError(f"the schema is of no table: the column {twice[0]} stands twice in it")
        for name in (HEALPIX_COLUMN, *self.inner.properties["position"]):
            kind = self.inner.schema.field(name).type
            if name not in self.schema.names or self.schema.field(name).type != kind:
                raise ArgumentError(
                    f"the schema lacks {name}: {kind}: every row of a catalog has a position",
                    found=", ".join(f"{column.name}: {column.type}" for column in self.schema)[:200],
                    hint="let the function keep the columns of the position",
                )
        check_sendable(self.step)
        if self.reach is not None:
            check_reach(self.reach)

    @property
    def properties(self) -> dict[str, Any]:
        """The inner node's, without a name of rows that the function does not keep."""
        identity = self.inner.properties["id"]
        kept = with_columns_there(self.inner.properties, self.schema.names)
        return {**kept, "id": identity if identity in self.schema.names else None}

    def keeps(self, columns: Iterable[str]) -> bool:  # noqa: ARG002
        """Return False: a function may do anything."""
        return False

    @property
    def extent(self) -> None:
        """Not known: a function may give rows wherever it likes in a cell."""
        return

    @cached_property
    def _ranges(self) -> NDArray[np.int64]:
        return cell_ranges(list(self.inner.cells))

    def task(self, cell: Cell, cover: Coverage | None = None) -> MapTask:  # noqa: ARG002
        """Return the calling of the function with the whole cell, whatever the cover: it may look at other rows."""
        around = None if self.reach is None else surroundings(cell, self.reach)
        if around is None:
            parts: tuple[Any, ...] = (self.inner.task(cell),)
        else:
            near, _ = meeting_pairs(self._ranges, around.ranges)
            cells = self.inner.cells
            parts = tuple(self.inner.task(cells[place], around) for place in np.unique(near).tolist())
        ra, dec = self.properties["position"]
        return MapTask(cell, parts, around, self.step, self.schema, (ra, dec), self.timeout, self.memory)

    def cost(self, cell: Cell) -> Cost:
        """Return the inner cost and that of holding the result; the time of the function is not known."""
        inner = self.inner.cost(cell)
        rows, places = inner.rows, inner.places
        if self.reach is not None:
            here = float(self.rows_in(cell_ranges([cell]))[0])
            near = float(self.rows_in(surroundings(cell, self.reach).ranges).sum())
            inner = _scaled(inner, max(near / here, 1.0) if here else 1.0)
        size = rows * row_bytes(self.schema)
        function = size + (size if self.memory is None else self.memory)  # its result, and as much on the way there
        memory = inner.size * (2 if self.reach is not None else 1) + function  # the surroundings are cut to size
        if self.timeout is not None or self.memory is not None:
            # here the rows and their way to the other process, or the result; there the rows once more
            memory = 2 * inner.size + size + function + _PROCESS_BYTES
        return replace(inner, rows=rows, places=places, size=size, memory=max(inner.memory, memory))

    def describe(self) -> Record:
        """Return the function and what it promises."""
        return {
            "op": "map",
            "inner": self.inner.describe(),
            "step": function_record(self.step),  # anew: what it uses may have changed
            "schema": [_describe_column(column) for column in self.schema],
            "arrow_schema": base64.b64encode(self.schema.serialize()).decode(),
            "reach": self.reach,
            "timeout": None if self.timeout is None else float(self.timeout),  # numpy's numbers are no JSON
            "memory": self.memory,
        }


def uses_functions(node: Any) -> bool:
    """Return whether a plan calls any function of a user."""
    inputs = (*(getattr(node, name, None) for name in ("inner", "other", "catalog")), *getattr(node, "catalogs", ()))
    return isinstance(node, Map) or any(uses_functions(each) for each in inputs if each is not None)


def parse_schema(text: str) -> pa.Schema:
    """Return the schema that a record holds."""
    return pa.ipc.read_schema(pa.BufferReader(base64.b64decode(text)))


def _describe_column(column: pa.Field) -> str:
    """Return all that a column promises: units and descriptions become part of the store."""
    about = {key.decode(): value.decode(errors="replace") for key, value in sorted((column.metadata or {}).items())}
    words = f"{column.name}: {column.type}{'' if column.nullable else ', never null'}"
    return f"{words}, {json.dumps(about)}" if about else words


def _scaled(cost: Cost, factor: float) -> Cost:
    """Return the cost of a larger part of the sky."""
    return Cost(**{name: value * factor for name, value in asdict(cost).items()})
