"""Catalogs as users see them: lazy collections of rows on the sky, each method a new one."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sciplat.config import is_whole
from sciplat.errors import ArgumentError, IncompleteResult
from sciplat.io.catalog_store import CatalogStore
from sciplat.io.publish import version_numbers
from sciplat.io.storage import open_storage
from sciplat.lazy.exits import Exits
from sciplat.lazy.explain import Plan, explain
from sciplat.lazy.map import uses_functions
from sciplat.lazy.node import Scan
from sciplat.lazy.operations import Operations
from sciplat.lazy.reductions import Reductions
from sciplat.lazy.write import write_plan
from sciplat.sky.cell import Cell
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
class Catalog(Operations, Reductions, Exits):
    """Rows with positions on the sky: a store, or what a plan will make of one."""

    @classmethod
    def of_store(cls, store: CatalogStore) -> "Catalog":
        """Return the catalog of an open store."""
        return cls(Scan(store, tuple(store.schema.names)), store, store.manifest.size)

    def __repr__(self) -> str:
        if self.store is None:
            rows = "lazy, "
        else:  # what another writer says of his catalog may be wrong
            rows = f"{'' if self.store.has_digests else 'about '}{self.store.manifest.rows:,} rows, "
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
            raise TypeError("the number of rows of a plan is not known before it has run: use .count()")
        return self.node.store.rows

    def __bool__(self) -> bool:
        return True  # a plan is something, however many rows it will have

    @property
    def cells(self) -> list[Cell]:
        """Disjoint cells that hold all rows, in the order of the sky."""
        return list(self.node.cells)

    @property
    def report(self) -> dict[str, Any]:
        """What was ingested and left out, or what a plan was expected to take and took; empty for a plan."""
        return {} if self.store is None else dict(self.store.manifest.properties.get("report", {}))

    @property
    def version(self) -> int | None:
        """Number of the store's version, None for a plan and for another writer's catalog."""
        return None if self.store is None else self.store.manifest.number or None

    @property
    def versions(self) -> list[int]:
        """Numbers of all versions of the store, ascending; empty for a plan."""
        return [] if self.store is None else version_numbers(self.store.storage)

    @property
    def provenance(self) -> dict[str, Any]:
        """How the store was made, as W3C PROV-JSON; empty for a plan."""
        return {} if self.store is None else self.store.provenance

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

        Raises
        ------
        ArgumentError
            If the limit is no whole number, or negative.
        """
        if limit is not None and (not is_whole(limit) or limit < 0):
            raise ArgumentError("a number of rows is a whole number, not negative", found=repr(limit))
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
        storage_options: Mapping[str, Any] | None = None,
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
        storage_options : Mapping, optional
            For the file system of a remote URL.

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
        store = write_plan(
            self.node, open_storage(url, storage_options), replace=replace, on_error=on_error, restart=restart
        )
        if missing := store.manifest.properties["report"]["quarantined"]:
            cell, error = missing[0]
            told = f"{len(missing)} cells are missing, the first is {cell}: {error.partition(chr(10))[0]}"
            warnings.warn(f"{told}; .report['quarantined'] names all", IncompleteResult, stacklevel=2)
        return Catalog.of_store(store)

    @property
    def _what(self) -> str:
        return type(self.node).__name__.lower()


def _first_tables(tasks: Iterator[Task], limit: int) -> Iterator[pa.Table]:
    rows = 0
    for task in tasks:
        if rows >= limit:
            return
        table = task.run()
        rows += table.num_rows
        yield table
