"""The task that joins the rows of one cell to those that share their keys."""

from dataclasses import dataclass, field

import pyarrow as pa

from sciplat.sky.cell import Cell
from sciplat.steps.join import Joining, join
from sciplat.tasks.task import Task, rows_of


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
        right = rows_of(self.parts if left.num_rows else (), self.other)
        return join(left, right, self.joining)
