"""The only reader of units: text and quantities become angles in degrees, or lengths in pixels."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from sciplat.errors import AngleError

AngleLike = object  # str or astropy Quantity; everything else is refused by the parsers below

_NUMBER_UNIT = re.compile(r"\s*([+-]?[\d.]+(?:[eE][+-]?\d+)?)\s*([a-zA-Z]+)\s*")
_PIXEL_UNITS = ("pix", "px", "pixel", "pixels")


@dataclass(frozen=True)
class Length:
    """A radius on an image: an angle in degrees or a number of pixels.

    Parameters
    ----------
    value : float
        Degrees or pixels, > 0.
    unit : {"deg", "pix"}
    """

    value: float
    unit: Literal["deg", "pix"]

    def __str__(self) -> str:
        return f"{self.value:g} pix" if self.unit == "pix" else f"{self.value * 3600:g} arcsec"


def parse_angle(value: AngleLike, *, what: str = "angle") -> float:
    """Return `value` in degrees.

    Parameters
    ----------
    value : str or astropy.units.Quantity
        For example "1 arcsec", "10h40m", "41d16m" or ``1 * u.arcmin``.
    what : str
        The argument's name, for the message.

    Raises
    ------
    AngleError
        If it has no unit, is no angle, or is not finite.
    """
    import astropy.units as u

    if not isinstance(value, str | u.Quantity):
        raise _no_unit(value, what)
    try:
        degrees = _degrees(value)
    except (u.UnitsError, ValueError, TypeError) as error:
        if isinstance(value, str) and _is_number(value):
            raise _no_unit(value, what) from None
        raise AngleError(
            f"{what}: {value!r} is not an angle", found=str(error), hint='"1 arcsec", "0.5 deg", "2 arcmin"'
        ) from None
    if not abs(degrees) < float("inf"):
        raise AngleError(f"{what}: {value!r} is not a finite angle")
    return degrees


def parse_length(value: AngleLike, *, what: str = "radius") -> Length:
    """Return `value` as a positive length on an image, in pixels ("6 pix") or as an angle ("2 arcsec").

    Raises
    ------
    AngleError
        If it has no unit, or is not a positive finite number of degrees or pixels.
    """
    import astropy.units as u

    length: Length
    pixels = _pixels(value)
    if pixels is not None:
        length = Length(pixels, "pix")
    elif isinstance(value, u.Quantity) and value.unit == u.pix:
        length = Length(float(value.value), "pix")
    else:
        length = Length(parse_angle(value, what=what), "deg")
    if not 0 < length.value < float("inf"):
        raise AngleError(f"{what}: {value!r} is not a positive length", hint='"2 arcsec" or "6 pix"')
    return length


def _degrees(value: Any) -> float:
    import astropy.units as u
    from astropy.coordinates import Angle

    plain = _NUMBER_UNIT.fullmatch(value) if isinstance(value, str) else None
    if plain is not None:  # astropy's reader of angles does not take exponents such as 1e-05
        unit = u.Unit(plain[2], parse_strict="silent")
        if unit.is_equivalent(u.deg):
            value = u.Quantity(float(plain[1]), unit)
    return float(Angle(value).to_value(u.deg))


def _pixels(value: AngleLike) -> float | None:
    if not isinstance(value, str):
        return None
    text = value.strip().lower()
    for unit in _PIXEL_UNITS:
        number = text.removesuffix(unit).strip()
        if number != text and _is_number(number):
            return float(number)
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _no_unit(value: object, what: str) -> AngleError:
    unit = "deg" if what in ("ra", "dec") else "arcsec"
    shown = f"{value} {unit}" if _is_number(str(value)) else f"1 {unit}"
    return AngleError(
        f"{what}: {value!r} has no unit",
        found=type(value).__name__,
        hint=f'write "{shown}", or use an astropy Quantity',
    )
