"""The tasks that make groups of the rows of a cell, and of what lies around it."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.sky.cell import Cell
from sciplat.steps.groups import Linking, group_catalogs, group_rows
from sciplat.tasks.task import Task, rows_of


@dataclass(frozen=True)
class AroundTask:
    """Gather the rows of a catalog in a cell and around it.

    Parameters
    ----------
    cell : Cell
    parts : tuple of Task
        In the order of the sky; rows farther away do no harm.
    schema : pyarrow.Schema
        Of their rows, in this order or another one; others are left out.
    """

    cell: Cell
    parts: tuple[Task, ...]
    schema: pa.Schema = field(repr=False)

    def run(self) -> pa.Table:
        """Run the parts."""
        return rows_of(self.parts, self.schema)


@dataclass(frozen=True)
class GroupsTask:
    """Give the rows of a cell the number and the size of their groups.

    Parameters
    ----------
    inner : Task
        Gives the rows of the cell.
    around : AroundTask
        Gives the positions of those around it, perhaps with some of its own.
    position : tuple of str
        Names of the right ascension and declination.
    linking : Linking
    """

    inner: Task
    around: AroundTask
    position: tuple[str, str]
    linking: Linking

    @property
    def cell(self) -> Cell:
        """The inner task's cell."""
        return self.inner.cell

    def run(self) -> pa.Table:
        """Run the inner task, look around if it gives rows, and make the groups."""
        own = self.inner.run()
        around = self.around.run() if own.num_rows else self.around.schema.empty_table()
        first, last = np.searchsorted(around[HEALPIX_COLUMN].to_numpy(), [self.cell.start, self.cell.stop])
        around = pa.concat_tables([around.slice(0, first), around.slice(last)])
        return group_rows(own, around, self.position, self.linking)


@dataclass(frozen=True)
class CrossmatchManyTask:
    """Make groups of the rows of many catalogs.

    Parameters
    ----------
    cell : Cell
        That the groups belong to.
    catalogs : tuple of AroundTask
        Each gives the rows of a catalog in the cell and around it.
    positions : tuple of tuple of str
        Names of the right ascension and declination in each.
    kept : tuple of tuple of (str, str)
        Columns of each, with their names in the result.
    linking : Linking
    schema : pyarrow.Schema
        Of the result.
    """

    cell: Cell
    catalogs: tuple[AroundTask, ...]
    positions: tuple[tuple[str, str], ...]
    kept: tuple[tuple[tuple[str, str], ...], ...]
    linking: Linking
    schema: pa.Schema = field(repr=False)

    def run(self) -> pa.Table:
        """Read the catalogs and make the groups."""
        tables = [catalog.run() for catalog in self.catalogs]
        return group_catalogs(tables, self.positions, self.kept, self.linking, self.cell, self.schema)
