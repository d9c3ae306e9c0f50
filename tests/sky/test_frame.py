"""Rotations between frames against astropy's own transformations, and vectors against angles."""

import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from sciplat.errors import ArgumentError
from sciplat.sky.frame import ra_dec, rotation, unit_vectors

FRAMES = ["icrs", "fk5", "fk5:J2000", "fk5:J1975", "galactic"]


@pytest.mark.parametrize("name", FRAMES)
def test_the_same_as_astropy(name):
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 360, 20), rng.uniform(-90, 90, 20)
    kind, _, equinox = name.partition(":")
    frame = SkyCoord(0, 0, unit="deg", frame=kind, **({"equinox": equinox} if equinox else {})).frame
    expected = SkyCoord(ra, dec, unit="deg").transform_to(frame).spherical
    lon, lat = ra_dec(unit_vectors(ra, dec) @ rotation("icrs", name).T)
    np.testing.assert_allclose(lon, expected.lon.deg % 360, atol=1e-11)
    np.testing.assert_allclose(lat, expected.lat.deg, atol=1e-11)


@pytest.mark.parametrize("one", FRAMES)
@pytest.mark.parametrize("other", FRAMES)
def test_rotations_are_orthogonal_and_invert(one, other):
    np.testing.assert_allclose(rotation(one, other) @ rotation(other, one), np.eye(3), atol=1e-14)
    np.testing.assert_allclose(rotation(one, other) @ rotation(one, other).T, np.eye(3), atol=1e-14)


def test_a_shared_matrix_cannot_be_spoiled():
    with pytest.raises(ValueError, match="read-only"):
        rotation("icrs", "galactic")[0, 0] = 0.0


@pytest.mark.parametrize("name", ["fk4", "fk4:B1950", "ecliptic", "fk5:2000-01-99", "icrs:J2000", ""])
def test_what_is_no_rotation_is_refused(name):
    with pytest.raises(ArgumentError):
        rotation("icrs", name)


def test_positions_and_vectors_are_the_same():
    ra, dec = np.array([0.0, 359.9999999, 12.5, 180.0, 0.0]), np.array([0.0, 0.0, -45.0, 90.0, -90.0])
    back_ra, back_dec = ra_dec(unit_vectors(ra, dec))
    np.testing.assert_allclose(back_dec, dec, atol=1e-12)
    np.testing.assert_allclose(back_ra, ra, atol=1e-12)


def test_right_ascension_never_reaches_360():
    ra, _ = ra_dec([[1.0, -1e-20, 0.0]])
    assert ra[0] == 0.0
