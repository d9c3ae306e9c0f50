"""Cells whose tasks fit a worker's memory: each one's need is projected before anything runs, and cut where it can."""

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from sciplat.errors import TaskTooLarge
from sciplat.sky.cell import MAX_ORDER, Cell, index_ranges
from sciplat.tasks.progress import format_bytes
from sciplat.tasks.quote import Cost

_FIELDS = [field.name for field in fields(Cost)]
_DEEPEST = 12  # orders below a cell at which cutting it has not helped


@dataclass(frozen=True, eq=False)
class Work:
    """The cells of a plan and what each takes, in arrays: a million cells are a few megabytes.

    Parameters
    ----------
    order, index : ndarray, shape (n,)
        Of each cell, in the order of the sky.
    seconds : ndarray, shape (n,)
    total : Cost
        Sums over all cells; ``memory`` is the largest.
    cells : int
        Of the plan; some may have been cut because they need more than a worker has.
    """

    order: NDArray[np.int8]
    index: NDArray[np.int64]
    seconds: NDArray[np.float64]
    total: Cost
    cells: int

    def __len__(self) -> int:
        return len(self.order)

    def cell(self, number: int) -> Cell:
        """Return one of the cells."""
        return Cell(int(self.order[number]), int(self.index[number]))

    @property
    def ranges(self) -> NDArray[np.int64]:
        """The cells as ranges of order-29 indices, shape (n, 2)."""
        return index_ranges(self.order, self.index)


def plan_work(
    cells: Iterable[Cell], cost: Callable[[Cell], Cost], *, limit: int | None = None, what: str = "work"
) -> Work:
    """Project every cell's need, and cut the cells that need more than `limit` into finer ones.

    Parameters
    ----------
    cells : iterable of Cell
    cost : callable
        Of a cell or a part of one.
    limit : int, optional
        Bytes that one task may use.
    what : str
        Names the work in the error.

    Raises
    ------
    TaskTooLarge
        If cutting does not help.
    """
    order, index, costs, count = array("b"), array("q"), [array("d") for _ in _FIELDS], 0
    for cell in cells:
        count += 1
        need = cost(cell)
        fits = limit is None or need.memory <= limit
        for part, part_need in [(cell, need)] if fits else _cut(cell, cost, limit or 0, what):
            order.append(part.order)
            index.append(part.index)
            for column, name in zip(costs, _FIELDS, strict=True):
                column.append(getattr(part_need, name))
    columns = {name: np.array(column) for name, column in zip(_FIELDS, costs, strict=True)}
    totals = {name: float(column.sum()) for name, column in columns.items()}
    totals["memory"] = float(columns["memory"].max(initial=0.0))
    return Work(np.array(order), np.array(index), columns["seconds"], Cost(**totals), count)


def _cut(cell: Cell, cost: Callable[[Cell], Cost], limit: int, what: str) -> list[tuple[Cell, Cost]]:
    """Return the coarsest parts of a cell that fit, in the order of the sky."""
    fitting: list[tuple[Cell, Cost]] = []
    waiting = [cell]
    while waiting:
        part = waiting.pop()
        need = cost(part)
        if need.memory <= limit:
            fitting.append((part, need))
        elif part.order >= min(cell.order + _DEEPEST, MAX_ORDER):
            raise TaskTooLarge(
                f"{what} of cell {cell} needs about {format_bytes(need.memory)} on one worker, however it is cut",
                found=f"{format_bytes(limit)} for each thread",
                hint="fewer columns with .select(...), fewer threads, or workers with more memory",
            )
        else:
            waiting.extend(reversed(part.children))
    return fitting
