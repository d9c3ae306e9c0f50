import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciplat.sky.cell import MAX_ORDER, Cell, cell_ranges, split_cells
from sciplat.sky.split import split_counted
from tests.strategies import partitions

SKY = [Cell(0, base) for base in range(12)]
SIZE = 12 << 2 * MAX_ORDER


def counter(index):
    """Return what counts sorted indices in ranges, and notes how often it is asked."""

    def count(ranges):
        count.calls += 1
        return np.searchsorted(index, ranges[:, 1]) - np.searchsorted(index, ranges[:, 0])

    count.calls = 0
    return count


# clustered as stars are: anywhere, near one place, and at one place
indices = st.lists(
    st.one_of(st.integers(0, SIZE - 1), st.integers(7 << 50, (7 << 50) + 5000), st.just(12345678901234567)),
    max_size=60,
).map(lambda found: np.sort(np.array(found, dtype=np.int64)))


@given(indices, st.integers(1, 20))
def test_counting_finds_the_cells_that_holding_all_rows_finds(index, limit):
    held = [(cell, last - first) for cell, first, last in split_cells(index, limit)]
    assert split_counted(SKY, counter(index), limit) == held


@given(indices, partitions(), st.integers(1, 20))
def test_cells_stay_inside_their_roots_and_are_the_coarsest(index, roots, limit):
    found = split_counted(roots, counter(index), limit)
    ranges = cell_ranges([cell for cell, _ in found])
    assert sum(rows for _, rows in found) == len(index)
    assert (ranges[1:, 0] >= ranges[:-1, 1]).all()
    for (cell, rows), (start, stop) in zip(found, ranges, strict=True):
        assert rows == np.count_nonzero((index >= start) & (index < stop)) > 0
        assert rows <= limit or cell.order == MAX_ORDER
        assert any(root.start <= start < stop <= root.stop for root in roots)
        if cell not in roots:  # four times as large, it would hold too many
            parent = Cell(cell.order - 1, cell.index // 4)
            assert np.count_nonzero((index >= parent.start) & (index < parent.stop)) > limit


@pytest.mark.parametrize("limit", [1, 100])
def test_a_pile_at_one_place_ends_in_a_cell_of_the_highest_order(limit):
    count = counter(np.full(1000, 999_999_999_999))
    assert split_counted(SKY, count, limit) == [(Cell(MAX_ORDER, 999_999_999_999), 1000)]
    assert count.calls <= 5


def test_nothing_gives_no_cell():
    assert split_counted(SKY, counter(np.empty(0, np.int64)), 10) == []
    assert split_counted([], counter(np.empty(0, np.int64)), 10) == []
