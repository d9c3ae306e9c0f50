"""Aperture sums against analytic truth, plain loops, other programs, symmetries and edges."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciplat.kernels import aperture, overlap
from sciplat.kernels.flags import BAD_PIXEL, NO_VARIANCE, SATURATED, TRUNCATED
from tests import reference
from tests.conftest import required

NO_VARIANCE_PLANE = np.empty((0, 0), np.float32)
NO_MASK = np.empty((0, 0), np.uint32)
BAD, BLOOM = np.uint32(1), np.uint32(4)


def measure(
    science, x, y, radii, *,
    variance=None, mask=None, saturation=np.inf, background=0.0, x0=0, y0=0, radius_max=None,
):  # fmt: skip
    """Call the kernel; `radii` (k,) or (n, k)."""
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    radii = np.broadcast_to(np.asarray(radii, float), (x.size, np.shape(radii)[-1])).copy()
    out = [np.full(radii.shape, -7.0) for _ in range(3)]
    flag = np.full(radii.shape, -7, np.int32)
    aperture.aperture_sums(
        science,
        NO_VARIANCE_PLANE if variance is None else variance,
        NO_MASK if mask is None else mask,
        BAD,
        BLOOM,
        np.float64(saturation),
        x,
        y,
        x0,
        y0,
        radii,
        np.broadcast_to(np.asarray(background, float), x.shape).copy(),
        aperture.aperture_scratch(np.nanmax(radii) if radius_max is None else radius_max),
        *out,
        flag,
    )
    return SimpleNamespace(flux=out[0], variance=out[1], area=out[2], flag=flag)


def same_bits(one, other):
    for name in ("flux", "variance", "area", "flag"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.fixture(scope="module")
def scene():
    """Return a small noisy image with variance, a mask with both kinds of bits, and sources all over it."""
    rng = np.random.default_rng(12)
    shape = (70, 90)
    science = rng.normal(50, 5, shape).astype(np.float32)
    variance = rng.uniform(20, 30, shape).astype(np.float32)
    mask = np.where(rng.random(shape) < 0.01, BAD, 0) | np.where(rng.random(shape) < 0.005, BLOOM, 0)
    science[rng.random(shape) < 0.003] = np.nan
    science[rng.random(shape) < 0.003] = 1000.0
    variance[rng.random(shape) < 0.003] = -1.0
    variance[rng.random(shape) < 0.003] = np.inf
    x, y = rng.uniform(-0.5, 89.5, 60), rng.uniform(-0.5, 69.5, 60)
    return SimpleNamespace(
        science=science, variance=variance, mask=mask.astype(np.uint32), x=x, y=y, saturation=900.0,
        background=rng.normal(50, 1, 60), radii=rng.uniform(0.3, 9, (60, 3)),
    )  # fmt: skip


def measure_scene(scene, order=slice(None), columns=slice(None)):
    return measure(
        scene.science,
        scene.x[order],
        scene.y[order],
        scene.radii[order][:, columns],
        variance=scene.variance,
        mask=scene.mask,
        saturation=scene.saturation,
        background=scene.background[order],
    )


def test_ones_sum_to_the_area_of_the_disc():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(14, 26, 200), rng.uniform(14, 26, 200)
    radii = np.stack([rng.uniform(0.01, 0.5, 200), rng.uniform(0.5, 3, 200), rng.uniform(3, 13, 200)], axis=1)
    ones = np.ones((41, 41), np.float32)
    found = measure(ones, x, y, radii, variance=ones)
    for sums in (found.flux, found.variance, found.area):
        np.testing.assert_allclose(sums, math.pi * radii**2, rtol=1e-12)
    assert not found.flag.any()


def test_a_gradient_sums_to_its_value_at_the_centre():
    """A pixel has one value, not a gradient of its own: only for symmetric centres do the errors cancel."""
    rows, columns = np.indices((41, 41))
    plane = (3 * columns - 2 * rows + 7).astype(np.float32)
    for x, y in [(20.0, 20.0), (20.5, 19.5), (20.0, 19.5)]:
        found = measure(plane, x, y, [0.3, 2.2, 9.7], background=3 * x - 2 * y + 7)
        np.testing.assert_allclose(found.flux, 0, atol=1e-10)
        found = measure(plane, x, y, [0.3, 2.2, 9.7])
        np.testing.assert_allclose(found.flux / found.area, 3 * x - 2 * y + 7, rtol=1e-12)


def test_plain_loops_with_bad_pixels_at_all_edges(scene):
    found = measure_scene(scene)
    bits = int(BAD | BLOOM)
    good = reference.good_pixels(scene.science, scene.variance, scene.mask, bits, scene.saturation)
    for n, k in np.ndindex(found.flux.shape):
        circle = (scene.x[n], scene.y[n], scene.radii[n, k])
        flux, variance, area = reference.aperture_sums(scene.science, scene.variance, good, circle, scene.background[n])
        assert found.flux[n, k] == pytest.approx(flux, rel=1e-11, abs=1e-9)
        assert found.variance[n, k] == pytest.approx(variance, rel=1e-11, abs=1e-11)
        assert found.area[n, k] == pytest.approx(area, rel=1e-11, abs=1e-12)


def test_flags_by_plain_loops(scene):
    found = measure_scene(scene)
    bits = int(BAD | BLOOM)
    good = reference.good_pixels(scene.science, scene.variance, scene.mask, bits, scene.saturation)
    saturated = ((scene.mask & BLOOM) > 0) | (scene.science >= scene.saturation)
    for n, k in np.ndindex(found.flag.shape):
        x, y, r = scene.x[n], scene.y[n], scene.radii[n, k]
        touched = reference.overlap_image(good.shape, x, y, r) > 0
        expected = BAD_PIXEL * bool((touched & ~good).any()) | SATURATED * bool((touched & saturated).any())
        expected |= TRUNCATED * bool(min(x, y) - r < -0.5 or x + r > 89.5 or y + r > 69.5)
        assert found.flag[n, k] == expected
    assert set(np.unique(found.flag)) >= {0, TRUNCATED, BAD_PIXEL, BAD_PIXEL | SATURATED}


def test_order_of_sources_and_radii_changes_no_bit(scene):
    whole = measure_scene(scene)
    order = np.random.default_rng(0).permutation(60)
    shuffled = measure_scene(scene, order, [2, 0, 1])
    for name in ("flux", "variance", "area", "flag"):
        np.testing.assert_array_equal(getattr(whole, name)[order][:, [2, 0, 1]], getattr(shuffled, name))
    for k in range(3):
        np.testing.assert_array_equal(whole.flux[:, [k]], measure_scene(scene, columns=[k]).flux)


@settings(max_examples=60, deadline=None)
@given(st.floats(30, 60), st.floats(25, 45), st.lists(st.floats(0.1, 9), min_size=1, max_size=3), st.data())
def test_windows_change_no_bit(scene, x, y, radii, data):
    reach = math.ceil(max(radii) + 1)
    x0, y0 = data.draw(st.integers(0, int(x) - reach)), data.draw(st.integers(0, int(y) - reach))
    x1, y1 = data.draw(st.integers(int(x) + reach + 1, 90)), data.draw(st.integers(int(y) + reach + 1, 70))
    options = {"saturation": scene.saturation, "background": 50.0}
    whole = measure(scene.science, x, y, radii, variance=scene.variance, mask=scene.mask, **options)
    science, variance, mask = (
        np.ascontiguousarray(plane[y0:y1, x0:x1]) for plane in (scene.science, scene.variance, scene.mask)
    )
    same_bits(whole, measure(science, x, y, radii, variance=variance, mask=mask, x0=x0, y0=y0, **options))


def test_integer_shifts_change_no_bit(scene):
    x, y = scene.x + 4096 - 90, scene.y - 1000
    # the shift itself must round neither position
    x, y = np.round(x * 2**30) / 2**30, np.round(y * 2**30) / 2**30
    planes = {"variance": scene.variance, "mask": scene.mask, "saturation": scene.saturation}
    here = measure(scene.science, x - 4006, y + 1000, scene.radii, **planes)
    same_bits(here, measure(scene.science, x, y, scene.radii, x0=4006, y0=-1000, **planes))


def test_without_variance_and_mask():
    ones = np.ones((21, 21), np.float32)
    found = measure(ones, 10, 10, [3.0])
    assert math.isnan(found.variance[0, 0])
    assert found.flag[0, 0] == NO_VARIANCE
    assert found.flux[0, 0] == pytest.approx(9 * math.pi)


def test_an_aperture_that_touches_the_edge_is_whole():
    ones = np.ones((20, 30), np.float32)
    x, y = [2.5, 26.5, 10, 10, 2.5, 26.5, 10, 10], [10, 10, 2.5, 16.5, 10, 10, 2.5, 16.5]
    radii = np.array([[3.0]] * 4 + [[3.01]] * 4)
    found = measure(ones, x, y, radii, variance=ones)
    assert found.flag.ravel().tolist() == [0] * 4 + [TRUNCATED] * 4
    np.testing.assert_allclose(found.area[:4], 9 * math.pi, rtol=1e-12)
    assert (found.area[4:] < math.pi * 3.01**2 - 1e-4).all()


def test_apertures_beyond_the_array_are_empty():
    ones = np.ones((20, 30), np.float32)
    found = measure(ones, [-50, 1e6, 10, 29.5 + 2.0], [10, 10, -1e9, 5], [2.0], variance=ones)
    assert (found.flux == 0).all()
    assert (found.area == 0).all()
    assert (found.flag == TRUNCATED).all()


def test_a_corner_keeps_a_quarter():
    ones = np.ones((20, 30), np.float32)
    found = measure(ones, -0.5, -0.5, [2.0, 8.0], variance=ones)
    np.testing.assert_allclose(found.area, [[math.pi, 16 * math.pi]], rtol=1e-12)


def test_nothing_good_has_no_area():
    ones = np.ones((20, 20), np.float32)
    found = measure(ones, 9.7, 9.2, [4.0], variance=ones, mask=np.ones((20, 20), np.uint32))
    assert (found.flux[0, 0], found.variance[0, 0], found.area[0, 0]) == (0, 0, 0)
    assert found.flag[0, 0] == BAD_PIXEL


def test_a_bad_pixel_beside_the_circle_counts_for_nothing():
    science = np.ones((21, 21), np.float32)
    science[10, 13] = np.inf
    found = measure(science, 10, 10, [2.5, 2.6], variance=np.ones_like(science))
    assert found.flag.tolist() == [[0, BAD_PIXEL]]
    science[10, 13] = 3e38
    assert measure(science, 10, 10, [2.5]).flux[0, 0] == pytest.approx(2.5**2 * math.pi, rel=1e-12)


def test_saturation_by_value_and_by_bit():
    science = np.ones((21, 21), np.float32)
    science[10, 10] = 500
    assert measure(science, 10, 10, [3.0], saturation=500).flag[0, 0] == BAD_PIXEL | SATURATED | NO_VARIANCE
    assert measure(science, 10, 10, [3.0], saturation=501).flag[0, 0] == NO_VARIANCE
    science[10, 10] = np.inf
    assert measure(science, 10, 10, [3.0]).flag[0, 0] == BAD_PIXEL | NO_VARIANCE
    mask = np.zeros((21, 21), np.uint32)
    mask[10, 11] = BLOOM
    found = measure(np.ones_like(science), 10, 10, [3.0], mask=mask)
    assert found.flag[0, 0] == BAD_PIXEL | SATURATED | NO_VARIANCE


def test_what_is_no_number_gives_none():
    ones = np.ones((21, 21), np.float32)
    found = measure(ones, [10, np.nan, np.inf, 10], 4 * [10], [2.0, np.nan, 0.0, -1.0, 50.0], radius_max=5.0,
                    variance=ones, background=[0, 0, 0, np.nan])  # fmt: skip
    assert found.flux[0, 0] == pytest.approx(4 * math.pi)
    assert np.isnan(found.flux.ravel()[1:]).all()
    assert np.isnan(found.area[1:3]).all()
    assert np.isnan(found.area[:, 1:]).all()
    assert found.area[3, 0] == pytest.approx(4 * math.pi)
    assert not found.flag[:, 0].any()


def test_no_source_and_no_radius():
    ones = np.ones((5, 5), np.float32)
    assert measure(ones, [], [], np.empty((0, 2)), radius_max=3.0).flux.shape == (0, 2)
    assert measure(ones, [2], [2], np.empty((1, 0)), radius_max=3.0).flux.shape == (1, 0)


def test_compiled_equals_interpreted(scene, interpret):
    some = slice(0, 12)
    compiled = measure_scene(scene, some)
    interpret(aperture, overlap)
    plain = measure_scene(scene, some)
    for name in ("flux", "variance", "area"):
        np.testing.assert_array_max_ulp(getattr(compiled, name), getattr(plain, name), 4)
    np.testing.assert_array_equal(compiled.flag, plain.flag)


def rival(name):
    """Return a module to compare with; under CI it must be there."""
    return __import__(name) if required("rivals") else pytest.importorskip(name)


def sums_of_absolutes(science, x, y, radii):
    """Return what "agrees to 1e-6" is relative to."""
    return measure(np.abs(np.nan_to_num(science)), x, y, radii).flux


@pytest.fixture(scope="module")
def stars():
    rng = np.random.default_rng(5)
    science = rng.normal(0, 5, (200, 300)).astype(np.float32)
    variance = rng.uniform(20, 30, science.shape).astype(np.float32)
    mask = np.where(rng.random(science.shape) < 0.01, BAD, 0).astype(np.uint32)
    x, y = rng.uniform(-0.5, 299.5, 150), rng.uniform(-0.5, 199.5, 150)
    return SimpleNamespace(science=science, variance=variance, mask=mask, x=x, y=y)


RADII = [0.4, 3.0, 7.7]


def test_sep_agrees(stars):
    sep = rival("sep")
    found = measure(stars.science, stars.x, stars.y, RADII, variance=stars.variance)
    for k, r in enumerate(RADII):
        flux, error, _ = sep.sum_circle(stars.science, stars.x, stars.y, r, var=stars.variance, subpix=0)
        scale = sums_of_absolutes(stars.science, stars.x, stars.y, RADII)[:, k]
        assert (np.abs(found.flux[:, k] - flux) <= 1e-6 * scale).all()
        np.testing.assert_allclose(np.sqrt(found.variance[:, k]), error, rtol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_photutils_agrees(stars, masked):
    rival("photutils")
    from photutils.aperture import CircularAperture

    mask = stars.mask if masked else np.zeros_like(stars.mask)
    found = measure(stars.science, stars.x, stars.y, RADII, variance=stars.variance, mask=mask)
    scale = sums_of_absolutes(stars.science, stars.x, stars.y, RADII)
    for k, r in enumerate(RADII):
        circles = CircularAperture(np.stack([stars.x, stars.y], axis=1), r)
        flux, error = circles.do_photometry(stars.science, error=np.sqrt(stars.variance), mask=mask != 0)
        assert (np.abs(found.flux[:, k] - flux) <= 1e-6 * scale[:, k]).all()
        np.testing.assert_allclose(np.sqrt(found.variance[:, k]), error, rtol=1e-6, atol=1e-6)
        area = circles.area_overlap(stars.science, mask=mask != 0)
        np.testing.assert_allclose(found.area[:, k], area, rtol=1e-6, atol=1e-6)
