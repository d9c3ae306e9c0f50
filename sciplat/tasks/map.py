"""The task of a user's own function: one cell's rows, with those of its surroundings if it asks for them."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from sciplat.errors import StepError
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.sky.cell import Cell, healpix_29
from sciplat.sky.coverage import Coverage
from sciplat.steps.map import Step, apply_step, step_on_cell
from sciplat.tasks.apart import apply_apart
from sciplat.tasks.output import bounded_output
from sciplat.tasks.task import Task


@dataclass(frozen=True)
class MapTask:
    """Call a function with the rows of a cell.

    Parameters
    ----------
    cell : Cell
    parts : tuple of Task
        Give the rows of the cell and of its surroundings, in the order of the sky.
    around : Coverage, optional
        The cell with its surroundings: what the function sees. The cell alone by default.
    step : callable
    schema : pyarrow.Schema
        Of the function's result.
    position : tuple of str
        Names of the right ascension and declination.
    timeout : float, optional
        Seconds after which the function is stopped.
    memory : int, optional
        Bytes that it may take. With either, it runs in a process of its own.
    """

    cell: Cell
    parts: tuple[Task, ...]
    around: Coverage | None
    step: Step
    schema: pa.Schema = field(repr=False)
    position: tuple[str, str]
    timeout: float | None = None
    memory: int | None = None

    def run(self) -> pa.Table:
        """Run the other tasks and call the function, unless the cell holds no row."""
        rows = pa.concat_tables([part.run() for part in self.parts])
        index = rows[HEALPIX_COLUMN].to_numpy()
        if not ((index >= self.cell.start) & (index < self.cell.stop)).any():
            return self.schema.empty_table()
        if self.around is not None:
            # where other cells end must not matter: the function sees the same rows for every partitioning
            rows = rows.filter(pa.array(self.around.contains(index)))
        surrounded = self.around is not None
        if self.timeout is None and self.memory is None:
            with bounded_output(step_on_cell(self.step, self.cell)):
                result = apply_step(self.step, rows, self.schema, self.cell, surrounded=surrounded)
        else:
            result = apply_apart(
                self.step,
                rows,
                self.schema,
                self.cell,
                surrounded=surrounded,
                timeout=self.timeout,
                memory=self.memory,
            )
        self._check_positions(result)
        return result

    def _check_positions(self, result: pa.Table) -> None:
        """Refuse rows that were moved: searches would not find them where they are."""
        ra, dec = (np.asarray(result[name].fill_null(np.nan)) for name in self.position)
        good = np.isfinite(ra) & (np.abs(dec) <= 90)
        moved = int((~good).sum())
        moved += int((healpix_29(ra[good], dec[good]) != result[HEALPIX_COLUMN].to_numpy()[good]).sum())
        if moved:
            raise StepError(
                f"{step_on_cell(self.step, self.cell)} moved rows",
                found=f"{moved:,} of {len(ra):,} rows whose {HEALPIX_COLUMN} is not that of their position",
                hint="put new positions into columns of their own, or ingest the result as a new catalog",
            )
