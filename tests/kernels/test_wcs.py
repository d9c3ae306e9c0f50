"""The gnomonic kernels against analytic truth, the slow formula, symmetries and edges."""

import math

import numpy as np
import pytest

from sciplat.kernels.wcs import polynomial, tan_to_pixel, tan_to_sky, undistort

NO_SIP = np.zeros((0, 0))
PIXEL = 1e-4  # degrees


def basis_at(ra, dec):
    a, d = math.radians(ra), math.radians(dec)
    return np.array(
        [
            [-math.sin(a), math.cos(a), 0.0],
            [-math.sin(d) * math.cos(a), -math.sin(d) * math.sin(a), math.cos(d)],
            [math.cos(d) * math.cos(a), math.cos(d) * math.sin(a), math.sin(d)],
        ]
    )


def to_pixel(ra, dec, basis, linear, crpix=(0.0, 0.0), sip=(NO_SIP, NO_SIP), function=tan_to_pixel):
    ra, dec = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
    out = np.full((3, ra.size), -7.0)
    function(ra, dec, basis, np.linalg.inv(linear), np.asarray(crpix, float), *sip, *out)
    return out


def to_sky(x, y, basis, linear, crpix=(0.0, 0.0), sip=(NO_SIP, NO_SIP)):
    out = np.empty((2, x.size))
    tan_to_sky(x, y, basis, linear, np.asarray(crpix, float), *sip, *out)
    return out


def sip_of(seed, order=4, size=1000.0, pixels=5.0):
    """Return random coefficients that move the corner of an image by some pixels."""
    rng = np.random.default_rng(seed)
    i, j = np.indices((order + 1, order + 1))
    used = (i + j >= 2) & (i + j <= order)
    return tuple(np.where(used, rng.normal(0, pixels, (order + 1,) * 2) / size ** (i + j), 0.0) for _ in "AB")


def test_along_the_meridian_the_distance_is_a_tangent():
    dec = np.array([-60.0, -1.0, 0.0, 30.0, 80.0])
    x, y, scale = to_pixel(np.full(5, 40.0), dec, basis_at(40.0, 0.0), np.diag([-PIXEL, PIXEL]))
    assert np.abs(x).max() < 1e-8
    np.testing.assert_allclose(y, np.degrees(np.tan(np.radians(dec))) / PIXEL, rtol=1e-13, atol=1e-9)
    np.testing.assert_allclose(scale, PIXEL * np.cos(np.radians(dec)) ** 1.5, rtol=1e-13)


def test_polynomial_and_its_derivatives_by_the_plain_sum():
    a, _ = sip_of(1, size=1.0)
    u, v = 0.7, -1.3
    i, j = np.indices(a.shape)
    value, by_u, by_v = polynomial(a, u, v)
    assert value == pytest.approx((a * u**i * v**j).sum(), rel=1e-13)
    assert by_u == pytest.approx((a * i * u ** np.maximum(i - 1, 0) * v**j).sum(), rel=1e-13)
    assert by_v == pytest.approx((a * j * u**i * v ** np.maximum(j - 1, 0)).sum(), rel=1e-13)


@pytest.mark.parametrize("seed", range(5))
def test_there_and_back_with_distortion(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-1000, 1000, (2, 200))
    linear = PIXEL * np.array([[0.3, 1.0], [-1.1, 0.2]])
    arguments = basis_at(359.99, -75.0), linear, (3.5, -8.0), sip_of(seed)
    back_x, back_y, scale = to_pixel(*to_sky(x, y, *arguments), *arguments)
    np.testing.assert_allclose(back_x, x, atol=1e-7)
    np.testing.assert_allclose(back_y, y, atol=1e-7)

    # the solid angle by differences of the forward transformation
    def vectors(x, y):
        ra, dec = np.radians(to_sky(x, y, *arguments))
        return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)

    along_x = vectors(x + 0.5, y) - vectors(x - 0.5, y)
    along_y = vectors(x, y + 0.5) - vectors(x, y - 0.5)
    area = np.linalg.norm(np.cross(along_x, along_y), axis=-1)
    np.testing.assert_allclose(scale, np.degrees(np.sqrt(area)), rtol=1e-6)


def test_turning_the_sky_turns_nothing_on_the_image():
    rng = np.random.default_rng(3)
    ra, dec = rng.uniform(-2, 2, 100), rng.uniform(20, 22, 100)
    linear = np.diag([-PIXEL, PIXEL])
    here = to_pixel(ra, dec, basis_at(0.0, 21.0), linear)
    there = to_pixel((ra + 123.0) % 360.0, dec, basis_at(123.0, 21.0), linear)
    np.testing.assert_allclose(there, here, rtol=1e-12, atol=1e-8)


def test_the_order_of_the_sources_does_not_matter():
    rng = np.random.default_rng(4)
    ra, dec = rng.uniform(0, 1, (2, 50))
    arguments = basis_at(0.5, 0.5), np.diag([-PIXEL, PIXEL]), (0.0, 0.0), sip_of(4)
    turned = rng.permutation(50)
    together = to_pixel(ra, dec, *arguments)[:, turned]
    np.testing.assert_array_equal(to_pixel(ra[turned], dec[turned], *arguments), together)


def test_far_hemisphere_and_no_numbers_give_nan():
    ra = [10.0, 190.0, 100.0, np.nan, 10.0, np.inf]
    dec = [0.0, 0.0, 0.0, 0.0, np.nan, 0.0]
    out = to_pixel(ra, dec, basis_at(10.0, 0.0), np.diag([-PIXEL, PIXEL]))
    assert np.isfinite(out[:, 0]).all()
    # a quarter of the sky away the tangent is infinite, or huge by rounding
    assert np.isnan(out[:, [1, 3, 4, 5]]).all()
    assert not np.abs(out[0, 2]) < 1e15


def test_a_distortion_without_inverse_gives_nan():
    a = np.zeros((3, 3))
    a[2, 0] = 1.0  # u + u^2 >= -1/4: no u gives -1
    b = np.zeros((3, 3))
    assert math.isnan(undistort(-1.0, 0.0, a, b)[2])
    out = to_pixel(0.0 + PIXEL, 0.0, basis_at(0.0, 0.0), np.diag([-PIXEL, PIXEL]), sip=(a, b))
    assert np.isnan(out).all()


def test_no_sources():
    assert to_pixel([], [], basis_at(0, 0), np.eye(2)).shape == (3, 0)


@pytest.mark.parametrize("sip", [(NO_SIP, NO_SIP), sip_of(8)])
def test_compiled_equals_interpreted(sip):
    rng = np.random.default_rng(5)
    ra, dec = rng.uniform(0.1, 1, (2, 50))
    arguments = basis_at(0.5, 0.5), np.diag([-PIXEL, PIXEL]), (0.0, 0.0), sip
    compiled = to_pixel(ra, dec, *arguments)
    plain = to_pixel(ra, dec, *arguments, function=tan_to_pixel.py_func)
    # offsets of 1e4 pixels are differences of unit vectors: the last digits are those of one radian
    np.testing.assert_allclose(compiled, plain, rtol=1e-12, atol=1e-8)
