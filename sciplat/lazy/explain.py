"""What a plan will take, before it runs."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What a task is expected to take.

    Parameters
    ----------
    read : float
        Bytes from storage.
    rows : float
        Rows of the result.
    memory : float
        Bytes held at once.
    """

    read: float
    rows: float
    memory: float


@dataclass(frozen=True)
class Plan:
    """The quote of a plan.

    Parameters
    ----------
    cells : int
        Cells of the result before they are split for their rows.
    tasks : int
        One for each cell.
    reads, stored : int
        Bytes that are read, of those that the inputs have.
    rows : int
        Expected rows, if sources are spread evenly over the cells of order 8.
    writes : int
        Expected bytes in memory of the result.
    memory : int
        Bytes of the largest task.
    """

    cells: int
    tasks: int
    reads: int
    stored: int
    rows: int
    writes: int
    memory: int

    def __str__(self) -> str:
        return (
            f"{self.cells:,} cells, {self.tasks:,} tasks, reads about {format_bytes(self.reads)} (of "
            f"{format_bytes(self.stored)}), writes about {self.rows:,} rows, {format_bytes(self.writes)}; "
            f"largest task {format_bytes(self.memory)}"
        )


def quote(costs: Iterable[Cost], stored: int, row_bytes: int) -> Plan:
    """Add up the costs of all tasks.

    Parameters
    ----------
    costs : iterable of Cost
    stored : int
        Bytes of the inputs.
    row_bytes : int
        Of one row of the result.
    """
    count, reads, rows, memory = 0, 0.0, 0.0, 0.0
    for cost in costs:
        count, reads, rows, memory = count + 1, reads + cost.read, rows + cost.rows, max(memory, cost.memory)
    read = min(round(reads), stored)
    return Plan(count, count, read, stored, round(rows), round(rows * row_bytes), round(memory))


def format_bytes(count: float) -> str:
    """Return a number of bytes as people read it, for example "1.9 GB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
