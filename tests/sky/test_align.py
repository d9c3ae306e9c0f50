from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sciplat.sky.align import common_cells, common_ranges, joined_cells, meeting_pairs
from sciplat.sky.cell import Cell, cell_ranges
from sciplat.sky.coverage import Coverage
from tests.strategies import partitions

cells = st.integers(0, 4).flatmap(lambda k: st.builds(Cell, st.just(k), st.integers(0, 12 * 4**k - 1)))


@given(st.lists(cells, max_size=10), st.lists(cells, max_size=10))
def test_meeting_pairs_are_all_pairs_that_share_an_index(left, right):
    a, b = cell_ranges(left), Coverage.from_cells(right).ranges
    brute = [(i, j) for i in range(len(a)) for j in range(len(b)) if a[i, 0] < b[j, 1] and b[j, 0] < a[i, 1]]
    assert list(zip(*(index.tolist() for index in meeting_pairs(a, b)), strict=True)) == brute


@given(st.lists(cells, max_size=10), st.lists(cells, max_size=10))
def test_common_ranges_are_the_parts_inside(left, right):
    a, b = cell_ranges(left), Coverage.from_cells(right).ranges
    parts = common_ranges(a, b)
    starts = np.arange(12 * 4**4) << 50
    inside = Coverage.from_cells(left).contains(starts) & Coverage(b).contains(starts)
    assert (Coverage.from_ranges(parts).contains(starts) == inside).all()


@given(partitions(), st.lists(cells, max_size=8), st.integers(0, 4))
def test_common_cells_hold_the_coverage_once(whole, touched, order):
    coverage = Coverage.from_cells(touched)
    parts = common_cells(whole, coverage, order)
    assert all(whole[i].start <= part.start and part.stop <= whole[i].stop for part, i in parts)
    assert all(a.stop <= b.start for (a, _), (b, _) in pairwise(parts))
    assert all(part.order >= order for part, _ in parts)
    held = Coverage.from_cells([part for part, _ in parts])
    starts = np.arange(12 * 4**4) << 50
    wanted = coverage.contains(starts) & Coverage.from_cells(whole).contains(starts)
    assert held.contains(starts[wanted]).all()


@given(partitions(), partitions(), st.data())
def test_joined_cells_cover_both_sides_and_cut_no_cell_in_two_ways(left, right, data):
    left, right = (data.draw(st.lists(st.sampled_from(side), unique=True)) for side in (left, right))
    joined = joined_cells(sorted(left, key=lambda cell: cell.start), sorted(right, key=lambda cell: cell.start))
    assert all(a.stop <= b.start for a, b in pairwise(joined))
    assert Coverage.from_cells(joined).ranges.tolist() == Coverage.from_cells([*left, *right]).ranges.tolist()
    for side in (left, right):
        for cell in joined:
            meeting = [whole for whole in side if whole.start < cell.stop and cell.start < whole.stop]
            assert all(whole.start <= cell.start and cell.stop <= whole.stop for whole in meeting)


@given(partitions(), partitions(max_splits=3))
def test_joined_cells_are_no_finer_than_they_must_be(left, right):
    joined = joined_cells(left, right)
    assert joined == joined_cells(right, left)
    both = [*left, *right]
    finest = [max(cell for cell in both if cell.start <= part.start < cell.stop) for part in joined]
    assert joined == finest  # both tile the sky: nothing remains of a coarse cell
    assert joined_cells(left, left) == left
    assert joined_cells(left, []) == left
    assert joined_cells([], []) == []


def test_what_remains_of_a_coarse_cell_is_cut_as_little_as_possible():
    remains = [Cell(2, 48), Cell(2, 49), Cell(2, 51), Cell(1, 13), Cell(1, 14), Cell(1, 15)]
    expected = sorted([*remains, Cell(2, 50), Cell(0, 9)], key=lambda cell: cell.start)
    assert joined_cells([Cell(0, 3)], [Cell(2, 50), Cell(0, 9)]) == expected
