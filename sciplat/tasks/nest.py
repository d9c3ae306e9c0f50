"""The task that gathers the rows of each key."""

from dataclasses import dataclass

import pyarrow as pa

from sciplat.sky.cell import Cell
from sciplat.steps.nest import nest
from sciplat.tasks.task import Task, without_tally


@dataclass(frozen=True)
class NestTask:
    """Run another task and gather its rows."""

    inner: Task
    by: str
    head: tuple[str, ...]
    columns: tuple[str, ...]
    name: str

    @property
    def cell(self) -> Cell:
        """The other task's cell."""
        return self.inner.cell

    def run(self) -> pa.Table:
        """Run the other task and gather its rows."""
        table, _ = without_tally(self.inner.run())  # of all rows
        return nest(table, self.by, self.head, self.columns, self.name)
