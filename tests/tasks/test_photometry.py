import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sciplat.io.image_store import CHUNK, Window
from sciplat.tasks.photometry import _assembled, _rectangles

NX, NY = 2300, 1700
boxes = st.tuples(st.integers(0, NX - 1), st.integers(1, 80), st.integers(0, NY - 1), st.integers(1, 80))


@given(st.lists(boxes, min_size=1, max_size=12))
def test_rectangles_of_chunks_hold_every_box_and_do_not_overlap(drawn):
    x0, wide, y0, high = np.array(drawn).T
    x1, y1 = np.minimum(x0 + wide, NX), np.minimum(y0 + high, NY)
    rectangles = _rectangles(x0, x1, y0, y1, NX, NY)
    held = np.zeros((NY, NX), dtype=int)
    for left, right, bottom, top in rectangles:
        assert left % CHUNK == bottom % CHUNK == 0
        assert right % CHUNK == 0 or right == NX
        assert top % CHUNK == 0 or top == NY
        held[bottom:top, left:right] += 1
    assert held.max() == 1
    for left, right, bottom, top in zip(x0, x1, y0, y1, strict=True):
        assert held[bottom:top, left:right].all()


def test_sources_all_over_the_image_read_it_as_one_rectangle():
    x, y = np.meshgrid(np.arange(0, NX, 100), np.arange(0, NY, 100))
    x, y = x.ravel(), y.ravel()
    assert _rectangles(x, x + 5, y, y + 5, NX, NY) == [(0, NX, 0, NY)]


def test_windows_are_put_together_at_their_places():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1200, 1300)).astype(np.float32)
    parts = [
        Window(0, 0, image[:512, :512], None, (image[:512, :512] > 1).astype(np.uint32)),
        Window(512, 512, image[512:1024, 512:1300], None, (image[512:1024, 512:1300] > 1).astype(np.uint32)),
    ]
    whole = _assembled(parts)
    assert (whole.x0, whole.y0, whole.science.shape, whole.variance) == (0, 0, (1024, 1300), None)
    for part in parts:
        ny, nx = part.science.shape
        inside = slice(part.y0, part.y0 + ny), slice(part.x0, part.x0 + nx)
        np.testing.assert_array_equal(whole.science[inside], part.science)
        np.testing.assert_array_equal(whole.mask[inside], part.mask)
