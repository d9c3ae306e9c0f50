"""What a plan will take, before it runs, in words."""

from dataclasses import dataclass

from sciplat.tasks.memory import Work
from sciplat.tasks.progress import format_bytes


@dataclass(frozen=True)
class Plan:
    """The quote of a plan.

    Parameters
    ----------
    cells : int
        Cells of the result before they are split for their rows.
    tasks : int
        One for each cell, more where a cell was cut because it needs more memory than a worker has.
    reads, stored : int
        Bytes that are read, of those that the inputs have.
    requests : int
        Reads of files or parts of files.
    rows : int
        Expected rows.
    writes : int
        Expected bytes in memory of the result.
    memory : int
        Bytes of the largest task.
    limit : int or None
        Bytes that a task may use.
    seconds : float
        Of one thread, without the time of users' functions.
    threads : int
        That are there now.
    calibrated : bool
        Whether the seconds follow from measurements of the machine that runs the plan.
    functions : bool
        Whether users' functions come on top, whose time nobody knows.
    """

    cells: int
    tasks: int
    reads: int
    stored: int
    requests: int
    rows: int
    writes: int
    memory: int
    limit: int | None
    seconds: float
    threads: int
    calibrated: bool
    functions: bool

    def __str__(self) -> str:
        limit = f" of {format_bytes(self.limit)}" if self.limit else ""
        elapsed = f"about {format_seconds(self.seconds)} of one core, "
        elapsed += f"{format_seconds(self.seconds / self.threads)} on {self.threads} threads"
        elapsed += ", without the time of your functions" if self.functions else ""
        known = "" if self.calibrated else " (a guess: sciplat calibrate measures this machine)"
        return (
            f"{self.cells:,} cells, {self.tasks:,} tasks, reads about {format_bytes(self.reads)} (of "
            f"{format_bytes(self.stored)}) in {self.requests:,} requests, writes about {self.rows:,} rows, "
            f"{format_bytes(self.writes)}; largest task {format_bytes(self.memory)}{limit}; {elapsed}{known}"
        )


def explain(work: Work, stored: int, *, limit: int | None, threads: int, calibrated: bool, functions: bool) -> Plan:
    """Return the quote of planned work; `stored` are the bytes of the inputs."""
    total = work.total
    return Plan(
        cells=work.cells,
        tasks=len(work),
        reads=min(round(total.read), stored),
        stored=stored,
        requests=round(total.requests),
        rows=round(total.rows),
        writes=round(total.size),
        memory=round(total.memory),
        limit=limit,
        seconds=total.seconds,
        threads=threads,
        calibrated=calibrated,
        functions=functions,
    )


def format_seconds(seconds: float) -> str:
    """Return a time as people read it, for example "42 min"."""
    size, unit = next(((size, unit) for size, unit in ((3600, "h"), (60, "min")) if seconds >= 2 * size), (1, "s"))
    count = seconds / size
    return f"{count:.2g} {unit}" if count < 10 else f"{count:,.0f} {unit}"
