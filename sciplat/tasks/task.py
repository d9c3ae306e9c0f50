"""Tasks: a step bound to one cell and to what it must read. They travel to workers, so they hold no open files."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from sciplat.io.catalog_store import read_cell
from sciplat.io.publish import FileEntry
from sciplat.io.staging import Tally
from sciplat.io.storage import Storage
from sciplat.sky.cell import Cell
from sciplat.sky.coverage import Coverage
from sciplat.sky.region import Region

_TALLY = b"tally"  # in the metadata of a task's rows


class Task(Protocol):
    """Work on one cell of a result."""

    @property
    def cell(self) -> Cell:
        """The cell that all rows of the result lie in."""
        ...

    def run(self) -> pa.Table:
        """Read, compute, and return the rows, sorted by `_healpix_29`."""
        ...


def rows_of(tasks: Iterable[Task], schema: pa.Schema) -> pa.Table:
    """Run tasks one after the other and return all their rows, of which a schema names the columns."""
    tables = (task.run().select(schema.names) for task in tasks)
    return pa.concat_tables([schema.empty_table(), *tables])


def with_tally(table: pa.Table, tally: Tally) -> pa.Table:
    """Return a task's rows with numbers by name, which are summed over all tasks of a plan."""
    return table.replace_schema_metadata({_TALLY: json.dumps(tally)})


def without_tally(table: pa.Table) -> tuple[pa.Table, Tally | None]:
    """Return a task's rows without these numbers, and the numbers."""
    told = (table.schema.metadata or {}).get(_TALLY)
    return (table, None) if told is None else (table.replace_schema_metadata(None), json.loads(told))


@dataclass(frozen=True)
class ScanTask:
    """Read one cell of a catalog, or the part of it that lies in a finer cell or in a region.

    Parameters
    ----------
    storage : Storage
        Of the catalog.
    file : FileEntry
    cell : Cell
        Rows outside are left out.
    columns : tuple of str
    cover : Coverage, optional
        Rows outside may be left out, and row groups outside are not read.
    bounds : tuple of (str, (low, high))
        Columns with inclusive intervals, None where they are open: row groups without a row inside are not read.
    """

    storage: Storage
    file: FileEntry
    cell: Cell
    columns: tuple[str, ...]
    cover: Coverage | None = None
    bounds: tuple[tuple[str, tuple[Any, Any]], ...] = ()

    def run(self) -> pa.Table:
        """Read the rows."""
        cover = Coverage.from_cells([self.cell]) if self.cover is None else self.cover
        ranges = cover.clipped(self.cell.start, self.cell.stop)
        return read_cell(self.storage, self.file, self.columns, ranges, dict(self.bounds), cover.squares)


@dataclass(frozen=True)
class WithinTask:
    """Keep the rows of another task that lie in a region."""

    inner: Task
    region: Region
    position: tuple[str, str]

    @property
    def cell(self) -> Cell:
        """The other task's cell."""
        return self.inner.cell

    def run(self) -> pa.Table:
        """Run the other task and keep the rows inside."""
        table, _ = without_tally(self.inner.run())  # of all rows
        ra, dec = (table[name].to_numpy() for name in self.position)
        return table.filter(pa.array(self.region.contains(ra, dec)))


@dataclass(frozen=True)
class SelectTask:
    """Keep some columns of another task."""

    inner: Task
    columns: tuple[str, ...]

    @property
    def cell(self) -> Cell:
        """The other task's cell."""
        return self.inner.cell

    def run(self) -> pa.Table:
        """Run the other task and keep the columns."""
        return self.inner.run().select(list(self.columns))
