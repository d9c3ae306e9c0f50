"""Catalogs as users see them: lazy collections of rows on the sky, each method a new one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sciplat.errors import ArgumentError, ColumnError
from sciplat.io.catalog_store import CatalogStore, open_catalog_store
from sciplat.io.catalog_writer import CatalogWriter
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.io.image_store import TABLE
from sciplat.io.storage import open_storage
from sciplat.lazy.explain import Plan, quote
from sciplat.lazy.node import Nest, Node, Scan, Select, Within, row_bytes
from sciplat.sky.cell import Cell
from sciplat.sky.region import Region
from sciplat.tasks.stream import stream
from sciplat.tasks.task import Task
from sciplat.tasks.write import write_catalog

if TYPE_CHECKING:
    import os

    import pandas as pd
    from astropy.table import Table


@dataclass(frozen=True)
class Catalog:
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
        """What was ingested, and what was left out; empty for a plan or its result."""
        return dict(self.properties.get("report", {}))

    @property
    def version(self) -> int | None:
        """Number of the store's version, None for a plan."""
        return None if self.store is None else self.store.manifest.number

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

    def explain(self) -> Plan:
        """Say what running this takes: cells, tasks, bytes and memory. Nothing is read or run."""
        costs = (self.node.cost(cell) for cell in self.node.cells)
        return quote(costs, self.stored, row_bytes(self.schema))

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
            # tasks end in any order; their cells put the rows back into the order of the sky
            parts = dict(stream(_run_task, self._tasks()))
            tables = [parts[cell] for cell in self.node.cells]
        else:
            tables = list(_first_tables(self._tasks(), limit))
        return pa.concat_tables([self.schema.empty_table(), *tables]).slice(0, limit)

    def head(self, n: int = 5) -> pa.Table:
        """Return the first rows."""
        return self.compute(limit=n)

    def write(self, url: "str | os.PathLike[str]", *, replace: bool = False) -> "Catalog":
        """Run the plan and publish its rows as a catalog store.

        Parameters
        ----------
        url : str or path
            Of the new store; a relative path is made absolute.
        replace : bool
            Publish a new version of the store that stands there; its older versions stay.

        Returns
        -------
        Catalog
            The store.

        Raises
        ------
        StoreExists
            If something stands there and is not to be replaced.
        ArgumentError
            If the result has no row.
        """
        properties = self.properties
        writer = CatalogWriter.begin(open_storage(url), properties, replace=replace)
        store = write_catalog(
            self._tasks(),
            self.schema,
            writer,
            what=type(self.node).__name__.lower(),
            total=len(self.node.cells),
            rows_per_cell=properties["rows_per_cell"],
        )
        return catalog_from_store(store)

    def to_pandas(self) -> "pd.DataFrame":
        """Run the plan and return a pandas DataFrame."""
        frame: pd.DataFrame = self.compute().to_pandas()
        return frame

    def to_astropy(self) -> "Table":
        """Run the plan and return an astropy Table with units and descriptions; missing values are masked."""
        from sciplat.lazy.exits import astropy_table

        return astropy_table(self.compute())

    def _tasks(self) -> Iterator[Task]:
        return (self.node.task(cell) for cell in self.node.cells)

    def _check_columns(self, columns: tuple[str, ...]) -> None:
        if missing := [column for column in columns if column not in self.columns]:
            raise ColumnError(f"there is no column {missing[0]!r}", found=", ".join(self.columns))


def open_catalog(
    url: "str | os.PathLike[str]",
    *,
    columns: list[str] | None = None,
    region: Region | None = None,
    version: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Catalog:
    """Open a catalog store; only its manifest is read.

    Parameters
    ----------
    url : str or path
    columns : list of str, optional
        As ``.select(*columns)``.
    region : Region, optional
        As ``.within(region)``.
    version : int, optional
        The newest by default.
    storage_options : Mapping, optional
        For the file system of a remote URL.

    Raises
    ------
    StoreNotFound
        If there is no such store or version.
    """
    storage = open_storage(url, storage_options)
    if storage.names(f"{TABLE}/versions"):
        raise ArgumentError(
            f"{url} is an image store, not a catalog", hint="open_images(url); its table of images is a catalog"
        )
    catalog = catalog_from_store(open_catalog_store(storage, version))
    catalog = catalog if columns is None else catalog.select(*columns)
    return catalog if region is None else catalog.within(region)


def catalog_from_store(store: CatalogStore) -> Catalog:
    """Return the catalog of an open store."""
    return Catalog(Scan(store, tuple(store.schema.names)), store, store.manifest.size)


def _run_task(task: Task) -> tuple[Cell, pa.Table]:
    return task.cell, task.run()


def _first_tables(tasks: Iterator[Task], limit: int) -> Iterator[pa.Table]:
    rows = 0
    for task in tasks:
        if rows >= limit:
            return
        table = task.run()
        rows += table.num_rows
        yield table
