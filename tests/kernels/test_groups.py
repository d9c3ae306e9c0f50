import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciplat.kernels import groups, separation
from sciplat.sky.cell import healpix_29
from tests.reference import separations

ARCSEC = 1 / 3600
# poles, RA = 0, corners where three faces meet, a corner where four meet, and nowhere special
PLACES = [(0, 90), (0, -90), (0, 0), (0, 41.8103), (90, -41.8103), (45, 0), (200, -33)]


def first_rows(ra, dec, radius):
    """Return the first row of each row's group, as the kernel finds it."""
    vectors, boxes, pairs = groups.group_scratch(len(ra))
    out = np.full(len(ra), -9)
    groups.link_rows(ra, dec, radius, np.empty(vectors), np.empty(boxes), np.empty(pairs, np.int64), out)
    return out


def brute_force(ra, dec, radius):
    """Return the first row of each row's group, by the distances of all pairs."""
    near = separations((ra, dec), (ra, dec)) <= radius
    first = np.arange(len(ra))
    while True:  # each row takes the first one that any of its neighbours knows
        best = np.where(near, first, len(ra)).min(axis=1, initial=len(ra))
        if (best == first).all():
            return first
        first = best


def scatter(place, rows, width, seed):
    """Return rows around a place, within `width` degrees or so, in the order of the sky; one in ten stands twice."""
    rng = np.random.default_rng(seed)
    dec = place[1] + rng.normal(0, width, rows)
    dec = np.where(np.abs(dec) > 90, np.sign(dec) * 180 - dec, dec)
    squeeze = np.maximum(np.cos(np.radians(dec)), 1e-9)
    ra = (place[0] + rng.normal(0, width, rows) / squeeze) % 360
    again = rng.integers(0, rows, rows // 10)
    ra[again], dec[again] = ra[0], dec[0]
    order = np.argsort(healpix_29(ra, dec), kind="stable")
    return ra[order], dec[order]


def test_a_chain_is_one_group_until_a_link_is_too_long():
    dec = np.array([0, 2, 4, 6.1, 8.1])
    ra = np.full(5, 359.9)
    assert first_rows(ra, dec, 2.0).tolist() == [0, 0, 0, 3, 3]  # the limit is included
    assert first_rows(ra, dec, 2.1).tolist() == [0, 0, 0, 0, 0]
    assert first_rows(ra, dec, 2.0 - 1e-12).tolist()[:3] == [0, 1, 2]


def test_chains_cross_the_pole_and_zero():
    assert first_rows(np.array([10.0, 190.0]), np.array([89.9, 89.9]), 0.2 + 1e-12).tolist() == [0, 0]
    assert first_rows(np.array([10.0, 190.0]), np.array([89.9, 89.9]), 0.2 - 1e-12).tolist() == [0, 1]
    assert first_rows(np.array([359.95, 0.05]), np.zeros(2), 0.1 + 1e-12).tolist() == [0, 0]
    assert first_rows(np.array([359.95, 0.05]), np.zeros(2), 0.1 - 1e-12).tolist() == [0, 1]


@given(st.sampled_from(PLACES), st.integers(1, 200), st.floats(-5, 0.9), st.floats(-1.5, 0.5), st.integers(0, 99))
def test_groups_are_those_of_all_pairs(place, rows, log_width, log_radius, seed):
    """From rows that are all alone to one group of all; the logarithms are those of degrees and of widths."""
    width = 10**log_width
    ra, dec = scatter(place, rows, width, seed)
    radius = width * 10**log_radius
    assert (first_rows(ra, dec, radius) == brute_force(ra, dec, radius)).all()


def test_the_drawn_scenes_have_groups_of_all_sizes():
    ra, dec = scatter((0, 90), 150, 1.0, 3)
    counts = [len(np.unique(first_rows(ra, dec, radius))) for radius in (1e-3, 0.1, 0.3, 3)]
    assert counts[0] > 130 > counts[1] > 70 > counts[2] > counts[3] == 1


def test_the_order_of_the_rows_does_not_matter():
    ra, dec = scatter((0, 41.8103), 300, 1.0, 1)
    first = first_rows(ra, dec, 0.1)
    order = np.random.default_rng(2).permutation(300)
    shuffled = np.empty(300, np.int64)
    shuffled[order] = order[first_rows(ra[order], dec[order], 0.1)]  # another row may be the first
    assert len(np.unique(first)) == len(np.unique(shuffled)) == len(np.unique(np.stack([first, shuffled]), axis=1).T)


def test_a_grid_across_leaves_is_linked_to_its_neighbours_only():
    """A step of the grid is the radius: 1000 rows in a row, beside others that are too far away."""
    steps = np.arange(1000) * ARCSEC
    ra = np.concatenate([np.full(1000, 10.0), np.full(1000, 10 + 1.5 * ARCSEC)])
    dec = np.concatenate([steps, steps])
    order = np.argsort(healpix_29(ra, dec))
    first = first_rows(ra[order], dec[order], 1.001 * ARCSEC)
    assert [len(np.unique(first[ra[order] == x])) for x in (10.0, 10 + 1.5 * ARCSEC)] == [1, 1]
    assert len(np.unique(first)) == 2


def test_no_rows_and_one():
    assert first_rows(np.empty(0), np.empty(0), 1.0).tolist() == []
    assert first_rows(np.array([5.0]), np.array([-90.0]), 1.0).tolist() == [0]


@pytest.mark.parametrize("width", [0.0, 0.1])
def test_a_pile_of_rows_needs_no_list_of_pairs(width):
    """Its 20,000,000,000 pairs would take minutes and more memory than there is; so would those of two piles."""
    rng = np.random.default_rng(0)
    ra, dec = (10 + ARCSEC * width * rng.uniform(size=200_000) for _ in "ab")
    assert not first_rows(ra, dec, ARCSEC).any()
    dec[100_000:] += 1.2 * ARCSEC
    order = np.argsort(healpix_29(ra, dec), kind="stable")
    first = first_rows(ra[order], dec[order], ARCSEC)
    assert sorted(np.unique(first, return_counts=True)[1]) == [100_000, 100_000]


def test_groups_are_counted_and_measured():
    ra, dec = np.array([10, 10, 30, 10.0]), np.array([0, 1, 0, 2.0])
    size, square = np.empty(4, np.int64), np.empty(4)
    groups.measure_groups(ra, dec, np.array([0, 0, 2, 0]), size, square)
    assert size.tolist() == [3, 0, 1, 0]
    assert np.degrees(2 * np.arcsin(np.sqrt(square))) == pytest.approx([0, 1, 0, 2], abs=1e-14)


def test_the_nearest_row_stands_for_a_catalog_and_the_first_of_equally_near_ones():
    member = np.empty((2, 3), np.int64)
    group, catalog = np.array([0, 1, 0, 0, 0, 1]), np.array([0, 2, 1, 1, 1, 2])
    groups.choose_members(group, catalog, np.array([0, 0.5, 0.3, 0.2, 0.2, 0.5]), member)
    assert member.tolist() == [[0, 3, -1], [-1, -1, 1]]


def test_compiled_and_interpreted_give_the_same(interpret):
    ra, dec = scatter((0, 90), 60, 1.0, 5)
    compiled = first_rows(ra, dec, 0.2)
    interpret(groups, separation)
    assert (first_rows(ra, dec, 0.2) == compiled).all()
