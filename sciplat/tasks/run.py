"""One run of a plan's tasks: handed out in bundles, tried again or set aside where they fail, watched on the way."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from sciplat.errors import SciplatError, TaskFailed
from sciplat.io.staging import Tally
from sciplat.sky.cell import Cell
from sciplat.tasks.attempt import BundleReport, Outcome, as_failure
from sciplat.tasks.bundle import bundles
from sciplat.tasks.log import RunLog
from sciplat.tasks.memory import Work
from sciplat.tasks.progress import Progress
from sciplat.tasks.retry import OnError, Retries
from sciplat.tasks.stream import Done, Stream
from sciplat.tasks.task import Task
from sciplat.tasks.workers import Workers

Result = TypeVar("Result")
Bundle = list[Task]


@dataclass
class Run(Generic[Result]):
    """Runs the tasks of a plan, and knows what they have taken so far.

    Parameters
    ----------
    what : str
        For people: "photometry".
    work : Work
        The plan's cells.
    task : callable
        Makes the task of a cell.
    workers : Workers
    on_error : {"raise", "quarantine"}
        Whether a cell that cannot be done ends the run, or is set aside while the rest goes on.
    log : RunLog, optional
    tally : dict
        Numbers by name that come on top of those of the tasks.
    """

    what: str
    work: Work = field(repr=False)
    task: Callable[[Cell], Task]
    workers: Workers
    on_error: OnError = "raise"
    log: RunLog | None = None
    tally: Tally = field(default_factory=dict)
    cells: int = field(default=0, init=False)
    rows: int = field(default=0, init=False)
    memory: int = field(default=0, init=False)  # bytes of the largest process
    retries: Retries = field(init=False)
    _began: float = field(default_factory=perf_counter, init=False)
    _read: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)
    _suspects: deque[Bundle] = field(default_factory=deque, init=False)  # tasks whose worker process died under them
    _on_trial: Bundle | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.retries = Retries(self.on_error)

    def outcomes(
        self,
        function: Callable[[Bundle], BundleReport[Result]],
        rows: Callable[[Result], int],
        numbers: NDArray[np.int64] | None = None,
    ) -> Iterator[Outcome[Result]]:
        """Yield the cells that are over, done or set aside, in any order.

        Parameters
        ----------
        function : callable
            Works on a bundle, on a worker.
        rows : callable
            Returns the rows in a task's result.
        numbers : ndarray of int64, shape (n,), optional
            The cells to be done; all by default.
        """
        left = np.arange(len(self.work)) if numbers is None else numbers
        groups = bundles(self.work.seconds[left], self.workers.threads)
        tasks = ([self.task(self.work.cell(left[i])) for i in group] for group in groups)
        bar = Progress(self.what, len(self.work), done=len(self.work) - len(left))
        with bar, Stream(function, tasks, self.workers, idle=lambda: self._show(bar)) as stream:
            for done in stream:
                for outcome in self._over(done, stream):
                    count = 0 if outcome.result is None else rows(outcome.result)
                    self.cells, self.rows = self.cells + 1, self.rows + count
                    bar.advance(rows=count)
                    yield outcome
                self._try_suspect(stream)
                self._show(bar)

    def _over(self, done: Done[Bundle, BundleReport[Result]], stream: Stream[Bundle, Any]) -> Iterator[Outcome[Result]]:
        """Yield the cells of a bundle that are over; hand the others out again."""
        on_trial, killed = done.item is self._on_trial, type(done.error).__name__ == "KilledWorker"
        if on_trial:
            self._on_trial = None
        if done.result is not None:
            self._note_process(done.result)
            outcomes: Sequence[Outcome[Result]] = done.result.outcomes
            for task in done.item[len(outcomes) :]:  # it took longer than it was quoted: no more together
                stream.again([task])
        elif killed and not on_trial:  # by one of its tasks, or by one of another bundle on the same worker?
            self._suspects.extend([task] for task in done.item)
            return
        elif len(done.item) > 1:
            for task in done.item:
                stream.again([task])
            return
        else:
            outcomes = [self._lost(done.item[0], done.error)]
        tasks = {task.cell: task for task in done.item}
        for outcome in outcomes:
            wait = None if outcome.error is None else self._judge(outcome.cell, outcome.error)
            if wait is None:
                yield outcome
            elif killed:
                self._suspects.append([tasks[outcome.cell]])
            else:
                stream.again([tasks[outcome.cell]], after=wait)

    def _try_suspect(self, stream: Stream[Bundle, Any]) -> None:
        """Hand out one suspect at a time, so that none pays for what another does to their worker."""
        if self._on_trial is None and self._suspects:
            self._on_trial = self._suspects.popleft()
            stream.again(self._on_trial)

    def _judge(self, cell: Cell, error: SciplatError) -> float | None:
        wait = self.retries.judge(cell, error)
        if self.log is not None:
            self.log.failure("quarantined" if wait is None else "retried", error, cell=str(cell))
        return wait

    def _lost(self, task: Task, error: Exception | None) -> Outcome[Result]:
        """Return the outcome of a task of which nothing came back."""
        where = f"{self.what} of cell {task.cell}"
        if type(error).__name__ == "KilledWorker":
            error = TaskFailed(
                f"{where} ended its worker process again and again",
                found="no word of why: too little memory, a crash in compiled code, or a walltime that is too short",
                hint="workers with more memory; sciplat replay runs the cell alone",
            )
        return Outcome(task.cell, 0.0, None, as_failure(error or RuntimeError("no answer"), where))

    def _note_process(self, report: BundleReport[Result]) -> None:
        self.memory = max(self.memory, report.memory)
        first, last = self._read.get(report.process, report.read)
        self._read[report.process] = min(first, report.read[0]), max(last, report.read[1])

    def _show(self, bar: Progress) -> None:
        aside = len(self.retries.quarantined)
        note = f"{aside} cells quarantined" if aside else ""
        bar.show(memory=self.memory, note=note if self.workers.present else "waiting for workers")
        if self.log is not None:
            self.log.progress(**self.standing())

    def standing(self) -> dict[str, Any]:
        """Return how far this run has come."""
        return {
            "cells": self.cells,
            "rows": self.rows,
            "elapsed": round(perf_counter() - self._began, 3),
            "memory": self.memory,
            "read": sum(last - first for first, last in self._read.values()),
            "retried": self.retries.repeated,
            "quarantined": len(self.retries.quarantined),
        }
