"""The motion of stars against spherical triangles, vectors in extended precision, astropy, symmetries and edges."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.time import Time
from hypothesis import given
from hypothesis import strategies as st

from sciplat.kernels.motion import propagate

MAS = np.radians(1 / 3.6e6)
ROUNDING = 1e-13  # degrees: two units in the last place of a right ascension near 360


def move(ra, dec, pmra, pmdec, radial=0.0, years=1.0, function=propagate):
    arrays = [np.array(a, dtype=float) for a in np.broadcast_arrays(ra, dec, pmra, pmdec, radial, years)]
    arrays = [np.atleast_1d(a) for a in arrays]
    out = np.full((2, arrays[0].size), -7.0)
    function(*arrays, *out)
    return out


def vectors(ra, dec):
    """Return unit vectors, shape (3, n), in extended precision."""
    lon, lat = np.radians(np.asarray(ra, np.longdouble)), np.radians(np.asarray(dec, np.longdouble))
    return np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def moved_vectors(ra, dec, pmra, pmdec, radial, years):
    """Return where stars are by adding vectors in extended precision."""
    lon, lat = np.radians(np.asarray(ra, np.longdouble)), np.radians(np.asarray(dec, np.longdouble))
    east = np.array([-np.sin(lon), np.cos(lon), np.zeros_like(lon)])
    north = np.array([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)])
    years = np.asarray(years, np.longdouble)
    moved = vectors(ra, dec) * (1 + radial * years) + (east * pmra + north * pmdec) * years
    return moved / np.sqrt((moved**2).sum(axis=0))


def degrees_between(one, other):
    return np.degrees(2 * np.arcsin(np.sqrt(((one - other) ** 2).sum(axis=0)) / 2)).astype(float)


def random_stars(seed, n, size):
    """Return n stars all over the sky, many near the poles, that move up to `size` radians."""
    rng = np.random.default_rng(seed)
    colatitude = np.where(np.arange(n) % 2, 10 ** rng.uniform(-12, 1.9, n), rng.uniform(0, 90, n))
    dec = np.where(rng.random(n) < 0.5, 1, -1) * (90 - colatitude)
    years = rng.uniform(-100, 100, n)
    pm = rng.normal(0, size / 100, (2, n))
    return rng.uniform(0, 360, n), dec, *pm, rng.uniform(-0.005, 0.005, n), years


@pytest.mark.parametrize("tangent", [1e-12, 1e-6, 0.1, 5.0, -0.3])
def test_at_the_equator_motion_runs_along_great_circles(tangent):
    angle = np.degrees(np.arctan(tangent))
    ra, dec = move(100.0, 0.0, tangent, 0.0)
    assert ra[0] - 100.0 == pytest.approx(angle, rel=1e-14, abs=ROUNDING)
    assert dec[0] == 0.0
    ra, dec = move(100.0, 0.0, 0.0, tangent)
    assert ra[0] == 100.0
    assert dec[0] == pytest.approx(angle, rel=1e-15)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_star_goes_across_the_pole(side):
    ra, dec = move(300.0, side * 89.999, 0.0, side * np.tan(np.radians(0.003)) / 10, years=10.0)
    assert ra[0] == pytest.approx(120.0, abs=ROUNDING)
    assert dec[0] == pytest.approx(side * 89.998, abs=ROUNDING)


def test_no_star_goes_beyond_the_pole():
    dec = np.linspace(-89.0, 89.0, 1000)
    _, at_pole = move(0.0, dec, 0.0, 1 / np.tan(np.radians(dec)))
    assert np.abs(at_pole).max() == 90.0
    np.testing.assert_allclose(at_pole, np.copysign(90.0, dec), atol=ROUNDING)


@pytest.mark.parametrize(
    ("east", "north", "expected"), [(0, -1, 30.0), (1, 0, 120.0), (0, 1, 210.0), (-1, 0, 300.0), (1, 1, 165.0)]
)
def test_at_the_pole_the_right_ascension_tells_the_way(east, north, expected):
    ra, dec = move(30.0, 90.0, east * 1e-6, north * 1e-6)
    assert ra[0] == pytest.approx(expected, abs=1e-7)  # the cosine of 90 degrees is 6e-17
    assert dec[0] == pytest.approx(90.0 - np.degrees(1e-6 * np.hypot(east, north)), abs=ROUNDING)


def test_near_the_pole_right_ascension_follows_the_right_angled_triangle():
    dec, angle = np.radians(89.9), np.radians(0.05)
    ra, moved = move(10.0, 89.9, np.tan(angle), 0.0)
    assert ra[0] == pytest.approx(10.0 + np.degrees(np.arctan(np.tan(angle) / np.cos(dec))), abs=1e-11)
    assert ra[0] > 36.0  # a motion without cos(dec) would give 10.05
    assert moved[0] == pytest.approx(np.degrees(np.arcsin(np.sin(dec) * np.cos(angle))), abs=1e-11)


def test_a_receding_star_slows_down():
    _, dec = move(0.0, 0.0, 0.0, 1e-3, radial=0.01, years=100.0)
    assert dec[0] == pytest.approx(np.degrees(np.arctan(0.1 / 2.0)), rel=1e-15)


def test_a_star_without_motion_keeps_its_bits():
    ra = np.array([0.0, 5e-324, 123.45678901234567, 359.99999999999994])
    for dec in (0.0, -0.0, 45.123456789, 89.99999999999999, 90.0, -90.0):
        for motion in ((0.0, 0.0, 0.0, 25.0), (1e-6, -1e-6, 1e-5, 0.0), (0.0, -0.0, -1e-5, 25.0)):
            out_ra, out_dec = move(ra, dec, *motion)
            assert out_ra.tobytes() == ra.tobytes()
            assert out_dec.tobytes() == np.full(4, dec).tobytes()


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1e-3, 1.0])
def test_vectors_in_extended_precision_agree(size):
    stars = random_stars(1, 5000, size)
    assert degrees_between(vectors(*move(*stars)), moved_vectors(*stars)).max() < ROUNDING


@given(
    ra=st.floats(0, 360),
    dec=st.floats(-90, 90) | st.sampled_from([-90.0, 90.0, 0.0]),
    pmra=st.floats(-0.01, 0.01) | st.just(0.0),
    pmdec=st.floats(-0.01, 0.01) | st.just(0.0),
    radial=st.floats(-0.03, 0.03) | st.just(0.0),
    years=st.floats(-100, 100),
)
def test_any_star_is_where_the_vectors_are(ra, dec, pmra, pmdec, radial, years):
    star = tuple(np.array([value]) for value in (ra, dec, pmra, pmdec, radial, years))
    size = np.hypot(1 + radial * years, np.hypot(pmra, pmdec) * years)
    out_ra, out_dec = move(*star)
    assert 0.0 <= out_ra[0] < 360.0
    assert -90.0 <= out_dec[0] <= 90.0
    if size > 1e-3:  # a star that comes as near as that has no direction to compare
        assert degrees_between(vectors(out_ra, out_dec), moved_vectors(*star))[0] < ROUNDING / min(size, 1.0)


def test_astropy_moves_stars_to_the_same_places():
    rng = np.random.default_rng(2)
    ra, dec = rng.uniform(0, 360, 500), np.degrees(np.arcsin(rng.uniform(-1, 1, 500)))
    parallax = 10 ** rng.uniform(-1, 1.5, 500)  # mas
    pmra, pmdec = rng.normal(0, 100, (2, 500)) * parallax / 4.74  # 100 km/s across
    rv = rng.normal(0, 100, 500)
    rival = SkyCoord(
        ra * u.deg,
        dec * u.deg,
        pm_ra_cosdec=pmra * u.mas / u.yr,
        pm_dec=pmdec * u.mas / u.yr,
        distance=1000 / parallax * u.pc,
        radial_velocity=rv * u.km / u.s,
        obstime=Time(1991.25, format="jyear", scale="tdb"),
    ).apply_space_motion(new_obstime=Time(2016.0, format="jyear", scale="tdb"))
    radial = (rv * u.km / u.s / (1000 / parallax * u.pc)).to_value(1 / u.yr)
    found = SkyCoord(*move(ra, dec, pmra * MAS, pmdec * MAS, radial, 24.75), unit="deg")
    miss = found.separation(SkyCoord(rival.ra, rival.dec)).to_value(u.uas)
    assert miss.max() < 5  # astropy takes the light travel time into account
    assert np.median(miss) < 1e-3
    still = SkyCoord(*move(ra, dec, pmra * MAS, pmdec * MAS, 0.0, 24.75), unit="deg")
    assert still.separation(found).to_value(u.uas).max() > 50  # so that the comparison can fail


def test_north_and_south_are_mirrored():
    ra, dec, pmra, pmdec, radial, years = random_stars(3, 1000, 1e-3)
    there = move(ra, dec, pmra, pmdec, radial, years)
    mirrored = move(ra, -dec, pmra, -pmdec, radial, years)
    np.testing.assert_array_equal(there, [mirrored[0], -mirrored[1]])


def test_a_star_moves_alike_in_any_company():
    stars = random_stars(4, 1001, 1e-3)
    whole = move(*stars)
    for part in (slice(0, 1), slice(3, 10), slice(500, 1001), slice(None, None, -1)):
        np.testing.assert_array_equal(move(*(a[part] for a in stars)), whole[:, part])


def test_right_ascension_is_one_turn():
    ra, _ = move([360.0, -10.0, 725.0, -1e-17, 1e-20, 359.9999999], 0.0, [0, 0, 0, 0, -1e-19, 1e-6], 0.0)
    np.testing.assert_allclose(ra, [0.0, 350.0, 5.0, 0.0, 0.0, 359.9999999 + np.degrees(1e-6) - 360], atol=ROUNDING)
    assert np.all((ra >= 0.0) & (ra < 360.0))


def test_motion_along_the_line_of_sight_moves_no_star_until_it_has_passed():
    ra, dec = move([20.0, 20.0, 20.0], 35.0, 0.0, 0.0, radial=[-0.1, 0.1, -0.1], years=[5.0, 500.0, 20.0])
    assert ra.tolist() == [20.0, 20.0, 200.0]
    np.testing.assert_allclose(dec, [35.0, 35.0, -35.0], atol=ROUNDING)


@pytest.mark.parametrize("bad", range(6))
def test_what_is_not_a_number_does_not_spread(bad):
    stars = [np.array(a) for a in ([10.0, 10.0], [20.0, 20.0], [1e-6] * 2, [1e-6] * 2, [1e-6] * 2, [10.0] * 2)]
    good = move(*stars)
    stars[bad][0] = np.nan
    out = move(*stars)
    assert np.isnan(out[0, 0])
    assert bad == 0 or np.isnan(out[1, 0])
    np.testing.assert_array_equal(out[:, 1], good[:, 1])


def test_compiled_equals_interpreted():
    stars = [np.append(a, b) for a, b in zip(random_stars(5, 500, 1e-3), random_stars(6, 500, 1.0), strict=True)]
    stars[2][:50], stars[3][:50] = 0.0, 0.0
    np.testing.assert_array_max_ulp(move(*stars), move(*stars, function=propagate.py_func), maxulp=4)
