"""Squares on the faces of HEALPix against plain comparisons, and compiled against interpreted."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sciplat.kernels import coverage, healpix

SIZE = 1 << 29
places = st.one_of(st.integers(0, 3), st.integers(0, SIZE - 1), st.integers(SIZE - 3, SIZE - 1))
rows = st.lists(st.tuples(st.integers(0, 11), places, places), max_size=30)
boxes = st.lists(st.tuples(st.integers(0, 11), *[st.one_of(places, st.just(SIZE))] * 4), max_size=4)


def cut(kernel, rows, boxes, inside):
    index = np.array([healpix.join_index(*row) for row in rows], np.int64)
    inside = np.array(inside, bool)
    kernel(index, np.array(boxes, np.int64).reshape(-1, 5), inside)
    return inside.tolist()


@given(rows, boxes, st.booleans())
def test_what_lies_in_no_square_is_cut_off_and_nothing_is_added(rows, boxes, start):
    inside = [start or row % 2 == 0 for row in range(len(rows))]
    wanted = [
        was and any(face == box[0] and box[1] <= x < box[2] and box[3] <= y < box[4] for box in boxes)
        for was, (face, x, y) in zip(inside, rows, strict=True)
    ]
    assert cut(coverage.cut_to_squares, rows, boxes, inside) == wanted


def test_compiled_equals_interpreted(interpret):
    rng = np.random.default_rng(0)
    rows = [(face, *rng.integers(0, SIZE, 2).tolist()) for face in range(12) for _ in range(20)]
    boxes = [(face, 0, SIZE // 2, SIZE // 3, SIZE) for face in range(0, 12, 2)]
    compiled = cut(coverage.cut_to_squares, rows, boxes, [True] * len(rows))
    interpret(coverage, healpix)
    assert cut(coverage.cut_to_squares, rows, boxes, [True] * len(rows)) == compiled
    assert 0 < sum(compiled) < len(rows)
