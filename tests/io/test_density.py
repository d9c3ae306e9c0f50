import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciplat.io import density
from sciplat.io.cell_report import CellReport
from sciplat.io.density import encode_density, parse_density
from sciplat.sky.cell import Cell, cell_ranges

SKY = np.array([[0, 12 << 58]])
indices = st.lists(st.integers(0, (12 << 58) - 1) | st.integers(1 << 60, (1 << 60) + 40), max_size=200)


def knots_of(index, cells):
    index = np.array(sorted(index), dtype=np.int64)
    first, last = np.searchsorted(index, cell_ranges(cells)).T
    return [CellReport.of([], index[a:b]).knots for a, b in zip(first, last, strict=True)]


def density_of(index, cells):
    return parse_density(encode_density(knots_of(index, cells)))


BASES = [Cell(0, base) for base in range(12)]


@given(indices)
def test_all_rows_are_found_and_never_less_than_none(index):
    found = density_of(index, BASES)
    assert found.rows_in(SKY).sum() == pytest.approx(len(index))
    edges = np.linspace(0, 12 << 58, 50).astype(np.int64)
    counts = [found.rows_in(np.array([pair])).sum() for pair in itertools.pairwise(edges)]
    assert min(counts) >= 0
    assert sum(counts) == pytest.approx(len(index))


@given(indices)
def test_the_order_of_the_cells_does_not_matter(index):
    knots = knots_of(index, BASES)
    assert encode_density(knots) == encode_density(knots[::-1])


def test_rows_in_any_part_are_known_to_a_thousandth_of_the_cell():
    rng = np.random.default_rng(5)
    index = np.sort((rng.beta(0.3, 3, 50_000) * (1 << 58)).astype(np.int64)) + (5 << 58)
    found = density_of(index, [Cell(0, 5)])
    for start, stop in np.sort(rng.integers(5 << 58, 6 << 58, (200, 2)), axis=1):
        exact = np.searchsorted(index, stop) - np.searchsorted(index, start)
        assert found.rows_in(np.array([[start, stop]])).sum() == pytest.approx(exact, abs=2 * 50_000 / 1024 + 1)


def test_no_row_is_expected_between_cells():
    index = [*range(1 << 57, (1 << 57) + 1000), *range(9 << 58, (9 << 58) + 10)]
    found = density_of(index, BASES)
    assert found.rows_in(cell_ranges([Cell(0, base) for base in range(1, 9)])).sum() == 0
    assert found.rows_in(cell_ranges([Cell(0, 9)])).sum() == 10


def test_nothing_has_no_rows():
    assert parse_density(encode_density([])).rows_in(SKY).sum() == 0.0
    assert density_of([], BASES).rows_in(SKY).sum() == 0.0
    assert density_of([7], BASES).rows_in(np.empty((0, 2), dtype=np.int64)).sum() == 0.0


@pytest.mark.parametrize("most", [1, 2, 3, 50])
def test_a_long_one_is_thinned_and_keeps_its_ends(monkeypatch, most):
    monkeypatch.setattr(density, "_MOST_KNOTS", most)
    index = np.arange(0, 12 << 58, (12 << 58) // 997)
    found = density_of(index, BASES)
    assert len(found.index) <= most + 1
    assert found.rows_in(SKY).sum() == pytest.approx(len(index))
    assert found.rows_in(SKY // 2).sum() == pytest.approx(len(index) / 2, rel=0.02)
