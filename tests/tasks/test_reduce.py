from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from sciplat.errors import ArgumentError, TaskFailed
from sciplat.sky.cell import Cell
from sciplat.steps.bins import BinCounts, count_bins, merge_bins
from sciplat.tasks import reduce
from sciplat.tasks.memory import plan_work
from sciplat.tasks.quote import Cost
from sciplat.tasks.reduce import ReduceBundle, RowCount, reduce_all, reduce_bundles
from sciplat.tasks.run import Run
from sciplat.tasks.workers import open_workers

CELLS = [Cell(3, index) for index in range(300)]


@dataclass(frozen=True)
class NumbersTask:
    """Gives as many rows as the cell's number says, of numbers modulo 7."""

    cell: Cell

    def run(self):
        return pa.table({"number": np.arange(self.cell.index) % 7})


@dataclass(frozen=True)
class BrokenTask:
    cell: Cell

    def run(self):
        raise ValueError("no rows here")


@dataclass(frozen=True)
class NumberCounts:
    row_bytes = 60

    def __call__(self, table):
        return count_bins(table["number"].to_numpy(), table.num_rows)

    def merged(self, parts):
        assert parts
        return merge_bins(parts)


def run_of(cells, task=NumbersTask):
    return Run("numbers", plan_work(cells, lambda cell: Cost(seconds=1e-3)), task, open_workers())


def test_rows_are_counted_and_told_to_the_run():
    run = run_of(CELLS)
    assert sum(reduce_bundles(run, RowCount())) == sum(range(300)) == run.rows
    assert run.cells == 300


def test_the_cells_of_a_bundle_come_back_as_one():
    report = ReduceBundle("numbers", NumberCounts())([NumbersTask(cell) for cell in CELLS[:20]])
    first, *others = [outcome.result for outcome in report.outcomes]
    assert [first.rows, *(other.rows for other in others)] == list(range(20))
    assert first.partial.rows == sum(range(20))
    assert all(other.partial is None for other in others)


def test_a_cell_that_fails_spoils_no_other():
    tasks = [BrokenTask(CELLS[5]), NumbersTask(CELLS[6]), NumbersTask(CELLS[7])]
    broken, *others = ReduceBundle("numbers", RowCount())(tasks).outcomes
    assert isinstance(broken.error, TaskFailed)
    assert [outcome.result.partial for outcome in others] == [13, None]


@pytest.mark.parametrize("few", [0, 10**6])
def test_however_they_are_merged_the_total_is_the_same(few, monkeypatch):
    monkeypatch.setattr(reduce, "_FEW", few)
    none = np.zeros(0, np.int64)
    total = reduce_all(run_of(CELLS), NumberCounts(), BinCounts(none, none, 0))
    numbers = np.concatenate([np.arange(index) % 7 for index in range(300)])
    assert total.counts.tolist() == np.bincount(numbers).tolist()
    nothing = reduce_all(run_of([]), NumberCounts(), BinCounts(none, none, 0))
    assert (len(nothing), nothing.rows) == (0, 0)


def test_an_error_of_a_task_or_of_merging_ends_the_run():
    with pytest.raises(TaskFailed, match="numbers of cell 3/"):
        sum(reduce_bundles(run_of(CELLS, BrokenTask), RowCount()))

    class Refusing(NumberCounts):
        def merged(self, parts):
            raise ArgumentError("too many")

    none = np.zeros(0, np.int64)
    with pytest.raises(ArgumentError, match="too many"):
        reduce_all(run_of(CELLS), Refusing(), BinCounts(none, none, 0))
