"""The plan node of a sample of the rows."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sciplat.config import is_whole
from sciplat.errors import ArgumentError
from sciplat.lazy.fingerprint import Record
from sciplat.lazy.node import RowFilter
from sciplat.sky.cell import Cell
from sciplat.sky.coverage import Coverage, Ranges
from sciplat.steps.sample import can_name
from sciplat.tasks.quote import Cost, rates
from sciplat.tasks.sample import SampleTask

_ROW_BYTES = 25  # of a row: whether it is kept, and its place; measured


@dataclass(frozen=True)
class Sample(RowFilter):
    """Keep about a fraction of the rows, by a hash of each row's identity.

    Parameters
    ----------
    inner : Node
    fraction : float
        Above 0, at most 1.
    seed : int
        0 to 2**64 - 1.

    Raises
    ------
    ArgumentError
        If they are not.
    """

    fraction: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not _is_number(self.fraction) or not 0 < self.fraction <= 1:
            raise ArgumentError(
                "the fraction of a sample is above 0 and at most 1", found=repr(self.fraction), hint="0.01: one in 100"
            )
        if not is_whole(self.seed) or not 0 <= self.seed < 2**64:
            raise ArgumentError("the seed of a sample is an integer from 0 to 2**64 - 1", found=repr(self.seed))

    @property
    def _identity(self) -> str | None:
        name = self.properties["id"]
        return name if name in self.schema.names and can_name(self.schema.field(name).type) else None

    def task(self, cell: Cell, cover: Coverage | None = None) -> SampleTask:
        """Return the inner task with the other rows left out."""
        ra, dec = self.properties["position"]
        return SampleTask(self.inner.task(cell, cover), self._identity, (ra, dec), float(self.fraction), int(self.seed))

    def cost(self, cell: Cell) -> Cost:
        """Return the inner cost, with the rows that are kept: all of them are read."""
        inner = self.inner.cost(cell)
        memory = inner.size * (1 + self.fraction) + _ROW_BYTES * inner.rows
        return replace(
            inner,
            rows=inner.rows * self.fraction,
            places=inner.places * self.fraction,
            size=inner.size * self.fraction,
            memory=max(inner.memory, memory),
            seconds=inner.seconds + rates().within * inner.rows,  # a hash takes no longer than the test of a region
        )

    def describe(self) -> Record:
        """Return the fraction and the seed."""
        arguments = {"fraction": float(self.fraction), "seed": int(self.seed)}
        return {"op": "sample", "inner": self.inner.describe(), **arguments}

    def rows_in(self, ranges: Ranges) -> NDArray[np.float64]:
        """Return the fraction of the inner node's."""
        return self.inner.rows_in(ranges) * self.fraction


def _is_number(value: object) -> bool:
    return is_whole(value) or isinstance(value, float | np.floating)
