"""Running a plan into a few numbers: every cell becomes a small partial result where it is read, and these are merged.

Merging is exact and its order makes no difference: cells may return in any order and from any number of workers.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import pyarrow as pa

from sciplat.tasks.attempt import BundleReport, Outcome, attempt_all
from sciplat.tasks.run import Run
from sciplat.tasks.task import Task

Partial = TypeVar("Partial")
_FEW = 100_000  # groups or bins that may wait to be merged


class Reduction(Protocol[Partial]):
    """What makes a partial result of rows, and one of several; it travels to workers."""

    @property
    def row_bytes(self) -> int:
        """Bytes that a row takes at most while it is reduced, beside the rows themselves."""
        ...

    def __call__(self, table: pa.Table) -> Partial:
        """Return the partial result of some rows, perhaps none."""
        ...

    def merged(self, parts: Sequence[Partial]) -> Partial:
        """Return the partial result of the rows of all parts, of which there is at least one."""
        ...


@dataclass(frozen=True)
class RowCount:
    """Counts rows."""

    row_bytes: ClassVar[int] = 0

    def __call__(self, table: pa.Table) -> int:
        """Return the number of rows."""
        return int(table.num_rows)

    def merged(self, parts: Sequence[int]) -> int:
        """Return the number of all rows."""
        return sum(parts)


@dataclass(frozen=True)
class Reduced(Generic[Partial]):
    """The rows of one cell, and the partial result of its whole bundle: the bundle's first cell carries it."""

    rows: int
    partial: Partial | None = None


@dataclass(frozen=True)
class ReduceBundle(Generic[Partial]):
    """Run the tasks of a bundle and return one partial result for all of them."""

    what: str
    reduction: Reduction[Partial]

    def __call__(self, tasks: Sequence[Task]) -> BundleReport[Reduced[Partial]]:
        """Return the rows of each task, and what they are reduced to."""
        report = attempt_all(self._reduce, tasks, self.what)
        return replace(report, outcomes=tuple(self._joined(report.outcomes)))

    def _reduce(self, task: Task) -> Reduced[Partial]:
        table = task.run()
        return Reduced(int(table.num_rows), self.reduction(table))

    def _joined(self, outcomes: Sequence[Outcome[Reduced[Partial]]]) -> Iterator[Outcome[Reduced[Partial]]]:
        parts = [part for one in outcomes if one.result and (part := one.result.partial) is not None]
        whole = self.reduction.merged(parts) if parts else None
        for outcome in outcomes:
            if outcome.result is None:
                yield outcome
            else:
                yield replace(outcome, result=Reduced(outcome.result.rows, whole))
                whole = None


def reduce_bundles(run: Run[Any], reduction: Reduction[Partial]) -> Generator[Partial, None, None]:
    """Yield the partial results of all bundles, in any order."""
    for outcome in run.outcomes(ReduceBundle(run.what, reduction), _rows):
        if outcome.result is not None and outcome.result.partial is not None:
            yield outcome.result.partial


def reduce_all(run: Run[Any], reduction: Reduction[Any], nothing: Any) -> Any:
    """Return the merged partial result of all cells.

    Parameters
    ----------
    run : Run
    reduction : Reduction
        Its partial results have a length.
    nothing : object
        The partial result of no rows.
    """
    total, waiting, size = nothing, [], 0
    with closing(reduce_bundles(run, reduction)) as parts:
        for part in parts:
            waiting.append(part)
            size += len(part)
            if size > max(len(total), _FEW):  # merging takes about as long as there are groups: not for every part
                total, waiting, size = reduction.merged([total, *waiting]), [], 0
    return reduction.merged([total, *waiting])


def _rows(reduced: Reduced[Any]) -> int:
    return reduced.rows
