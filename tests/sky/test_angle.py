import astropy.units as u
import pytest

from sciplat.errors import AngleError
from sciplat.sky.angle import Length, parse_angle, parse_length


@pytest.mark.parametrize(
    ("value", "degrees"),
    [
        ("1 arcsec", 1 / 3600),
        ("2 arcmin", 2 / 60),
        ("0.5 deg", 0.5),
        ("-30 deg", -30),
        ("10h30m", 157.5),
        ("1e-05 deg", 1e-5),
        ("-2.5E-3deg", -2.5e-3),
        ("1.5e1 arcmin", 0.25),
        (2 * u.rad, 114.591559),
    ],
)
def test_angles_are_degrees(value, degrees):
    assert parse_angle(value) == pytest.approx(degrees, rel=1e-8)


@pytest.mark.parametrize("value", [1, 1.5, "1", " 2.5 ", None, 3 * u.m, "wide", "1 kg", "nan deg", [1]])
def test_what_is_no_angle_is_refused(value):
    with pytest.raises(AngleError, match="radius"):
        parse_angle(value, what="radius")


def test_a_bare_number_is_told_how_to_be_written():
    with pytest.raises(AngleError) as caught:
        parse_angle(3, what="radius")
    assert '"3 arcsec"' in str(caught.value)


@pytest.mark.parametrize(
    ("value", "length"),
    [
        ("6 pix", Length(6, "pix")),
        ("2.5px", Length(2.5, "pix")),
        (3 * u.pix, Length(3, "pix")),
        ("36 arcsec", Length(0.01, "deg")),
    ],
)
def test_lengths_are_pixels_or_degrees(value, length):
    parsed = parse_length(value)
    assert parsed.unit == length.unit
    assert parsed.value == pytest.approx(length.value)


@pytest.mark.parametrize("value", ["0 pix", "-1 arcsec", "inf pix", 6])
def test_lengths_are_positive_and_have_units(value):
    with pytest.raises(AngleError):
        parse_length(value)
