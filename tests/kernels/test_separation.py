"""Angles between positions against geometry, 50 digits, symmetries, edges, and interpreted."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciplat.kernels import separation
from tests import reference

EPS = np.finfo(float).eps
_DEGREES = 3e-14  # half of the last bit of a right ascension near 360 degrees
ras, decs = st.floats(0, 360, exclude_max=True), st.floats(-90, 90)


def angle(ra, dec, its_ra, its_dec):
    out = np.empty(1)
    separation.separations(*(np.array([each]) for each in (ra, dec, its_ra, its_dec)), out)
    return float(out[0])


def test_angles_along_great_circles_are_known():
    for degrees in (0.0, 1e-12, 1 / 3.6e6, 0.1, 1.0, 1.146, 30.0, 89.9, 90.0, 91.0, 150.0, 179.0, 179.999999, 180.0):
        assert angle(10, 0, 10 + degrees, 0) == pytest.approx(10 + degrees - 10, rel=2 * EPS)
        assert angle(77, 90, 200, 90 - degrees) == pytest.approx(90 - (90 - degrees), rel=2 * EPS)
    assert angle(45, 90, 200, -90) == 180
    assert angle(0, 0, 90, 33) == pytest.approx(90, rel=EPS)
    assert angle(20, 0, 20, -90) == pytest.approx(90, rel=EPS)


@st.composite
def pairs(draw):
    """Draw two positions as far from each other as it comes: 1e-10 to 180 deg, or that from the antipode."""
    ra, dec = draw(ras), draw(decs | st.sampled_from([-90.0, 0.0, 90.0, 89.9999999]))
    distance = 10 ** draw(st.floats(-10, 2))
    turn, step = distance * draw(st.floats(-1, 1)), distance * draw(st.floats(-1, 1))
    its_ra, its_dec = (ra + turn / max(np.cos(np.radians(dec)), 1e-6)) % 360 % 360, np.clip(dec + step, -90, 90)
    if draw(st.booleans()):
        its_ra, its_dec = (its_ra + 180) % 360, -its_dec
    return ra, dec, float(its_ra), float(its_dec)


@settings(max_examples=200)
@given(pairs())
def test_they_are_what_50_digits_give_from_0_to_180_degrees(positions):
    exact = reference.precise_separation(*positions)
    assert abs(angle(*positions) - exact) <= _DEGREES + 4 * EPS * exact


@settings(max_examples=200)
@given(ras, st.floats(-80, 80), st.floats(-10, 0), st.floats(0, 2 * np.pi))
def test_small_ones_keep_all_their_digits(ra, dec, exponent, towards):
    """Across RA = 0 too: of positions that are near each other every difference is exact."""
    distance = 10**exponent
    its = (ra + distance * np.cos(towards)) % 360 % 360, dec + distance * np.sin(towards)
    exact = reference.precise_separation(ra, dec, *its)
    assert abs(angle(ra, dec, *its) - exact) <= 8 * EPS * exact


def test_across_ra_0_nothing_is_lost():
    for turn in (1e-9, 1 / 3.6e6, 0.1):
        its = 360 - turn
        exact = reference.precise_separation(turn, 20.0, its, 20.0)
        assert abs(angle(turn, 20.0, its, 20.0) - exact) <= 8 * EPS * exact
        assert separation.square(0.0, 20.0, its, 20.0) == separation.square(0.0, 20.0, 360 - its, 20.0)


@given(pairs())
def test_both_orders_and_mirrors_give_the_same_bits(positions):
    ra, dec, its_ra, its_dec = positions
    squared = separation.square(ra, dec, its_ra, its_dec)
    assert separation.square(its_ra, its_dec, ra, dec) == squared
    assert separation.square(ra, -dec, its_ra, -its_dec) == squared
    assert separation.square(-ra, dec, -its_ra, its_dec) == squared


def precise_square(ra, dec, its_ra, its_dec):
    """Return sin^2(d/2) of positions just as the doubles have them, to 50 digits."""
    with mpmath.workdps(50):
        lon, lat, its_lon, its_lat = (mpmath.radians(mpmath.mpf(value)) for value in (ra, dec, its_ra, its_dec))
        across = mpmath.cos(lat) * mpmath.cos(its_lat) * mpmath.sin((its_lon - lon) / 2) ** 2
        return mpmath.sin((its_lat - lat) / 2) ** 2 + across


@pytest.mark.parametrize("pole", [90, -90])
def test_near_the_poles_squares_keep_all_their_digits(pole):
    rng = np.random.default_rng(4)
    for exponent in np.linspace(-12, 1, 300):
        ra, its_ra = rng.uniform(0, 360, 2).tolist()
        dec, its_dec = (np.sign(pole) * (90 - 10**exponent * rng.uniform(0, 1, 2))).tolist()
        exact = precise_square(ra, dec, its_ra, its_dec)
        assert abs(separation.square(ra, dec, its_ra, its_dec) - exact) <= 1e-14 * exact
        exact = precise_square(ra, dec, its_ra, float(pole))
        assert abs(separation.square(ra, dec, its_ra, float(pole)) - exact) <= 1e-14 * exact


def test_right_ascensions_may_lie_anywhere():
    squared = separation.square(10.5, 20.0, 11.0, 21.0)
    assert separation.square(10.5 - 360, 20.0, 11.0, 21.0) == squared
    assert separation.square(10.5, 20.0, 11.0 + 360, 21.0) == squared


@given(st.floats(0, 90))
def test_squares_of_angles_and_back(degrees):
    assert separation.angle_of(separation.square_of(degrees)) == pytest.approx(degrees, rel=4 * EPS, abs=1e-150)
    assert separation.angle_of(0.0) == 0
    assert separation.angle_of(1.0000000000000002) == 180


@given(st.floats(1e-9, 10))
def test_a_border_is_inside(degrees):
    """Rows whose declinations differ by just a radius lie within it."""
    assert separation.square(0.0, 0.0, 0.0, degrees) <= separation.square_of(degrees)


def test_compiled_equals_interpreted(interpret):
    rng = np.random.default_rng(5)
    ra, dec = rng.uniform(0, 360, (2, 500)), np.degrees(np.arcsin(rng.uniform(-1, 1, (2, 500))))
    ra[1, :250], dec[1, :250] = ra[0, :250] + rng.normal(0, 1e-5, 250), dec[0, :250] * (1 - 1e-9)
    results = np.empty((2, 500))
    separation.separations(ra[0], dec[0], ra[1], dec[1], results[0])
    interpret(separation)
    separation.separations(ra[0], dec[0], ra[1], dec[1], results[1])
    np.testing.assert_array_max_ulp(results[0], results[1], 4)
