"""Cells as squares on the faces of HEALPix, against cdshealpix and against distances on the sphere."""

import cdshealpix.nested
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciplat.kernels import healpix
from sciplat.kernels.cells import box_size
from sciplat.sky.cell import healpix_29
from tests import reference
from tests.strategies import PLACES, moved

SIZE = 1 << 29
places = st.integers(0, SIZE - 1)


def parts_of(face, x, y, reach, size=SIZE):
    """Return the parts of the box that reaches so many cells to all sides."""
    out = np.empty((healpix.PARTS, 5), np.int64)
    return out[: healpix.unfold(face, x - reach, x + reach + 1, y - reach, y + reach + 1, size, out)]


def inside(part, face, x, y):
    return part[0] == face and part[1] <= x < part[2] and part[3] <= y < part[4]


@given(st.integers(0, 11), places, places)
def test_an_index_and_its_place_are_one(face, x, y):
    index = healpix.join_index(face, x, y)
    assert healpix.split_index(index) == (face, x, y)
    bits = [(x >> bit & 1) | (y >> bit & 1) << 1 for bit in range(29)]
    assert index == face * 4**29 + sum(pair * 4**bit for bit, pair in enumerate(bits))


@pytest.mark.parametrize("order", [0, 1, 3])
def test_the_neighbours_of_every_cell_are_those_of_cdshealpix(order):
    size = 1 << order
    cells = np.arange(12 * size * size, dtype=np.uint64)
    for cell, expected in enumerate(cdshealpix.nested.neighbours(cells, order)):
        face, x, y = healpix.split_index(cell << 2 * (29 - order))
        x, y = x >> 29 - order, y >> 29 - order
        found = set()
        for part in parts_of(face, x, y, 1, size):
            box = (range(part[1], part[2]), range(part[3], part[4]))
            shift = 29 - order
            found |= {healpix.join_index(part[0], a << shift, b << shift) >> 2 * shift for a in box[0] for b in box[1]}
        assert found == {int(each) for each in expected if each >= 0}


@given(st.integers(0, 11), places, places, st.integers(0, SIZE - 1))
def test_the_parts_of_a_box_lie_on_faces_and_apart(face, x, y, reach):
    parts = parts_of(face, x, y, reach)
    assert any(inside(part, face, x, y) for part in parts)
    for i, part in enumerate(parts):
        assert 0 <= part[1] < part[2] <= SIZE
        assert 0 <= part[3] < part[4] <= SIZE
        for other in parts[:i]:
            assert (
                other[0] != part[0]
                or min(other[2], part[2]) <= max(other[1], part[1])
                or min(other[4], part[4]) <= max(other[3], part[3])
            )


def test_everything_within_reach_lies_in_the_box():
    """Where faces meet too: boxes around positions near their corners hold what is up to 10 degrees away."""
    rng = np.random.default_rng(4)
    for width in (1e-3, 0.3, 10.0, 30.0):
        around = np.array(PLACES)[rng.integers(0, len(PLACES), 3000)]
        here = moved(rng, around, width)
        there = moved(rng, here, min(width, 5))
        reach = [float(reference.separations(a[:, None], b[:, None])[0, 0]) for a, b in zip(here, there, strict=True)]
        indices = healpix_29(*here.T), healpix_29(*there.T)
        for mine, its, degrees in zip(*indices, reach, strict=True):
            if degrees <= 10:
                parts = parts_of(*healpix.split_index(mine), box_size(degrees))
                assert sum(inside(part, *healpix.split_index(its)) for part in parts) == 1


def test_compiled_equals_interpreted(interpret):
    rng = np.random.default_rng(6)
    cases = [tuple(case) for case in rng.integers(0, [12, SIZE, SIZE, SIZE], (300, 4)).tolist()]
    compiled = [(healpix.join_index(*case[:3]), parts_of(*case).tolist()) for case in cases]
    interpret(healpix)
    for case, (index, parts) in zip(cases, compiled, strict=True):
        assert healpix.join_index(*case[:3]) == index
        assert healpix.split_index(index) == case[:3]
        assert parts_of(*case).tolist() == parts
