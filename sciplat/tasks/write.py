"""Running a plan: every task writes its own cell, only small reports come back, then everything is published."""

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from sciplat.errors import ArgumentError
from sciplat.io.catalog_store import CatalogStore
from sciplat.io.catalog_writer import CatalogWriter, CellReport, CellWriter
from sciplat.tasks.progress import progress
from sciplat.tasks.stream import stream
from sciplat.tasks.task import Task


@dataclass(frozen=True)
class WriteCell:
    """Run a task and write its rows, beside the data.

    Parameters
    ----------
    cells : CellWriter
    rows_per_cell : int
        A cell with more rows becomes several finer ones.
    """

    cells: CellWriter
    rows_per_cell: int

    def __call__(self, task: Task) -> CellReport:
        """Run and write one task."""
        return self.cells.write(task.cell, task.run(), self.rows_per_cell)


def write_catalog(
    tasks: Iterable[Task], schema: pa.Schema, writer: CatalogWriter, *, what: str, total: int, rows_per_cell: int
) -> CatalogStore:
    """Run all tasks and publish what they wrote; a failure leaves nothing behind.

    Parameters
    ----------
    tasks : iterable of Task
    schema : pyarrow.Schema
        Of their rows.
    writer : CatalogWriter
    what : str
        For the progress bar.
    total : int
        Number of tasks.
    rows_per_cell : int

    Raises
    ------
    ArgumentError
        If no task gave a row.
    """
    try:
        cells = stream(WriteCell(writer.cells, rows_per_cell), tasks)
        reports = list(progress(cells, what=what, total=total))
        if not any(report.files for report in reports):
            raise ArgumentError(
                "the result is empty, nothing was written",
                found=f"{total} cells without a row",
                hint="check with .explain() that the inputs meet on the sky",
            )
        return writer.publish(schema, reports)
    except BaseException:  # Ctrl-C as well: an unfinished version is no use to anybody
        writer.abandon()
        raise
