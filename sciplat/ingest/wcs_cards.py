"""The cards of a FITS header that define its celestial WCS, or why there is none."""

import math
import re
from collections.abc import Mapping

from astropy.io import fits

from sciplat.errors import WcsError
from sciplat.steps.wcs import Cards, ImageWcs

_CARD = re.compile(
    r"NAXIS[12]|(CTYPE|CRVAL|CRPIX|CUNIT|CDELT|CROTA)[12]|(CD|PC)[12]_[12]|PV[12]_\d+"
    r"|(A|B|AP|BP)_(ORDER|\d+_\d+)|LONPOLE|LATPOLE|RADESYS|RADECSYS|EQUINOX|EPOCH"
)
_MATRIX = re.compile(r"(CD|PC)[12]_[12]|CDELT[12]")
_FRAME = ("RADESYS", "RADECSYS", "EQUINOX", "EPOCH")
_LOOKUP_TABLE = re.compile(r"C[PQ]DIS\d|D[PQ]\d|D2IM.*|.*DIS\d")
_NOT_SUPPORTED = ("TAB", "TNX", "ZPX")
_NUMBERS = re.compile(r"NAXIS.|CRVAL.|CRPIX.|CDELT.|CROTA.|(CD|PC).*|PV.*|(A|B|AP|BP)_.*|L(ON|AT)POLE")


def wcs_cards(header: fits.Header) -> Cards:
    """Select the cards that define the celestial WCS of an image.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Header of an image; of more than two axes the others must have length 1 and stand apart.

    Returns
    -------
    dict of str to float, int or str
        The cards, with CRPIX 1-based as in FITS, and WCSAXES = 2.

    Raises
    ------
    WcsError
        There is no celestial WCS, it is incomplete, singular or not finite, it needs distortion tables, or
        its frame is not related to ICRS by a rotation.
    """
    _refuse_tables(header)
    _refuse_more_axes(header)
    cards: Cards = {"WCSAXES": 2}
    for card in header.cards:
        if _CARD.fullmatch(card.keyword):
            cards[card.keyword] = _value(card.keyword, card.value)
    _check_complete(cards)
    _check_usable(cards)
    return cards


def inherited_header(own: fits.Header, primary: fits.Header) -> fits.Header:
    """Return an image's header with the cards that it takes from an empty primary HDU.

    These are the frame (RADESYS, EQUINOX) where the image says nothing about its own, and all cards of the WCS where
    it has none of them.
    """
    if own is primary or primary.get("NAXIS") != 0:
        return own
    header = own.copy()
    if "CTYPE1" in own:
        inherited = () if any(name in own for name in _FRAME) else _FRAME
    else:
        inherited = tuple(name for name in primary if _CARD.fullmatch(name) and name not in own)
    for name in inherited:
        if name in primary:
            header[name] = primary[name]
    return header


def _refuse_tables(header: fits.Header) -> None:
    tables = sorted({name for name in header if _LOOKUP_TABLE.fullmatch(name)})
    projections = [str(header.get(f"CTYPE{axis}", ""))[5:8] for axis in (1, 2)]
    if tables or any(projection in _NOT_SUPPORTED for projection in projections):
        raise WcsError(
            "the image's WCS needs lookup tables or IRAF's polynomials, which we do not read",
            found=", ".join(tables[:4] or [str(header[f"CTYPE{axis}"]) for axis in (1, 2)]),
            hint="fit a TAN-SIP WCS to it, e.g. with astropy.wcs.utils.fit_wcs_from_points",
        )


def _refuse_more_axes(header: fits.Header) -> None:
    """Refuse a cube; axes of length 1 that are not mixed with the sky are ignored."""
    named = [int(match[1]) for name in header if (match := re.fullmatch(r"CTYPE(\d+)", name))]
    axes = max([int(header.get("NAXIS", 0)), int(header.get("WCSAXES", 0)), *named])
    for axis in range(3, axes + 1):
        mixed = any(
            float(header.get(f"{kind}{a}_{b}", 0.0)) != 0.0
            for kind in ("CD", "PC")
            for other in (1, 2)
            for a, b in ((axis, other), (other, axis))
        )
        if mixed or int(header.get(f"NAXIS{axis}", 1)) != 1:
            raise WcsError(
                "the image has more than two axes",
                found=f"axis {axis}: {header.get(f'CTYPE{axis}', 'no type')}, "
                f"{header.get(f'NAXIS{axis}', 1)} long{', mixed with the sky' if mixed else ''}",
                hint="write each plane as an image of its own",
            )


def _value(name: str, value: object) -> float | int | str:
    if isinstance(value, str) and not _NUMBERS.fullmatch(name):
        return value.strip()
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return value if isinstance(value, int | float) else number
    raise WcsError(f"the WCS card {name} has no usable value", found=str(value) or "nothing")


def _check_complete(cards: Mapping[str, float | int | str]) -> None:
    needed = [f"{name}{axis}" for name in ("NAXIS", "CTYPE", "CRVAL", "CRPIX") for axis in (1, 2)]
    missing = [name for name in needed if name not in cards]
    if not any(_MATRIX.fullmatch(name) for name in cards):
        missing.append("CD, PC or CDELT")
    if missing:
        raise WcsError(
            "the image has no celestial WCS",
            found=f"missing: {', '.join(missing)}",
            hint="a plate-solved image",
        )


def _check_usable(cards: Cards) -> None:
    """Build the WCS once and ask it for the sky of the image's centre."""
    wcs = ImageWcs(cards)
    x, y = ((float(cards[f"NAXIS{axis}"]) - 1.0) / 2.0 for axis in (1, 2))
    ra, dec = wcs.pixel_to_sky(x, y)
    found_x, found_y, scale = wcs.sky_to_pixel(ra, dec)
    if not scale > 0.0 or math.hypot(float(found_x) - x, float(found_y) - y) > 1e-2:
        raise WcsError(
            "the image's WCS does not work at the centre of the image",
            found=f"pixel ({x}, {y}) -> sky ({float(ra):.6f}, {float(dec):.6f}) "
            f"-> pixel ({float(found_x):.3f}, {float(found_y):.3f})",
        )
