import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciplat.errors import WcsError
from sciplat.sky.cell import healpix_29
from sciplat.sky.outline import outline
from sciplat.steps.wcs import ImageWcs


def wcs(ra, dec, scale=1e-4, distortion=0.0):
    cards = {
        "CTYPE1": "RA---TAN-SIP",
        "CTYPE2": "DEC--TAN-SIP",
        "CRVAL1": ra,
        "CRVAL2": dec,
        "NAXIS1": 400,
        "NAXIS2": 300,
    }
    cards |= {"CRPIX1": 200.5, "CRPIX2": 150.5, "CD1_1": -scale, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": scale}
    return ImageWcs(cards | {"A_ORDER": 2, "B_ORDER": 2, "A_0_2": distortion, "B_2_0": distortion})


@given(st.floats(0, 360), st.floats(-90, 90), st.floats(1e-5, 5e-3), st.floats(-3e-4, 3e-4))
def test_every_pixel_lies_in_the_coverage(ra, dec, scale, distortion):
    """Anywhere on the sky, from arcseconds to degrees, with edges bent by up to 12 pixels."""
    image = wcs(ra, dec, scale, distortion)
    place = outline(image.pixel_to_sky, 300, 400)
    rng = np.random.default_rng(0)
    edge = rng.uniform(-0.5, 399.5, 200), rng.choice([-0.5, 299.5], 200)
    inside = rng.uniform(-0.5, 399.5, 400), rng.uniform(-0.5, 299.5, 400)
    for x, y in (edge, edge[::-1], inside):
        keep = (x <= 399.5) & (y <= 299.5)
        assert place.coverage.contains(healpix_29(*image.pixel_to_sky(x[keep], y[keep]))).all()
    assert place.coverage.area < 2.5 * 400 * 300 * scale**2


def test_centre_and_corners():
    image = wcs(150.0, 2.0)
    place = outline(image.pixel_to_sky, 300, 400)
    assert (place.ra, place.dec) == (pytest.approx(150.0), pytest.approx(2.0))
    corners = np.array(place.corners).reshape(4, 2)
    x, y, _ = image.sky_to_pixel(corners[:, 0], corners[:, 1])
    np.testing.assert_allclose(x, [-0.5, 399.5, 399.5, -0.5], atol=1e-6)
    np.testing.assert_allclose(y, [-0.5, -0.5, 299.5, 299.5], atol=1e-6)


def test_an_outline_off_the_sky_is_refused():
    with pytest.raises(WcsError, match="outline"):
        outline(lambda x, y: (np.full_like(x, np.nan), y), 10, 10)
