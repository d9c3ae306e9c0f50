"""Pairs of points: geometry, brute force at awkward places, symmetries, edges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciplat.steps.pairs import Points, nearest_pairs, pairs_within, separations
from tests import reference
from tests.strategies import PLACES, Scene, Side, grids, moved, scenes, side_of


def points(ra, dec):
    """Return positions as points, ranked by their places along the sky."""
    side = side_of(np.transpose([ra, dec]))
    return Points(side.index, side.ra, side.dec, np.arange(len(side.index)))


def sides(scene):
    return points(*scene.left.position), points(*scene.right.position)


def as_list(pairs):
    return list(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))


def check_separations(pairs, separation):
    expected = separation[pairs.left, pairs.right].astype(float)
    np.testing.assert_allclose(separations(pairs.square), expected, rtol=2e-15, atol=3e-14)


def test_points_along_a_great_circle():
    left, right = points([10, 10], [0, 0]), points([10.0, 10.0, 10.0, 11.0], [0, 1e-6, 9.5, 0])
    pairs = pairs_within(left, right, 5.0)
    assert sorted(separations(pairs.square).tolist()) == pytest.approx([0, 0, 1e-6, 1e-6, 1, 1], rel=1e-15)
    assert len(pairs_within(left, right, 10.0)) == 8
    assert len(pairs_within(left, right, np.where(np.arange(2) == 1, 10.0, 1e-9))) == 1 + 4
    nearest = nearest_pairs(left, points([10.0, 11.0], [9.5, 0]), 5.0)
    assert separations(nearest.square).tolist() == pytest.approx([1, 1], rel=1e-15)


@pytest.mark.parametrize("radius", [1e-6, 1 / 3600, 0.3, 1.0, 1.2, 10.0])
def test_the_border_is_inside(radius):
    left, right = points([50.0], [0.0]), points([50.0, 50.0], [radius, -radius])
    assert len(pairs_within(left, right, radius)) == len(nearest_pairs(left, right, radius, 2)) == 2
    assert not len(pairs_within(left, right, radius * (1 - 1e-9)))


@settings(max_examples=200)
@given(scenes(largest=60) | grids())
def test_all_pairs_are_those_of_brute_force(scene):
    left, right = sides(scene)
    pairs = pairs_within(left, right, scene.radius)
    assert as_list(pairs) == [pair for pair in scene.expected("all") if None not in pair]
    check_separations(pairs, scene.separation)


@settings(max_examples=200)
@given(scenes(largest=60) | grids(), st.sampled_from([1, 2, 3, 50]))
def test_the_nearest_are_those_of_brute_force(scene, neighbours):
    left, right = sides(scene)
    pairs = nearest_pairs(left, right, scene.radius, neighbours)
    assert as_list(pairs) == scene.expected("nearest", neighbours=neighbours)
    check_separations(pairs, scene.separation)


@settings(max_examples=100)
@given(scenes() | grids(), st.data())
def test_each_row_has_a_reach_of_its_own(scene, data):
    left, right = sides(scene)
    reach = np.array([data.draw(st.sampled_from([1e-12, 0.1, 1.0])) for _ in range(len(left))]) * scene.radius
    separation = scene.separation
    if np.any(np.abs(separation - reach[:, np.newaxis]) < 1e-13 + 1e-9 * reach[:, np.newaxis]):
        return  # a pair on the border
    near = separation <= reach[:, np.newaxis]
    for pairs, find in ((pairs_within(left, right, reach), "all"), (nearest_pairs(left, right, reach), "nearest")):
        assert as_list(pairs) == reference.crossmatch(separation, near, left.index, right.index, find)


@settings(max_examples=100)
@given(scenes() | grids(), st.integers(0, 2**32 - 1), st.sampled_from([1, 3]))
def test_of_equally_near_rows_the_lower_rank_is_nearer(scene, seed, neighbours):
    """Rows that were moved stand in another order than in their store."""
    left, right = sides(scene)
    rank = np.random.default_rng(seed).permutation(len(right))
    keys = list(zip(right.ra.tolist(), right.dec.tolist(), strict=True))
    for key in set(keys):  # ranks ascend where rows stand at the very same place
        rows = [row for row, its in enumerate(keys) if its == key]
        rank[rows] = np.sort(rank[rows])
    pairs = nearest_pairs(left, Points(right.index, right.ra, right.dec, rank), scene.radius, neighbours)
    near = scene.separation <= scene.radius
    expected = reference.crossmatch(scene.separation, near, left.index, rank, "nearest", neighbours=neighbours)
    assert as_list(pairs) == expected


@settings(max_examples=100)
@given(scenes() | grids())
def test_both_directions_give_the_same_pairs_to_the_bit(scene):
    left, right = sides(scene)
    there, back = pairs_within(left, right, scene.radius), pairs_within(right, left, scene.radius)
    squares = dict(zip(as_list(there), there.square.tolist(), strict=True))
    assert {(row, its): near for (its, row), near in zip(as_list(back), back.square.tolist(), strict=True)} == squares


@settings(max_examples=100)
@given(scenes() | grids(), st.data())
def test_parts_of_the_left_side_give_the_pairs_of_the_whole(scene, data):
    left, right = sides(scene)
    cut = data.draw(st.integers(0, len(left)))
    for find in (pairs_within, nearest_pairs):
        whole = find(left, right, scene.radius)
        parts = [find(left.taken(rows), right, scene.radius) for rows in np.split(np.arange(len(left)), [cut])]
        assert as_list(whole) == as_list(parts[0]) + [(row + cut, its) for row, its in as_list(parts[1])]
        assert whole.square.tolist() == [*parts[0].square.tolist(), *parts[1].square.tolist()]


@settings(max_examples=100)
@given(scenes(), st.floats(0, 360))
def test_a_turn_about_the_axis_changes_nothing(scene, turn):
    left, right = sides(scene)
    turned = [points((side.ra + turn) % 360, side.dec) for side in (left, right)]
    found = [np.sort(separations(pairs_within(*pair, scene.radius).square)) for pair in ((left, right), turned)]
    # a pair whose distance is the radius but for the rounding of the turn may be in one of them only
    near = [each[each < scene.radius - 1e-12] for each in found]
    np.testing.assert_allclose(near[0], near[1], rtol=1e-12, atol=1e-12)


def test_a_catalog_with_itself():
    rng = np.random.default_rng(1)
    side = points(rng.uniform(0, 360, 500), np.degrees(np.arcsin(rng.uniform(-1, 1, 500))))
    pairs = nearest_pairs(side, side, 10.0)
    assert as_list(pairs) == [(row, row) for row in range(500)]
    assert not pairs.square.any()


def test_a_side_may_be_empty():
    some, none = points([1.0, 2.0], [3.0, 4.0]), points([], [])
    for left, right in ((some, none), (none, some), (none, none)):
        assert len(pairs_within(left, right, 10.0)) == len(nearest_pairs(left, right, 10.0, 3)) == 0


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_rows_on_one_side_and_the_whole_sky_on_the_other(count):
    rng = np.random.default_rng(count)
    around = np.repeat(PLACES, 20, axis=0)
    left, right = side_of(moved(rng, around, 2.0)), side_of(moved(rng, np.array(PLACES), 1.0))
    for first in range(0, len(right.ra), count):
        few = Side(*(values[first : first + count] for values in (right.ra, right.dec, right.index)))
        for scene in (Scene(left, few, 3.0), Scene(few, left, 3.0)):
            assert as_list(pairs_within(*sides(scene), 3.0)) == scene.expected("all")
            assert as_list(nearest_pairs(*sides(scene), 3.0, 2)) == scene.expected(neighbours=2)


@pytest.mark.parametrize("position", [(0.0, 90.0), (45.0, 0.0), (90.0, np.degrees(np.arcsin(2 / 3))), (200.1, -33.0)])
def test_a_pile_on_one_point(position):
    """Rows at the same place, and rows within one order-29 cell of it, are no more work than others."""
    count = 50_000
    pile = points(np.full(count, position[0]), np.full(count, position[1]))
    assert as_list(nearest_pairs(pile, pile, 1.0)) == [(row, 0) for row in range(count)]
    assert nearest_pairs(pile, pile, 1.0, 3).right.reshape(-1, 3).tolist() == [[0, 1, 2]] * count
    few = points([position[0]] * 3, [position[1]] * 2 + [position[1] - 1e-9])
    assert len(pairs_within(few, pile, 1e-6)) == 3 * count
    assert len(pairs_within(few, pile, 1e-12)) == 2 * count


def test_rows_far_closer_than_any_cell():
    """Thousands of rows in a few order-29 cells."""
    rng = np.random.default_rng(2)
    left, right = (points(100 + rng.uniform(0, 1e-7, n), 40 + rng.uniform(0, 1e-7, n)) for n in (300, 3000))
    separation = reference.separations((left.ra, left.dec), (right.ra, right.dec))
    pairs = nearest_pairs(left, right, 1.0)
    assert separation[pairs.left, pairs.right].tolist() == pytest.approx(separation.min(axis=1).tolist(), abs=1e-16)
    assert len(pairs_within(left, right, 1.0)) == 300 * 3000


def test_more_pairs_than_there_is_room_for_at_once():
    pile, few = points(np.full(200_000, 10.0), np.full(200_000, 20.0)), points([10.0] * 5, [20.0] * 5)
    pairs = pairs_within(few, pile, 1.0)
    assert np.array_equal(pairs.left, np.repeat(np.arange(5), 200_000))
    assert np.array_equal(pairs.right, np.tile(np.arange(200_000), 5))
