"""Working on tasks where they run: every task of a bundle ends in an outcome, and none in an error of the bundle."""

import os
import platform
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from sciplat.errors import SciplatError, TaskFailed, may_pass
from sciplat.sky.cell import Cell
from sciplat.tasks.task import Task
from sciplat.tasks.workers import resident_memory, settle

Result = TypeVar("Result")
_LATE = 5.0  # seconds after which a bundle takes up no further task


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What came of one task.

    Parameters
    ----------
    cell : Cell
    seconds : float
        That it took a thread.
    result : object, optional
        None if it failed.
    error : SciplatError, optional
    """

    cell: Cell
    seconds: float
    result: Result | None = None
    error: SciplatError | None = None


@dataclass(frozen=True)
class BundleReport(Generic[Result]):
    """What came of a bundle.

    Parameters
    ----------
    outcomes : tuple of Outcome
        Of its tasks, in their order; the last ones may not have been taken up.
    process : str
        That worked on it.
    memory : int
        Bytes of that process at the end.
    read : tuple of int
        Bytes that the process had read before and after, whatever for; zeros where the system does not tell.
    """

    outcomes: tuple[Outcome[Result], ...]
    process: str
    memory: int
    read: tuple[int, int]


def attempt_all(function: Callable[[Task], Result], tasks: Sequence[Task], what: str) -> BundleReport[Result]:
    """Apply `function` to the tasks; `what` names the work in errors.

    A bundle that takes much longer than it was quoted ends early, so that what is done is committed and counted.
    """
    settle()
    before = _bytes_read()
    outcomes: list[Outcome[Result]] = []
    end = time.monotonic() + _LATE
    for task in tasks:
        outcomes.append(_attempt(function, task, what))
        if time.monotonic() > end:
            break
    return BundleReport(tuple(outcomes), f"{platform.node()}:{os.getpid()}", resident_memory(), (before, _bytes_read()))


def _bytes_read() -> int:
    """Return the bytes that this process has ever read."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:  # not on macOS
        return 0
    return int(dict(line.split(": ") for line in lines)["rchar"])


def _attempt(function: Callable[[Task], Result], task: Task, what: str) -> Outcome[Result]:
    start = time.perf_counter()
    result, failure = None, None
    try:
        result = function(task)
    except Exception as error:  # noqa: BLE001  # whatever a task raises is its outcome
        failure = as_failure(error, f"{what} of cell {task.cell}")
    return Outcome(task.cell, time.perf_counter() - start, result, failure)


def as_failure(error: Exception, what: str) -> SciplatError:
    """Return an error as one of ours that travels between processes, with the traceback at hand."""
    if isinstance(error, SciplatError):
        if not getattr(error, "__notes__", None):
            error.add_note(f"in {what}")
        return error
    told = " ".join(str(error).split())[:500]
    failure = TaskFailed(
        f"{what} failed",
        found=f"{type(error).__name__}: {told}" if told else type(error).__name__,
        hint="the worker's traceback is in error.traceback; sciplat replay runs the cell alone",
    )
    failure.traceback = "".join(traceback.format_exception(error))
    if may_pass(error):
        failure.kind = "transient"
    return failure
