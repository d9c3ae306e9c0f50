"""The task that keeps a sample of the rows."""

from dataclasses import dataclass

import pyarrow as pa

from sciplat.sky.cell import Cell
from sciplat.steps.sample import sample
from sciplat.tasks.task import Task, without_tally


@dataclass(frozen=True)
class SampleTask:
    """Run another task and keep a part of its rows."""

    inner: Task
    identity: str | None
    position: tuple[str, str]
    fraction: float
    seed: int

    @property
    def cell(self) -> Cell:
        """The other task's cell."""
        return self.inner.cell

    def run(self) -> pa.Table:
        """Run the other task and keep the sample."""
        table, _ = without_tally(self.inner.run())  # of all rows
        return sample(table, self.identity, self.position, self.fraction, self.seed)
