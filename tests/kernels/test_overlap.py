"""The overlap of circle and pixel against analytic truth, quadrature, symmetries and edges."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciplat.kernels import overlap
from tests import reference

offsets = st.floats(-12, 12)
radii = st.floats(0.01, 10)


def disc(x, y, r):
    """Return the overlaps of all pixels around a circle at (x, y)."""
    half = math.ceil(r + 2)
    return [
        overlap.circle_pixel_overlap(i - x, j - y, r) for j in range(-half, half + 1) for i in range(-half, half + 1)
    ]


@pytest.mark.parametrize("r", [0.001, 0.2, 0.49, 0.5, 0.7071, 1.0, 2.5, 10.0])
def test_the_overlaps_of_all_pixels_add_up_to_the_disc(r):
    for x, y in [(0.0, 0.0), (0.5, 0.5), (0.5, 0.0), (-0.25, 0.4999), (0.123, -0.321)]:
        assert math.fsum(disc(x, y, r)) == pytest.approx(math.pi * r * r, rel=1e-12)


def test_known_areas():
    assert overlap.circle_pixel_overlap(0.0, 0.0, 0.5) == pytest.approx(math.pi / 4, rel=1e-15)
    assert overlap.circle_pixel_overlap(0.5, 0.5, 1.0) == pytest.approx(math.pi / 4, rel=1e-15)
    assert overlap.circle_pixel_overlap(0.0, 0.0, math.sqrt(0.5)) == pytest.approx(1.0, rel=1e-15)
    # half a unit disc beyond the line x = 1/2: acos(1/2) - sqrt(3)/4
    beyond = overlap.circle_pixel_overlap(1.0, 0.5, 1.0) + overlap.circle_pixel_overlap(1.0, -0.5, 1.0)
    assert beyond == pytest.approx(math.pi / 3 - math.sqrt(3) / 4, rel=1e-14)


@settings(max_examples=300, deadline=None)
@given(offsets, offsets, radii)
def test_it_is_the_integral_of_the_chords(dx, dy, r):
    assert overlap.circle_pixel_overlap(dx, dy, r) == pytest.approx(
        reference.circle_pixel_overlap(dx, dy, r), abs=1e-13 * max(1.0, r * r)
    )


@settings(max_examples=100, deadline=None)
@given(offsets, offsets, radii)
def test_mirrored_and_transposed_pixels_share_the_same_area(dx, dy, r):
    area = overlap.circle_pixel_overlap(dx, dy, r)
    for other in [(-dx, dy), (dx, -dy), (dy, dx)]:
        assert overlap.circle_pixel_overlap(*other, r) == pytest.approx(area, abs=1e-14 * max(1.0, r * r))


def test_outside_is_exactly_zero_and_inside_one():
    r = 7.3
    for i in range(-12, 13):
        for j in range(-12, 13):
            dx, dy = i + 0.1, j - 0.3
            area = overlap.circle_pixel_overlap(dx, dy, r)
            assert 0.0 <= area <= 1.0
            if math.hypot(max(abs(dx) - 0.5, 0), max(abs(dy) - 0.5, 0)) >= r:
                assert area == 0.0
            if math.hypot(abs(dx) + 0.5, abs(dy) + 0.5) <= r:
                assert area == pytest.approx(1.0, abs=1e-14)


def test_the_arcsine_is_exact():
    for u in np.linspace(-1, 1, 2001):
        expected = 0.5 * (u * math.sqrt((1 - u) * (1 + u)) + math.asin(u))
        assert overlap.area_under_circle(u, 1.0) == pytest.approx(expected, rel=4e-16, abs=1e-300)
    assert overlap.area_under_circle(5.0, 2.0) == pytest.approx(math.pi, rel=1e-16)


def test_compiled_equals_interpreted(interpret):
    rng = np.random.default_rng(3)
    cases = list(zip(rng.uniform(-6, 6, 500), rng.uniform(-6, 6, 500), rng.uniform(0.1, 8, 500), strict=True))
    compiled = np.array([overlap.circle_pixel_overlap(*case) for case in cases])
    interpret(overlap)
    plain = np.array([overlap.circle_pixel_overlap(*case) for case in cases])
    np.testing.assert_array_max_ulp(compiled, plain, 4)
