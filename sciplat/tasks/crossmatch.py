"""The task that matches the rows of one cell with those of another catalog around them."""

from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.sky.cell import Cell
from sciplat.steps.crossmatch import Matching
from sciplat.steps.matched import BOTH_SIDES, Completeness, Layout, crossmatch
from sciplat.tasks.task import Task, rows_of, with_tally


@dataclass(frozen=True, eq=False)
class CrossmatchTask:
    """Match the rows of a cell.

    Parameters
    ----------
    cell : Cell
    left, right : tuple of Task
        Give the rows of the cell, and what lies around it as far as it matters, in the order of the sky.
    schemas : tuple of pyarrow.Schema
        Of the left and the right rows.
    matching : Matching
    layout : Layout
    coverage : ndarray of int64, shape (n, 2)
        Ranges in which the right catalog has rows near.
    """

    cell: Cell
    left: tuple[Task, ...]
    right: tuple[Task, ...]
    schemas: tuple[pa.Schema, pa.Schema] = field(repr=False)
    matching: Matching
    layout: Layout = field(repr=False)
    coverage: NDArray[np.int64] = field(repr=False)

    def run(self) -> pa.Table:
        """Run the other tasks and match their rows; what became of the left ones stands in the schema's metadata."""
        left = rows_of(self.left, self.schemas[0])
        needed = left.num_rows or self.layout.how in BOTH_SIDES
        right = rows_of(self.right if needed else (), self.schemas[1])
        span = self.cell.start, self.cell.stop
        table, about = self.layout.schema.empty_table(), Completeness()
        if needed:
            table, about = crossmatch(left, right, span, self.matching, self.layout, self.coverage)
        return with_tally(table, {"completeness": asdict(about)})
