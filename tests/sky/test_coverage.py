import cdshealpix.nested
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from hypothesis import given
from hypothesis import strategies as st
from mocpy import MOC

from sciplat.sky.cell import Cell, healpix_29
from sciplat.sky.coverage import Coverage, outline_coverage

cells = st.integers(0, 4).flatmap(lambda k: st.builds(Cell, st.just(k), st.integers(0, 12 * 4**k - 1)))


def members(coverage, order=4):
    shift = 2 * (29 - order)
    return {i for first, last in coverage.ranges.tolist() for i in range(first >> shift, last >> shift)}


def brute(listed, order=4):
    return {i for c in listed for i in range(c.start >> 2 * (29 - order), c.stop >> 2 * (29 - order))}


@given(st.lists(cells, max_size=12))
def test_a_coverage_is_the_union_of_its_cells(listed):
    coverage = Coverage.from_cells(listed)
    assert members(coverage) == brute(listed)
    assert (coverage.ranges[1:, 0] > coverage.ranges[:-1, 1]).all()


@given(st.lists(cells, max_size=12))
def test_uniq_codes_bring_it_back(listed):
    coverage = Coverage.from_cells(listed)
    assert np.array_equal(Coverage.from_uniq(coverage.to_uniq()).ranges, coverage.ranges)


@given(st.lists(cells, min_size=1, max_size=12))
def test_uniq_codes_are_those_of_mocpy(listed):
    moc = MOC.from_healpix_cells(
        np.array([c.index for c in listed], dtype=np.uint64), np.array([c.order for c in listed], dtype=np.uint8), 4
    )
    assert sorted(Coverage.from_cells(listed).to_uniq().tolist()) == sorted(moc.uniq_hpx.astype(np.int64).tolist())


def test_the_finest_cells_survive_uniq_coding():
    coverage = Coverage.from_cells([Cell(29, 0), Cell(29, 12 * 4**29 - 1), Cell(0, 5)])
    assert np.array_equal(Coverage.from_uniq(coverage.to_uniq()).ranges, coverage.ranges)


@given(st.lists(cells, max_size=8), st.lists(cells, max_size=8), st.integers(0, 4))
def test_unions_degrading_and_membership(left, right, order):
    a, b = Coverage.from_cells(left), Coverage.from_cells(right)
    assert members(Coverage.from_ranges(np.concatenate([a.ranges, b.ranges]))) == brute(left) | brute(right)
    coarse = {i >> 2 * (4 - order) for i in brute(left)}
    assert members(a.degraded(order), order) == coarse
    every = np.arange(12 * 4**4) << 50
    assert set(np.flatnonzero(a.contains(every))) == brute(left)
    for cell in right:
        assert a.meets(cell.start, cell.stop) == bool(brute(left) & brute([cell]))


@given(st.lists(cells, min_size=1, max_size=12), cells, st.integers(1, 4))
def test_clipping_loses_nothing_inside_and_adds_nothing_outside(listed, window, limit):
    coverage = Coverage.from_cells(listed)
    clipped = Coverage(coverage.clipped(window.start, window.stop, limit=limit))
    assert len(clipped.ranges) <= limit
    assert brute(listed) & brute([window]) <= members(clipped) <= brute([window])


@given(st.floats(0, 360), st.floats(-1, 1), st.floats(0.001, 5), st.integers(0, 100))
def test_an_outline_is_covered_with_its_inside(ra, sin_dec, size, seed):
    """A square on the tangent plane, wherever it lies: every point of it is in the coverage."""
    rng = np.random.default_rng(seed)
    edge = np.radians(size) * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    inside = np.radians(size) * rng.uniform(-1, 1, (200, 2))
    a, d = np.radians(ra), np.arcsin(sin_dec)
    pole = np.array([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])
    east = np.array([-np.sin(a), np.cos(a), 0])
    north = np.cross(pole, east)
    positions = []
    for plane in (edge, inside):
        v = pole + plane[:, :1] * east + plane[:, 1:] * north
        v /= np.linalg.norm(v, axis=1, keepdims=True)
        positions.append(
            (np.degrees(np.arctan2(v[:, 1], v[:, 0])) % 360, np.degrees(np.arcsin(np.clip(v[:, 2], -1, 1))))
        )
    coverage = outline_coverage(*positions[0])
    assert coverage.contains(healpix_29(*positions[1])).all()
    assert coverage.area < 3 * (2 * size) ** 2


squares = st.tuples(st.integers(0, 11), *[st.integers(0, 16)] * 4)


@given(st.lists(cells, max_size=12), st.lists(squares, max_size=4))
def test_squares_cut_what_is_inside_and_nothing_else(listed, boxes):
    """Places are cells of order 4, which lie on a face of 16 by 16: bits of x and y alternate in an index."""
    whole = Coverage.from_cells(listed)
    cut = Coverage(whole.ranges, np.array(boxes, np.int64).reshape(-1, 5) * [1, *[1 << 25] * 4])
    every = np.arange(12 * 4**4)
    x = sum((every >> 2 * bit & 1) << bit for bit in range(4))
    y = sum((every >> 2 * bit + 1 & 1) << bit for bit in range(4))
    wanted = np.zeros(len(every), bool)
    for face, x0, x1, y0, y1 in boxes:
        wanted |= (every >> 8 == face) & (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)
    for place in (0, (1 << 50) - 1):  # the first and the last corner of a cell
        assert np.array_equal(cut.contains((every << 50) + place), wanted & whole.contains((every << 50) + place))
    assert np.array_equal(cut.degraded(2).ranges, whole.degraded(2).ranges)
    assert np.array_equal(cut.clipped(0, 1 << 60), whole.clipped(0, 1 << 60))
    assert (cut.length, cut.meets(0, 1 << 50)) == (whole.length, whole.meets(0, 1 << 50))


def test_lengths_and_areas():
    coverage = Coverage.from_cells([Cell(2, 0), Cell(2, 5)])
    assert coverage.length == 2 * (Cell(2, 0).stop - Cell(2, 0).start)
    assert Coverage.from_cells([Cell(0, i) for i in range(12)]).area == pytest.approx(41252.96125)


def test_no_cell_reaches_farther_from_its_centre_than_assumed():
    """Along the edges of all cells of the first orders, and of many of a fine one."""
    for order in (0, 1, 2, 3, 4, 12):
        index = np.arange(12 * 4**order) if order < 5 else np.random.default_rng(0).integers(0, 12 * 4**order, 3000)
        lon, lat = cdshealpix.nested.healpix_to_lonlat(index.astype(np.uint64), order)
        edge_lon, edge_lat = cdshealpix.nested.vertices(index.astype(np.uint64), order, step=8)
        centre, edge = SkyCoord(lon, lat)[:, None], SkyCoord(edge_lon, edge_lat)
        assert centre.separation(edge).deg.max() < 0.95 * 65 / 2**order
