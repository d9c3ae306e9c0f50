"""Normalised separations against known ellipses, 40 digits, exchanged sides, the poles, and the interpreter."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sciplat.kernels import errors
from sciplat.kernels.errors import largest_error, normalised_separations

ARCSEC = 1 / 3600
ROUND = [1.0, 0.0, 1.0]


def measured(left, right, left_cov=ROUND, right_cov=ROUND):
    """Return sigma and density of one pair; covariances in arcsec^2, densities in 1/arcsec^2."""
    sides = [
        (np.array([ra], float), np.array([dec], float), np.array([cov], float) * ARCSEC**2)
        for (ra, dec), cov in ((left, left_cov), (right, right_cov))
    ]
    sigma, density, first = np.empty(1), np.empty(1), np.zeros(1, np.int64)
    normalised_separations(first, first, *sides[0], *sides[1], sigma, density)
    return sigma[0], density[0] * ARCSEC**2


def random_sides(rng, rows, scale=ARCSEC):
    """Return two sides of rows near each other: anywhere, at the poles and around RA = 0."""
    ra, dec = rng.uniform(0, 360, rows), np.degrees(np.arcsin(rng.uniform(-1, 1, rows)))
    dec[: rows // 4] = np.sign(dec[: rows // 4]) * (90 - scale * rng.uniform(0, 3, rows // 4))
    ra[-rows // 4 :] = scale * rng.uniform(0, 3, len(ra[-rows // 4 :]))
    its_dec = np.clip(dec + scale * rng.normal(0, 2, rows), -90, 90)
    its_ra = (ra + scale * rng.normal(0, 2, rows) / np.maximum(np.cos(np.radians(dec)), scale / 90)) % 360
    return (ra, dec, random_covariances(rng, rows, scale)), (its_ra, its_dec, random_covariances(rng, rows, scale))


def random_covariances(rng, rows, scale):
    east, north = scale * 10 ** rng.uniform(-1, 1, (2, rows))
    return np.stack([east**2, rng.uniform(-0.99, 0.99, rows) * east * north, north**2], axis=1)


def of_pairs(left, right, kernel=normalised_separations):
    """Return sigma and density of the rows that stand side by side."""
    rows = np.arange(len(left[0]))
    sigma, density = np.empty(len(rows)), np.empty(len(rows))
    kernel(rows, rows, *left, *right, sigma, density)
    return sigma, density


def precise(left, right):
    """Return sigma and density of one pair from unit vectors, the right axes moved along the great circle to the left.

    The offset is theta along the tangent towards the other position; the rotation that takes the right position to the
    left one takes its axes along (Rodrigues' formula).
    """
    mp = mpmath
    (x, east, north), (y, its_east, its_north) = (axes(ra, dec) for ra, dec, _ in (left, right))
    normal = cross(y, x)
    sine, cosine = mp.sqrt(dot(normal, normal)), dot(x, y)
    theta = mp.atan2(sine, cosine) * 180 / mp.pi
    along = [each - cosine * other for each, other in zip(y, x, strict=True)]
    offset = mp.matrix([theta / sine * dot(along, axis) if sine else 0 for axis in (east, north)])

    def taken(v):
        k = dot(normal, v) / (1 + cosine)
        return [cosine * a + b + k * c for a, b, c in zip(v, cross(normal, v), normal, strict=True)]

    turn = mp.matrix([[dot(axis, taken(its)) for its in (its_east, its_north)] for axis in (east, north)])
    total = matrix(left[2]) + turn * matrix(right[2]) * turn.T
    square = (offset.T * mp.inverse(total) * offset)[0]
    return mp.sqrt(square), mp.exp(-square / 2) / (2 * mp.pi * mp.sqrt(mp.det(total)))


def axes(ra, dec):
    lon, lat = (mpmath.mpf(float(angle)) * mpmath.pi / 180 for angle in (ra, dec))
    sin, cos, sine, cosine = mpmath.sin(lon), mpmath.cos(lon), mpmath.sin(lat), mpmath.cos(lat)
    return [cosine * cos, cosine * sin, sine], [-sin, cos, mpmath.mpf(0)], [-sine * cos, -sine * sin, cosine]


def matrix(cov):
    xx, xy, yy = map(float, cov)
    return mpmath.matrix([[xx, xy], [xy, yy]])


def dot(a, b):
    return mpmath.fsum(x * y for x, y in zip(a, b, strict=True))


def cross(a, b):
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]


@pytest.mark.parametrize(("ra", "its_ra"), [(10, 10), (0, 360), (359.9, -0.1)])
def test_round_errors_add_in_squares(ra, its_ra):
    sigma, density = measured((ra, 20), (its_ra, 20 + 3 * ARCSEC), [4, 0, 4], [5, 0, 5])
    assert sigma == pytest.approx(1, rel=1e-10)
    assert density == pytest.approx(math.exp(-0.5) / (2 * math.pi * 9), rel=1e-10)


@pytest.mark.parametrize(
    ("east", "north", "square"),
    # C = [[5, 2], [2, 4]] arcsec^2, of determinant 16
    [(3, 0, 4 * 9 / 16), (0, 2, 5 * 4 / 16), (1, 1, (4 - 2 * 2 + 5) / 16), (-1, 1, (4 + 2 * 2 + 5) / 16)],
)
@pytest.mark.parametrize("ra", [123.0, 0.0])
def test_elliptical_errors_have_their_directions(east, north, square, ra):
    sigma, density = measured((ra, 0), ((ra + east * ARCSEC) % 360, north * ARCSEC), [3, 1, 1], [2, 1, 3])
    assert sigma == pytest.approx(math.sqrt(square), rel=1e-9)
    assert density == pytest.approx(math.exp(-square / 2) / (2 * math.pi * 4), rel=1e-9)


@pytest.mark.parametrize("dec", [90, -90])
def test_at_a_pole_east_depends_on_the_right_ascension(dec):
    sigma, density = measured((0, dec), (90, dec), [4, 0, 1], [4, 0, 1])  # crossed: C = 5, 5
    assert sigma == pytest.approx(0, abs=1e-9)
    assert density == pytest.approx(1 / (2 * math.pi * 5), rel=1e-12)
    _, density = measured((0, dec), (180, dec), [4, 0, 1], [4, 0, 1])  # one along the other: C = 8, 2
    assert density == pytest.approx(1 / (2 * math.pi * 4), rel=1e-12)


def test_across_a_pole_the_offset_is_along_the_meridian():
    near = 90 - 2 * ARCSEC
    sigma, _ = measured((30, near), (210, near), [100, 0, 1], [100, 0, 3])
    assert sigma == pytest.approx(2, rel=1e-9)  # 4 arcsec, errors of 2 along declination
    sigma, _ = measured((30, near), (120, near), [1, 0, 3], [3, 0, 1])  # crossed: C = 2, 6 in the left's axes
    east, north = 2, 2
    assert sigma == pytest.approx(math.sqrt(east**2 / 2 + north**2 / 6), rel=1e-9)


def test_coincident_positions_are_no_deviation_apart():
    sigma, density = measured((77.7, 33.3), (77.7, 33.3), [3, 1, 1], [2, 1, 3])
    assert sigma == 0
    assert density == pytest.approx(1 / (2 * math.pi * 4), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-9, ARCSEC, 1.0])
def test_they_are_those_of_forty_digits(scale):
    left, right = sides = random_sides(np.random.default_rng(8), 100, scale)
    sigma, density = of_pairs(left, right)
    with mpmath.workdps(40):
        truth = [precise([x[k] for x in left], [x[k] for x in right]) for k in range(100)]
    # positions themselves are rounded, near RA = 360 to 5.7e-14 degrees, near a pole to 1.4e-14: in smaller axes
    smallest = np.min([np.sqrt(cov[:, 0] * cov[:, 2] - cov[:, 1] ** 2) / largest_error(cov) for *_, cov in sides], 0)
    rounded = (np.abs(right[0] - left[0]) > 180) | (np.abs(left[1]) > 89)
    slack = np.where(rounded, 5.7e-14 / smallest, 0.0)
    expected = np.array([[float(value) for value in row] for row in truth])
    assert (np.abs(sigma - expected[:, 0]) <= 1e-11 * expected[:, 0] + slack).all()
    assert (np.abs(density - expected[:, 1]) <= expected[:, 1] * (1e-11 + slack) * (1 + expected[:, 0]) ** 2).all()


def test_exchanged_sides_give_the_same_bits():
    left, right = random_sides(np.random.default_rng(9), 1000)
    for one, other in zip(of_pairs(left, right), of_pairs(right, left), strict=True):
        assert (one == other).all()


def test_every_pair_takes_its_own_rows():
    rng = np.random.default_rng(10)
    left, right = random_sides(rng, 50)
    i, j = rng.integers(0, 50, (2, 300))
    sigma, density = np.empty(300), np.empty(300)
    normalised_separations(i, j, *left, *right, sigma, density)
    expected = of_pairs([x[i] for x in left], [x[j] for x in right])
    assert (sigma == expected[0]).all()
    assert (density == expected[1]).all()


def test_the_largest_error_is_the_root_of_the_larger_eigenvalue():
    cov = random_covariances(np.random.default_rng(2), 500, ARCSEC)
    matrices = cov[:, [0, 1, 1, 2]].reshape(-1, 2, 2)
    assert largest_error(cov) == pytest.approx(np.sqrt(np.linalg.eigvalsh(matrices)[:, 1]), rel=1e-12)
    assert largest_error(np.array([[9.0, 0, 4], [4.0, 0, 9], [2.0, 0, 2]])) == pytest.approx([3, 3, 2**0.5])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
@example(0)
def test_no_pair_is_farther_apart_than_its_deviations_allow(seed):
    left, right = random_sides(np.random.default_rng(seed), 100)
    sigma, _ = of_pairs(left, right)
    reach = sigma * np.hypot(largest_error(left[2]), largest_error(right[2]))
    far = np.stack([np.radians(right[0] - left[0]), np.radians(left[1]), np.radians(right[1])])
    square = np.sin((far[2] - far[1]) / 2) ** 2 + np.cos(far[1]) * np.cos(far[2]) * np.sin(far[0] / 2) ** 2
    assert (np.degrees(2 * np.arcsin(np.sqrt(square))) <= reach * (1 + 1e-9) + 1e-13).all()


def test_compiled_equals_interpreted(interpret):
    left, right = random_sides(np.random.default_rng(3), 300)
    compiled = of_pairs(left, right)
    interpret(errors)
    for one, other in zip(compiled, of_pairs(left, right, errors.normalised_separations), strict=True):
        np.testing.assert_array_max_ulp(one, other, 4)
