"""The task that joins the rows of one cell to those that share their keys."""

from dataclasses import dataclass, field

import pyarrow as pa

from sciplat.sky.cell import Cell
from sciplat.steps.join import Joining, join
from sciplat.tasks.task import Task


@dataclass(frozen=True)
class HeldTask:
    """Return rows that travel with the task."""

    cell: Cell
    table: pa.Table = field(repr=False)

    def run(self) -> pa.Table:
        """Return the rows."""
        return self.table


@dataclass(frozen=True)
class JoinTask:
    """Join the rows of a cell to others.

    Parameters
    ----------
    left : Task
        Gives the rows of the cell.
    parts : tuple of Task
        Give the rows that they are joined to, in the order of the sky.
    other : pyarrow.Schema
        Of the latter.
    joining : Joining
    """

    left: Task
    parts: tuple[Task, ...]
    other: pa.Schema = field(repr=False)
    joining: Joining

    @property
    def cell(self) -> Cell:
        """The left task's cell."""
        return self.left.cell

    def run(self) -> pa.Table:
        """Run the left task, the others if it gives rows, and join them."""
        left = self.left.run()
        parts = [part.run() for part in self.parts] if left.num_rows else []
        right = pa.concat_tables([self.other.empty_table(), *parts])
        return join(left, right, self.joining)
