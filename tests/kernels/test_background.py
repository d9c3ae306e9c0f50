"""Annulus backgrounds against analytic truth, numpy's median, photutils, symmetries and edges."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sciplat.kernels import background
from sciplat.kernels.flags import NO_ANNULUS
from tests import reference
from tests.conftest import required

BAD, BLOOM = np.uint32(1), np.uint32(4)
METHODS = {"median": background.MEDIAN, "mean": background.MEAN, "mode": background.MODE}


def measure(
    science,
    x,
    y,
    inner,
    outer,
    method="median",
    *,
    variance=None,
    mask=None,
    saturation=np.inf,
    x0=0,
    y0=0,
    outer_max=None,
):
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    inner, outer = (np.broadcast_to(np.asarray(radius, float), x.shape).copy() for radius in (inner, outer))
    level, scatter = np.full(x.shape, -7.0), np.full(x.shape, -7.0)
    count, flag = np.full(x.shape, -7), np.full(x.shape, -7, np.int32)
    background.annulus_background(
        science,
        np.empty((0, 0), np.float32) if variance is None else variance,
        np.empty((0, 0), np.uint32) if mask is None else mask,
        BAD,
        BLOOM,
        np.float64(saturation),
        x,
        y,
        x0,
        y0,
        inner,
        outer,
        METHODS[method],
        np.empty(background.annulus_scratch_size(outer.max() if outer_max is None else outer_max)),
        level,
        scatter,
        count,
        flag,
    )
    return SimpleNamespace(level=level, scatter=scatter, count=count, flag=flag)


def same_bits(one, other, order=slice(None)):
    for name in ("level", "scatter", "count", "flag"):
        np.testing.assert_array_equal(getattr(one, name)[order], getattr(other, name))


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(8)
    shape = (70, 90)
    science = rng.normal(100, 5, shape).astype(np.float32)
    science[rng.random(shape) < 0.03] += 200
    science[rng.random(shape) < 0.01] = np.nan
    science[rng.random(shape) < 0.01] = np.inf
    mask = np.where(rng.random(shape) < 0.02, BAD, 0) | np.where(rng.random(shape) < 0.01, BLOOM, 2)
    return SimpleNamespace(
        science=science,
        mask=mask.astype(np.uint32),
        x=rng.uniform(-0.5, 89.5, 80),
        y=rng.uniform(-0.5, 69.5, 80),
        inner=rng.uniform(0, 6, 80),
        outer=rng.uniform(6, 12, 80),
    )


def measure_scene(scene, method, order=slice(None), saturation=290.0):
    return measure(
        scene.science,
        scene.x[order],
        scene.y[order],
        scene.inner[order],
        scene.outer[order],
        method,
        mask=scene.mask,
        saturation=saturation,
    )


def test_a_constant_sky_has_no_scatter():
    sky = np.full((41, 41), 123.25, np.float32)
    for method in METHODS:
        found = measure(sky, [20.0, 20.3], 20.1, 5, 9, method)
        assert found.level.tolist() == [123.25, 123.25]
        assert found.scatter.tolist() == [0, 0]
        assert found.flag.tolist() == [0, 0]


def test_a_star_in_the_annulus_is_clipped():
    rng = np.random.default_rng(2)
    sky = rng.normal(100, 5, (61, 61)).astype(np.float32)
    clean = measure(sky, 30, 30, 10, 25, "mean")
    sky[45:48, 30:33] += 5000
    for method in METHODS:
        found = measure(sky, 30, 30, 10, 25, method)
        assert found.level[0] == pytest.approx(100, abs=1.0)
        assert found.scatter[0] == pytest.approx(5, rel=0.1)
    assert measure(sky, 30, 30, 10, 25, "mean").count[0] == pytest.approx(clean.count[0] - 9, abs=1)


@pytest.mark.parametrize("method", METHODS)
def test_numpy_on_the_same_pixels(scene, method):
    found = measure_scene(scene, method)
    good = reference.good_pixels(scene.science, None, scene.mask, int(BAD | BLOOM), 290.0)
    for n in range(scene.x.size):
        pixels = reference.annulus_pixels(scene.science, good, scene.x[n], scene.y[n], scene.inner[n], scene.outer[n])
        scatter = reference.robust_scatter(pixels)
        if method != "median":
            pixels = reference.clip(pixels)
            scatter = pixels.std()
        median, mean = np.median(pixels), pixels.mean()
        level = {"median": median, "mean": mean, "mode": 3 * median - 2 * mean}[method]
        assert found.level[n] == pytest.approx(level, rel=1e-13)
        assert found.scatter[n] == pytest.approx(scatter, rel=1e-12)
        assert found.count[n] == pixels.size
        assert found.flag[n] == 0


@settings(max_examples=200, deadline=None)
@given(arrays(np.float64, st.integers(1, 60), elements=st.one_of(st.integers(-3, 3), st.floats(-1e30, 1e30))))
def test_the_median_is_numpys(values):
    padded = np.concatenate([[-1e300], values, [1e300]])
    median = background.median_in_place(padded, 1, padded.size - 1)
    assert median == pytest.approx(np.median(values), rel=1e-15)
    assert sorted(padded[1:-1]) == sorted(values)
    assert (padded[0], padded[-1]) == (-1e300, 1e300)


@pytest.mark.parametrize("shape", ["equal", "two", "rising", "falling", "pipe"])
def test_the_median_of_a_million_patterned_pixels(shape):
    """A quadratic selection would take hours here and meet the time limit of the tests."""
    i = np.arange(1_000_001.0)
    values = {"equal": i * 0, "two": i % 2, "rising": i, "falling": -i, "pipe": np.minimum(i, i[::-1])}[shape]
    assert background.median_in_place(values.copy(), 0, values.size) == np.median(values)


def test_order_and_window_change_no_bit(scene):
    for method in METHODS:
        whole = measure_scene(scene, method)
        order = np.random.default_rng(1).permutation(80)
        same_bits(whole, measure_scene(scene, method, order), order)
    for x0, y0, x1, y1 in [(0, 0, 70, 60), (17, 9, 75, 64), (28, 18, 57, 47)]:
        science, mask = (np.ascontiguousarray(plane[y0:y1, x0:x1]) for plane in (scene.science, scene.mask))
        for method in METHODS:
            whole = measure(scene.science, [41.3, 42.5], [32.8, 32.5], 4, 11.9, method, mask=scene.mask)
            part = measure(science, [41.3, 42.5], [32.8, 32.5], 4, 11.9, method, mask=mask, x0=x0, y0=y0)
            same_bits(whole, part)


def test_borders_are_inside():
    sky = np.zeros((21, 21), np.float32)
    assert measure(sky, 10, 10, 5, 5).count[0] == 12  # 3-4-5 triangles and the axes
    assert measure(sky, 10, 10, 0, 0).count[0] == 1
    assert measure(sky, 10.5, 10.5, 0.7, 0.71).count[0] == 4


def test_the_edge_of_the_image_cuts_the_annulus():
    sky = np.arange(400, dtype=np.float32).reshape(20, 20)
    rows, columns = np.indices(sky.shape)
    for x, y in [(0, 0), (19.4, 19.4), (-0.5, 10), (10, 24)]:
        inside = (columns - x) ** 2 + (rows - y) ** 2 <= 36
        found = measure(sky, x, y, 0, 6)
        assert found.count[0] == inside.sum()
        assert found.level[0] == np.median(sky[inside])


def test_no_good_pixel_has_no_level():
    sky = np.ones((21, 21), np.float32)
    cases = [
        measure(sky, 10, 10, 3, 5, mask=np.full((21, 21), BLOOM)),
        measure(sky * np.nan, 10, 10, 3, 5),
        measure(sky, 10, 10, 3, 5, saturation=1.0),
        measure(sky, 500, 10, 3, 5),
        measure(sky, np.nan, 10, 3, 5),
        measure(sky, 10, 1e300, 3, 5),
        measure(sky, 10, 10, 5, 3),
        measure(sky, 10, 10, np.nan, 3),
        measure(sky, 10, 10, 3, 500, outer_max=5),
    ]
    for found in cases:
        assert np.isnan(found.level[0])
        assert np.isnan(found.scatter[0])
        assert found.count[0] == 0
        assert found.flag[0] == NO_ANNULUS


def test_compiled_equals_interpreted(scene, interpret):
    some = slice(0, 6)
    compiled = [measure_scene(scene, method, some) for method in METHODS]
    interpret(background)
    for method, found in zip(METHODS, compiled, strict=True):
        plain = measure_scene(scene, method, some, saturation=np.float64(290))
        np.testing.assert_array_max_ulp(found.level, plain.level, 4)
        np.testing.assert_array_max_ulp(found.scatter, plain.scatter, 4)
        np.testing.assert_array_equal(found.count, plain.count)


def test_photutils_agrees(scene):
    if not required("rivals"):
        pytest.importorskip("photutils")
    from photutils.aperture import ApertureStats, CircularAnnulus

    science = np.nan_to_num(scene.science, nan=100, posinf=100)
    x, y = np.random.default_rng(4).uniform(15, 55, (2, 30))
    found = measure(science, x, y, 6, 12, mask=scene.mask & BAD)
    annuli = CircularAnnulus(np.stack([x, y], axis=1), 6, 12)
    theirs = ApertureStats(science, annuli, mask=(scene.mask & BAD) > 0, sum_method="center")
    np.testing.assert_allclose(found.level, theirs.median, rtol=1e-6)
    np.testing.assert_allclose(found.scatter, theirs.mad_std, rtol=1e-6)
    np.testing.assert_array_equal(found.count, theirs.center_aper_area.value)


def test_a_pixel_without_a_usable_variance_is_bad(scene):
    science = np.where(np.isfinite(scene.science), scene.science, np.float32(90)).astype(np.float32)
    worthless = np.zeros(science.shape, bool)
    worthless[20:50, 30] = True
    variance = np.ones(science.shape, np.float32)
    variance[worthless] = np.resize([np.nan, np.inf, -1.0], 30)
    got = measure(science, 31.2, 33.9, 4.0, 9.0, variance=variance)
    expected = measure(science, 31.2, 33.9, 4.0, 9.0, mask=np.where(worthless, BAD, 0).astype(np.uint32))
    same_bits(got, expected)
    assert got.count[0] < measure(science, 31.2, 33.9, 4.0, 9.0).count[0]
