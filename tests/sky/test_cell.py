from itertools import pairwise

import astropy.units as u
import cdshealpix.nested
import numpy as np
import pytest
from astropy.coordinates import Latitude, Longitude
from hypothesis import given
from hypothesis import strategies as st

from sciplat.errors import PositionError, RegionError
from sciplat.sky.cell import Cell, cell_area, healpix_29, split_cells

cells = st.integers(0, 28).flatmap(lambda k: st.builds(Cell, st.just(k), st.integers(0, 12 * 4**k - 1)))


@pytest.mark.parametrize(("order", "index"), [(-1, 0), (30, 0), (0, 12), (3, -1)])
def test_impossible_cells_are_refused(order, index):
    with pytest.raises(RegionError, match=f"{order}/{index}"):
        Cell(order, index)


@given(cells)
def test_children_tile_their_parent(cell):
    children = cell.children
    assert (children[0].start, children[-1].stop) == (cell.start, cell.stop)
    assert all(a.stop == b.start for a, b in pairwise(children))


def test_twelve_cells_make_the_sky():
    assert 12 * cell_area(0) == pytest.approx(4 * np.pi * (180 / np.pi) ** 2)


def test_index_agrees_with_the_finest_cells_and_wraps():
    ra, dec = np.array([0.0, 359.999, -10.0, 45.0]), np.array([0.0, 90.0, -45.0, -90.0])
    index = healpix_29(ra, dec)
    assert (index == healpix_29(ra + 360, dec)).all()
    for order in (0, 5, 12):
        coarse = cdshealpix.nested.lonlat_to_healpix(Longitude(ra, u.deg), Latitude(dec, u.deg), order)
        assert (index >> 2 * (29 - order) == coarse.astype(np.int64)).all()


@pytest.mark.parametrize(("ra", "dec"), [(np.nan, 0), (0, np.nan), (np.inf, 0), (0, 90.1)])
def test_positions_off_the_sphere_are_refused(ra, dec):
    with pytest.raises(PositionError, match="row 1"):
        healpix_29([0.0, ra], [0.0, dec])


@given(st.lists(st.integers(0, 12 * 4**29 - 1), min_size=1, max_size=60), st.integers(1, 20))
def test_split_cells_hold_every_row_once_and_no_more_than_the_limit(indices, limit):
    index = np.sort(np.array(indices, dtype=np.int64))
    parts = split_cells(index, limit)
    assert [row for _, first, last in parts for row in range(first, last)] == list(range(len(index)))
    for cell, first, last in parts:
        assert (index[first:last] >= cell.start).all()
        assert (index[first:last] < cell.stop).all()
        assert last - first <= limit or cell.order == 29


def test_a_pile_on_one_point_ends_in_one_cell():
    parts = split_cells(np.full(1000, 12345, dtype=np.int64), 10)
    assert [(cell.order, first, last) for cell, first, last in parts] == [(29, 0, 1000)]
