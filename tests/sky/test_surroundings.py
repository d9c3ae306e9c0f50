import cdshealpix.nested
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sciplat.errors import ArgumentError
from sciplat.kernels.cells import NARROWEST
from sciplat.sky.cell import Cell, cell_area, healpix_29, positions_29
from sciplat.sky.frame import ra_dec, unit_vectors
from sciplat.sky.surroundings import surroundings

MAS = 1 / 3.6e6


def spread(bits, order):
    """Return the index inside a base cell that repeats two bits: 0 and 3 towards the poles, 1 and 2 east and west."""
    return sum(bits << 2 * level for level in range(order))


@st.composite
def cells(draw, max_order=15):
    """Draw cells, half of them at the corners of base cells: at poles, at RA = 0, and where only three meet."""
    order, base = draw(st.integers(0, max_order)), draw(st.integers(0, 11))
    corner = st.integers(0, 3).map(lambda bits: spread(bits, order))
    return Cell(order, base * 4**order + draw(st.one_of(corner, st.integers(0, 4**order - 1))))


# the largest reach that a ring of each order serves is the hardest
reaches = st.one_of(
    st.floats(np.log(MAS), np.log(22)).map(lambda x: min(float(np.exp(x)), 22.0)),
    st.integers(2, 27).map(lambda order: NARROWEST / 2**order),
    st.just(22.0),
)


def moved(cell, reach, rng):
    """Return order-29 indices of places in the cell, along its edges and at its corners, moved by up to `reach`."""
    inside = rng.integers(cell.start, cell.stop, 64)
    centre = cdshealpix.nested.healpix_to_lonlat(inside.astype(np.uint64), 29)
    edge = cdshealpix.nested.vertices(np.array([cell.index], np.uint64), cell.order, step=16)  # corners are 0, 16...
    corner = [4 * angle[0, ::16].deg.tolist() for angle in edge]
    ra, dec = (
        np.concatenate([a.deg, b[0].deg, np.tile(b[0].deg, 2), c]) for a, b, c in zip(centre, edge, corner, strict=True)
    )
    start = unit_vectors(ra, dec)
    aside = np.cross(start, rng.normal(size=start.shape))
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    share = np.where(rng.random(len(start)) < 0.7, 1, rng.random(len(start)))
    distance = np.radians(reach) * share[:, None]
    return healpix_29(*ra_dec(np.cos(distance) * start + np.sin(distance) * aside))


@given(cells(), reaches, st.integers(0, 1000))
@example(Cell(0, 0), 22.0, 0)
@example(Cell(1, 3), 22.0, 0)
@example(Cell(12, spread(3, 12)), NARROWEST / 2**12, 0)
def test_whatever_is_in_reach_of_the_cell_is_inside(cell, reach, seed):
    assert surroundings(cell, reach).contains(moved(cell, reach, np.random.default_rng(seed))).all()


@pytest.mark.parametrize("order", [0, 1, 2, 5, 10])
def test_it_holds_at_every_corner_of_every_base_cell(order):
    rng = np.random.default_rng(order)
    for base in range(12):
        for bits in range(4):
            cell = Cell(order, base * 4**order + spread(bits, order))
            for reach in (NARROWEST / 2 ** (order + 2), min(NARROWEST / 2**order, 10.0)):
                assert surroundings(cell, reach).contains(moved(cell, reach, rng)).all()


@given(cells(max_order=23), reaches)
def test_it_holds_the_cell_and_is_not_much_larger_than_needed(cell, reach):
    around = surroundings(cell, reach)
    assert around.clipped(cell.start, cell.stop).tolist() == [[cell.start, cell.stop]]
    assert around.area < (1.04 * np.sqrt(cell_area(cell.order)) + 9 * reach) ** 2


@given(cells(max_order=4), st.integers(0, 3))
def test_the_ring_is_made_of_the_neighbours_of_all_finer_cells_inside(cell, finer):
    order = cell.order + finer
    inside = np.arange(cell.index << 2 * finer, (cell.index + 1) << 2 * finer)
    ring = cdshealpix.nested.neighbours(inside.astype(np.uint64), order)  # -1 stands for a missing corner
    expected = {*inside.tolist(), *ring[ring >= 0].tolist()}
    reach = min(NARROWEST / 2**order, 10.0)
    shift = 2 * (29 - order)
    around = surroundings(cell, reach)
    if order > 1:  # order 1 is the coarsest ring, hence also that of cells of order 0
        assert {i for a, b in around.ranges.tolist() for i in range(a >> shift, b >> shift)} == expected


def test_no_cell_is_narrower_than_assumed_and_those_towards_the_poles_are_as_narrow():
    """From the edges of cells to the opposite ones: all of the first orders, then along an edge of base cell 0."""
    for order in (0, 1, 2, 3, 4, 8, 14):
        row = np.unique(np.geomspace(1, 2**order, 200).astype(int)) - 1  # cells from the pole, along a meridian
        bits = (2**order - 1 - row)[:, None] >> np.arange(order) & 1
        index = np.arange(12 * 4**order) if order < 5 else spread(1, order) + (bits << 2 * np.arange(order) + 1).sum(1)
        lon, lat = cdshealpix.nested.vertices(index.astype(np.uint64), order, step=16)
        outline = unit_vectors(lon.deg, lat.deg)
        edges = [outline[:, np.arange(first, first + 17) % 64] for first in (0, 16, 32, 48)]
        chords = [np.linalg.norm(edges[k][:, :, None] - edges[k + 2][:, None], axis=-1).min() for k in (0, 1)]
        width = np.degrees(2 * np.arcsin(min(chords) / 2)) * 2**order
        assert width > NARROWEST
    assert width < 1.002 * NARROWEST


@given(cells(max_order=26), st.floats(np.log(MAS), np.log(1 / 3600)).map(np.exp), st.integers(0, 1000))
@example(Cell(0, 0), 1 / 3600, 0)
@example(Cell(29, 3 * 4**28 - 1), 1 / 3600, 0)
def test_rows_close_together_are_found_as_brute_force_finds_them(cell, reach, seed):
    """Rows on both sides of the cell's border, as near to it as they come: every separation is looked at."""
    rng = np.random.default_rng(seed)
    inside = np.concatenate([moved(cell, reach / 2, rng), rng.integers(cell.start, cell.stop, 50)])
    inside = inside[(inside >= cell.start) & (inside < cell.stop)]
    others = moved(cell, 3 * reach, rng)
    left, right = (unit_vectors(*positions_29(index)) for index in (inside, others))
    chords = np.linalg.norm(left[:, None] - right, axis=-1)
    near = (chords <= 2 * np.sin(np.radians(reach) / 2)).any(axis=0)
    assert surroundings(cell, reach).contains(others[near]).all()


@pytest.mark.parametrize("order", [0, 3, 6, 9])
def test_few_others_stay_at_an_arcsecond(order):
    """At a pole, at RA = 0, where three cells meet, and elsewhere: of the ring's rows those in a thin strip."""
    reach, rng = 1 / 3600, np.random.default_rng(order)
    corners = [base * 4**order + spread(bits, order) for base in (0, 5, 11) for bits in range(4)]
    for cell in [Cell(order, index) for index in (*corners, 12 * 4**order * 2 // 7)]:
        around = surroundings(cell, reach)
        lengths = np.diff(around.ranges, axis=1).ravel()
        chosen = rng.choice(len(lengths), 20_000, p=lengths / lengths.sum())
        rows = around.ranges[chosen, 0] + (rng.random(len(chosen)) * lengths[chosen]).astype(np.int64)
        outside = rows[(rows < cell.start) | (rows >= cell.stop)]
        ring = np.degrees(np.sqrt(4 * np.pi / 12)) / 2 ** (order + 6)  # the width of what the ranges hold
        assert len(outside) > 500
        assert around.contains(outside).mean() < 4 * reach / ring + 0.003


@pytest.mark.parametrize("reach", [0.0, -1.0, 22.1, float("nan"), float("inf")])
def test_a_reach_that_makes_no_sense_is_refused(reach):
    with pytest.raises(ArgumentError, match="beyond its cell"):
        surroundings(Cell(3, 5), reach)
