"""The loops over sorted rows: analytic truth, brute force, invariance, edges and interpreted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciplat.kernels import cells, crossmatch, healpix, separation
from tests import reference
from tests.strategies import Side, grids, moved, scenes, side_of


def runs(side):
    following = np.empty(len(side.index), np.int64)
    crossmatch.mark_runs(side.index, side.ra, side.dec, following)
    return following


def addressed(left, right, width=0):
    """Return the first right rows of at most 100 cells, no narrower than `width`, as far as the left rows go."""
    if not len(left.index):
        return np.zeros(1, np.int32), 0, 0
    first, last = int(left.index[0]), int(left.index[-1])
    while (last >> 2 * width) - (first >> 2 * width) > 100:
        width += 1
    base = first >> 2 * width << 2 * width
    table = np.empty((last >> 2 * width) - (first >> 2 * width) + 2, np.int32)
    cells.address(right.index, base, width, table)
    return table, base, width


def search(find, left, right, reach, size, *more, begin=0, width=0):
    """Return where a kernel stopped, and the pairs with their squares that it listed in so much space."""
    rows, squares = np.full((2, size), -7), np.empty(size)
    mine, its = (left.index, left.ra, left.dec), (right.index, right.ra, right.dec, runs(right))
    sides = *mine, np.full(len(left.index), reach), *its
    scratch = np.empty(cells.CELLS, np.int64), np.empty(cells.BOX, np.int64)
    end, count = find(begin, *sides, *addressed(left, right, width), *scratch, *more, rows[0], rows[1], squares)
    return end, list(zip(*rows[:, :count].tolist(), squares[:count].tolist(), strict=True))


def within(left, right, reach, size=3600, **options):
    return search(crossmatch.within, left, right, reach, size, **options)


def nearest(left, right, reach, neighbours=1, size=3600, **options):
    """Search right rows that are sorted by declination where they share an index."""
    rank = np.lexsort([np.arange(len(right.index)), right.ra, right.dec, right.index])
    right = Side(right.ra[rank], right.dec[rank], right.index[rank])
    end, pairs = search(crossmatch.nearest, left, right, reach, size, rank, neighbours, **options)
    return end, [(row, int(rank[its]), near) for row, its, near in pairs]


def test_a_ring_around_a_point_lies_at_its_radius():
    for centre in ((0.0, 0.0), (10.0, 90.0), (270.0, float(np.degrees(np.arcsin(2 / 3)))), (135.0, -0.5)):
        for radius in (1e-6, 0.01, 9.0):
            angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
            ring, left = side_of([_at(centre, radius, angle) for angle in angles]), side_of([centre])
            _, pairs = nearest(left, ring, radius * 1.01, 40)
            assert sorted(its for _, its, _ in pairs) == list(range(40))
            degrees = [separation.angle_of(near) for *_, near in pairs]
            assert degrees == pytest.approx([radius] * 40, rel=1e-9, abs=1e-13)
            assert within(left, ring, radius * 0.99) == (1, [])


def _at(centre, distance, angle):
    """Return the position at a distance from another one, along a great circle."""
    ra, dec, d = np.radians(centre[0]), np.radians(centre[1]), np.radians(distance)
    east, north = np.sin(d) * np.sin(angle), np.sin(d) * np.cos(angle)
    x, z = np.cos(d) * np.cos(dec) - north * np.sin(dec), np.cos(d) * np.sin(dec) + north * np.cos(dec)
    return np.degrees(ra + np.arctan2(east, x)) % 360, np.degrees(np.arctan2(z, np.hypot(x, east)))


@given(scenes() | grids())
def test_runs_are_rows_at_the_very_same_place(scene):
    side = scene.right
    same = np.concatenate([(np.diff(side.ra) == 0) & (np.diff(side.dec) == 0), [False]])
    for row, following in enumerate(runs(side)):
        assert not same[following - 1]
        assert same[row : following - 1].all()


@given(scenes() | grids(), st.integers(0, 29))
def test_a_table_of_cells_holds_their_first_rows(scene, width):
    table, base, width = addressed(scene.left, scene.right, width)
    starts = base + (np.arange(len(table)) << 2 * width)
    expected = np.searchsorted(scene.right.index, starts)
    expected[-1] = expected[-1] if len(scene.left.index) else 0
    assert table[:-1].tolist() == expected[:-1].tolist()


@settings(max_examples=150)
@given(scenes() | grids(), st.integers(1, 4), st.integers(0, 29))
def test_both_loops_are_brute_force(scene, neighbours, width):
    """However wide the cells are that are addressed."""
    sides = scene.left, scene.right
    mine, its = np.transpose(scene.left.position), np.transpose(scene.right.position)
    found = {
        "nearest": nearest(*sides, scene.radius, neighbours, width=width),
        "all": within(*sides, scene.radius, width=width),
    }
    for find, (end, pairs) in found.items():
        assert end == len(scene.left.index)
        assert [pair[:2] for pair in pairs] == scene.expected(find, neighbours=neighbours)
        assert [near for *_, near in pairs] == [separation.square(*mine[i], *its[j]) for i, j, _ in pairs]


@settings(max_examples=100)
@given(scenes() | grids(), st.integers(1, 60), st.sampled_from([nearest, within]))
def test_space_for_few_pairs_gives_them_in_parts(scene, size, find):
    """Rows whose pairs do not fit are left for the next part, all of them."""
    whole = find(scene.left, scene.right, scene.radius)[1]
    begin, parts = 0, []
    while begin < len(scene.left.index):
        end, pairs = find(scene.left, scene.right, scene.radius, size=size, begin=begin)
        size *= 1 if end > begin else 2
        begin, parts = end, parts + pairs
    assert parts == whole


def test_dense_and_sparse_places_in_one_sky():
    """Hundreds of rows within a milliarcsecond, as many within a degree, a few anywhere."""
    rng = np.random.default_rng(3)
    clumps = [moved(rng, np.array([[0.0, 0.3]] * 500), width) for width in (1e-7, 1e-3, 1.0)]
    sky = np.stack([rng.uniform(0, 360, 300), np.degrees(np.arcsin(rng.uniform(-1, 1, 300)))], axis=1)
    right = side_of(np.concatenate([*clumps, sky]))
    left = side_of(np.concatenate([*(clump[:60] for clump in clumps), sky[:100]]))
    distance = reference.separations(left.position, right.position)
    for reach in (1e-7, 3e-4, 0.1, 10.0):
        near = distance <= reach
        order = np.argsort(np.where(near, distance, np.inf), axis=1, kind="stable")[:, :3]
        expected = [(row, its) for row, each in enumerate(order.tolist()) for its in each if near[row, its]]
        assert [pair[:2] for pair in nearest(left, right, reach, 3)[1]] == expected
        end, pairs = within(left, right, reach, 10**6)
        assert (end, [pair[:2] for pair in pairs]) == (len(left.index), [tuple(pair) for pair in np.argwhere(near)])


def test_the_box_holds_the_reach():
    size = cells.box_size(1.0)
    assert size * cells.NARROWEST / 2**29 >= 1
    assert cells.box_size(0.0) == 2
    assert cells.box_size(10.0) < 2**28


def test_compiled_equals_interpreted(interpret):
    rng = np.random.default_rng(9)
    left, right = (side_of(moved(rng, np.array([[90.0, 41.8]] * n), width)) for n, width in ((40, 2.0), (150, 1.5)))
    compiled = nearest(left, right, 1.0, 3), within(left, right, 1.0, 7000)
    interpret(cells, crossmatch, healpix, separation)
    interpreted = nearest(left, right, 1.0, 3), within(left, right, 1.0, 7000)
    for (end, pairs), (same_end, same) in zip(compiled, interpreted, strict=True):
        assert len(pairs) >= 100
        assert (end, [pair[:2] for pair in pairs]) == (same_end, [pair[:2] for pair in same])
        np.testing.assert_array_max_ulp(*(np.array([near for *_, near in each]) for each in (pairs, same)), 4)
