"""Running a plan into memory: the tables of all cells come back."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from sciplat.sky.cell import Cell
from sciplat.tasks.attempt import BundleReport, attempt_all
from sciplat.tasks.run import Run
from sciplat.tasks.task import Task


@dataclass(frozen=True)
class ComputeBundle:
    """Run the tasks of a bundle and return their rows."""

    what: str

    def __call__(self, tasks: Sequence[Task]) -> BundleReport[pa.Table]:
        """Return the rows of each task."""
        return attempt_all(_run, tasks, self.what)


def _run(task: Task) -> pa.Table:
    return task.run()


def compute_tables(run: Run[pa.Table]) -> list[pa.Table]:
    """Return the rows of every cell, in the order of the sky."""
    tables: dict[Cell, pa.Table] = {}
    for outcome in run.outcomes(ComputeBundle(run.what), _rows):
        tables[outcome.cell] = outcome.result
    # tasks end in any order; their cells put the rows back into the order of the sky
    return [tables[cell] for cell in sorted(tables, key=lambda cell: cell.start)]


def _rows(table: pa.Table) -> int:
    return int(table.num_rows)
