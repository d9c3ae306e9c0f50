"""Catalogs as users see them: lazy collections of rows on the sky, each method a new one."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sciplat.config import parse_bytes
from sciplat.errors import ArgumentError, ColumnError, IncompleteResult
from sciplat.io.catalog_store import CatalogStore
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.io.publish import version_numbers
from sciplat.lazy.exits import Exits
from sciplat.lazy.explain import Plan, explain
from sciplat.lazy.map import Map, uses_functions
from sciplat.lazy.node import Nest, Node, Scan, Select, Within
from sciplat.lazy.write import write_plan
from sciplat.sky.angle import AngleLike, parse_angle
from sciplat.sky.cell import Cell
from sciplat.sky.region import Region
from sciplat.tasks.compute import compute_tables
from sciplat.tasks.memory import plan_work
from sciplat.tasks.quote import is_calibrated, write_cost
from sciplat.tasks.retry import OnError
from sciplat.tasks.run import Run
from sciplat.tasks.task import Task
from sciplat.tasks.workers import look_at_workers, open_workers

if TYPE_CHECKING:
    import os


@dataclass(frozen=True)
class Catalog(Exits):
    """Rows with positions on the sky: a store, or what a plan will make of one.

    Parameters
    ----------
    node : Node
        The plan.
    store : CatalogStore, optional
        The version on storage, if this is one as it stands.
    stored : int
        Bytes of all inputs of the plan.
    """

    node: Node
    store: CatalogStore | None = None
    stored: int = 0

    @classmethod
    def of_store(cls, store: CatalogStore) -> "Catalog":
        """Return the catalog of an open store."""
        return cls(Scan(store, tuple(store.schema.names)), store, store.manifest.size)

    def __repr__(self) -> str:
        rows = f"{len(self):,} rows, " if self.store else "lazy, "
        return f"<Catalog: {rows}{len(self.columns)} columns, {len(self.node.cells)} cells>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(column.name)}</td><td>{escape(str(column.type))}</td>"
            f"<td>{escape((column.metadata or {}).get(b'unit', b'').decode())}</td></tr>"
            for column in self.schema
        )
        return f"<p>{escape(repr(self))}</p><table><tr><th>column</th><th>type</th><th>unit</th></tr>{rows}</table>"

    def __len__(self) -> int:
        if not isinstance(self.node, Scan) or self.node.cover is not None:
            raise TypeError("the number of rows of a plan is not known before it has run: use .compute() or .write()")
        return self.node.store.manifest.rows

    def __bool__(self) -> bool:
        return True  # a plan is something, however many rows it will have

    @property
    def schema(self) -> pa.Schema:
        """Names, types, units and descriptions of the columns."""
        return self.node.schema

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.schema.names)

    @property
    def cells(self) -> list[Cell]:
        """Disjoint cells that hold all rows, in the order of the sky."""
        return list(self.node.cells)

    @property
    def properties(self) -> dict[str, Any]:
        """Position columns, frame, epoch, rows per cell, and what else the store says of itself."""
        return dict(self.node.properties)

    @property
    def report(self) -> dict[str, Any]:
        """What was ingested and left out, or what a plan was expected to take and took; empty for a plan."""
        return {} if self.store is None else dict(self.store.manifest.properties.get("report", {}))

    @property
    def version(self) -> int | None:
        """Number of the store's version, None for a plan."""
        return None if self.store is None else self.store.manifest.number

    @property
    def versions(self) -> list[int]:
        """Numbers of all versions of the store, ascending; empty for a plan."""
        return [] if self.store is None else version_numbers(self.store.storage)

    @property
    def provenance(self) -> dict[str, Any]:
        """How the store was made, as W3C PROV-JSON; empty for a plan, and for what was ingested."""
        return {} if self.store is None else self.store.provenance

    def select(self, *columns: str) -> "Catalog":
        """Keep some columns; the position, the identity and the sorting index always stay.

        Raises
        ------
        ColumnError
            If there is no such column.
        """
        self._check_columns(columns)
        identity = self.properties["id"]
        needed = (HEALPIX_COLUMN, *([identity] if identity else []), *self.properties["position"])
        chosen = tuple(dict.fromkeys([*needed, *columns]))
        if isinstance(self.node, Scan):
            return Catalog(Scan(self.node.store, chosen, self.node.cover), None, self.stored)
        return Catalog(Select(self.node, chosen), None, self.stored)

    def within(self, region: Region) -> "Catalog":
        """Keep the rows in a region: Cone, Box, Polygon or Moc."""
        cover = region.cover()
        node: Node = self.node
        if isinstance(node, Scan) and node.cover is None:
            node = Scan(node.store, node.columns, cover)
        return Catalog(Within(node, region, cover), None, self.stored)

    def nest(self, by: str, columns: list[str] | None = None, *, name: str = "light_curve") -> "Catalog":
        """Gather the rows of each value of `by` into one row with a list: a light curve for each source.

        Parameters
        ----------
        by : str
            Key. Rows are gathered that share it and their position, as the measurements of a source do; a value
            at two positions gives two rows.
        columns : list of str, optional
            Columns that go into the list; by default all but the key and the position.
        name : str
            Of the column of lists.

        Raises
        ------
        ColumnError
            If there is no such column.
        ArgumentError
            If no column is left for the list, one stands there twice, or the name is taken.
        """
        head = {HEALPIX_COLUMN, by, *self.properties["position"]}
        chosen = [column for column in self.columns if column not in head] if columns is None else columns
        self._check_columns((by, *chosen))
        if not chosen or len(set(chosen)) < len(chosen) or name in head:
            raise ArgumentError("these columns cannot be nested", found=f"{list(chosen)} as {name!r}")
        return Catalog(Nest(self.node, by, tuple(chosen), name), None, self.stored)

    def map(
        self,
        step: Callable[[pa.Table], pa.Table],
        *,
        schema: pa.Schema,
        reach: AngleLike | None = None,
        timeout: float | None = None,
        memory: int | str | None = None,
    ) -> "Catalog":
        """Call a function of your own with the rows of every cell, beside the data. Lazy.

        Parameters
        ----------
        step : callable
            Takes a pyarrow.Table and returns one. It is given the rows of one cell, sorted by `_healpix_29`, or of a
            part of a cell that needs more memory than a worker has: what it gives for a row may depend on that row
            and, with `reach`, on those around it.
        schema : pyarrow.Schema
            Of what it returns: `_healpix_29`, the position, and whatever it adds. A result with other columns is
            refused.
        reach : angle, optional
            The table also holds the rows of the surroundings: all within this angle of any place in the cell, and
            perhaps some beyond. Rows of the result that lie outside the cell are left out.
        timeout : float, optional
            Seconds after which the function is stopped, on each cell.
        memory : int or str, optional
            Bytes that the function may take, for example "2 GiB". With a timeout or a memory limit it runs in a
            process of its own, half a second slower to start, and is stopped alone.

        Raises
        ------
        ArgumentError
            If the function cannot be sent to a worker, or the schema has no position.
        """
        degrees = None if reach is None else parse_angle(reach, what="reach")
        given: object = timeout  # callers are not all checked for types
        if given is not None and not (isinstance(given, int | float | np.integer) and given > 0):
            raise ArgumentError("the timeout is not a positive number of seconds", found=repr(timeout))
        limit = None if memory is None else parse_bytes(memory, what="memory")
        return Catalog(Map(self.node, step, schema, degrees, timeout, limit), None, self.stored)

    def explain(self) -> Plan:
        """Say what running this takes: cells, tasks, bytes, memory and time. Nothing is run.

        Raises
        ------
        TaskTooLarge
            If a cell needs more memory than a worker has, however it is cut.
        """
        threads, limit, local = look_at_workers()
        work = plan_work(self.node.cells, lambda cell: write_cost(self.node.cost(cell)), limit=limit, what=self._what)
        known = local and is_calibrated()
        return explain(
            work, self.stored, limit=limit, threads=threads, calibrated=known, functions=uses_functions(self.node)
        )

    def compute(self, *, limit: int | None = None) -> pa.Table:
        """Run the plan and return its rows, sorted by `_healpix_29`.

        Parameters
        ----------
        limit : int, optional
            Return the first rows only, and run only the tasks that they need.
        """
        if limit is not None and limit < 0:
            raise ArgumentError("the number of rows is not negative", found=str(limit))
        if limit is None:
            workers = open_workers()
            work = plan_work(self.node.cells, self.node.cost, limit=workers.memory(), what=self._what)
            tables = compute_tables(Run(self._what, work, self.node.task, workers))
        else:
            tables = list(_first_tables((self.node.task(cell) for cell in self.node.cells), limit))
        return pa.concat_tables([self.schema.empty_table(), *tables]).slice(0, limit)

    def head(self, n: int = 5) -> pa.Table:
        """Return the first rows."""
        return self.compute(limit=n)

    def write(
        self,
        url: "str | os.PathLike[str]",
        *,
        replace: bool = False,
        on_error: OnError = "raise",
        restart: bool = False,
    ) -> "Catalog":
        """Run the plan and publish its rows as a catalog store.

        What is done is kept beside the store: after a kill, Ctrl-C or an error the same call goes on with the cells
        that are left. Where the store holds the plan's result already, it is returned as it stands.

        Parameters
        ----------
        url : str or path
            Of the new store; a relative path is made absolute.
        replace : bool
            Publish a new version of the store that stands there; its older versions stay.
        on_error : {"raise", "quarantine"}
            Whether a cell that cannot be measured ends the plan, or is set aside after three attempts while the rest
            goes on; ``.report["quarantined"]`` names such cells, and the same call tries them again.
        restart : bool
            Drop what an unfinished run left there.

        Returns
        -------
        Catalog
            The store.

        Raises
        ------
        StoreExists
            If something stands there and is not to be replaced.
        PlanChanged
            If an unfinished run of another plan left something there; the message names the difference.
        TaskTooLarge
            If a cell needs more memory than a worker has, however it is cut. Nothing has run then.
        TaskFailed, SciplatError
            If a cell cannot be done; ``error.traceback`` is the worker's.
        ArgumentError
            If the result has no row.
        """
        store = write_plan(self.node, url, replace=replace, on_error=on_error, restart=restart)
        if missing := store.manifest.properties["report"]["quarantined"]:
            cell, error = missing[0]
            told = f"{len(missing)} cells are missing, the first is {cell}: {error.partition(chr(10))[0]}"
            warnings.warn(f"{told}; .report['quarantined'] names all", IncompleteResult, stacklevel=2)
        return Catalog.of_store(store)

    @property
    def _what(self) -> str:
        return type(self.node).__name__.lower()

    def _check_columns(self, columns: tuple[str, ...]) -> None:
        if missing := [column for column in columns if column not in self.columns]:
            raise ColumnError(f"there is no column {missing[0]!r}", found=", ".join(self.columns))


def _first_tables(tasks: Iterator[Task], limit: int) -> Iterator[pa.Table]:
    rows = 0
    for task in tasks:
        if rows >= limit:
            return
        table = task.run()
        rows += table.num_rows
        yield table
