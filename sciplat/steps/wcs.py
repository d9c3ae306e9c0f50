"""World coordinates of one image: sky to pixels and back.

Axes and units: sky positions are ICRS degrees, pixels 0-based with (0, 0) the centre of the first pixel, x
along the last axis. The cards keep the FITS convention (CRPIX is 1-based) and are converted here.
"""

import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, NoConvergence
from astropy.wcs import WcsError as AstropyWcsError
from numpy.typing import ArrayLike, NDArray

from sciplat.errors import WcsError
from sciplat.kernels.wcs import tan_to_pixel, tan_to_sky
from sciplat.sky.frame import ra_dec, rotated, rotation, unit_vectors

FloatArray = NDArray[np.float64]
Cards = dict[str, float | int | str]

# A source is projected only if it lies within this many half diagonals (and pixels) of the image's centre:
# beyond the image a distortion polynomial folds back, and its inversion would find a wrong root inside.
_REACH = 1.2
_PAD_PIXELS = 10.0
# An inverse is accepted if the forward transformation returns to the source within this part of a pixel.
_ROUND_TRIP = 1e-3
_FRAME_CARDS = ("RADESYS", "RADECSYS", "EQUINOX", "EPOCH")


class ImageWcs:
    """The WCS of one image: cheap to build, picklable.

    TAN and TAN-SIP are computed by our kernels, all other projections and distortions by astropy.

    Parameters
    ----------
    cards : str or mapping
        The FITS cards that define the WCS (see `ingest.wcs_cards`), as a mapping or its JSON text. Without
        NAXIS1 and NAXIS2 sources far from the image are not recognised as such before they are projected.

    Raises
    ------
    WcsError
        The cards define no celestial WCS that can be related to ICRS by a rotation.
    """

    def __init__(self, cards: str | Mapping[str, float | int | str]) -> None:
        self.cards: Cards = json.loads(cards) if isinstance(cards, str) else dict(cards)
        self.frame = frame_of(self.cards)
        self._tan = _tan_of(self.cards, self.frame)

    def __reduce__(self) -> tuple[type["ImageWcs"], tuple[Cards]]:
        return ImageWcs, (self.cards,)

    def sky_to_pixel(self, ra: ArrayLike, dec: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Take sky positions to pixels.

        Parameters
        ----------
        ra, dec : array_like
            ICRS degrees.

        Returns
        -------
        x, y : ndarray of float64
            0-based pixels; NaN where the position cannot be projected: on the far hemisphere, not finite, or,
            for an image with distortion or of another projection than TAN, far outside the image.
        scale : ndarray of float64
            Square root of the solid angle of the pixel at the source, degrees per pixel.
        """
        ra, dec = np.broadcast_arrays(np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64))
        out = np.full((3, ra.size), np.nan)
        flat_ra, flat_dec = ra.ravel(), dec.ravel()
        if self._tan is not None and self._tan.sip_a.size == 0:
            self._tan.to_pixel(flat_ra, flat_dec, out)
        else:
            vectors = unit_vectors(flat_ra, flat_dec)
            near = self._near(vectors)
            found = np.full((3, int(near.sum())), np.nan)
            if self._tan is not None:
                self._tan.to_pixel(flat_ra[near], flat_dec[near], found)
            else:
                self._general_to_pixel(vectors[near], found)
            out[:, near] = found
        x, y, scale = out.reshape(3, *ra.shape)
        return x, y, scale

    def pixel_to_sky(self, x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Take 0-based pixels to sky positions, ICRS degrees; NaN where the projection has no sky."""
        x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        if self._tan is not None:
            ra, dec = self._tan.to_sky(x.ravel(), y.ravel())
        else:
            ra, dec = ra_dec(self._general_to_vectors(x.ravel(), y.ravel()))
        return ra.reshape(x.shape), dec.reshape(x.shape)

    def _near(self, vectors: FloatArray) -> NDArray[np.bool_]:
        """Return which sources are finite and not far outside the image."""
        finite: NDArray[np.bool_] = np.asarray(np.isfinite(vectors).all(axis=1))
        if self._cap is None:
            return finite
        centre, cos_radius = self._cap
        near: NDArray[np.bool_] = finite & (vectors @ centre >= cos_radius)
        return near

    @cached_property
    def _cap(self) -> tuple[FloatArray, float] | None:
        """The centre and cosine of radius of the sky that is projected; None for all of it."""
        if "NAXIS1" not in self.cards or "NAXIS2" not in self.cards:
            return None
        nx, ny = float(self.cards["NAXIS1"]), float(self.cards["NAXIS2"])
        x = np.array([0.5, 0.0, 0.5, 1.0, 0.0, 1.0, 0.0, 0.5, 1.0]) * nx - 0.5
        y = np.array([0.5, 0.0, 0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.0]) * ny - 0.5
        vectors = unit_vectors(*self.pixel_to_sky(x, y))
        # distance by the chord: arccos would lose the radius of a small image
        radius = 2.0 * np.arcsin(np.linalg.norm(vectors[1:] - vectors[0], axis=-1).max() / 2.0)
        reach = radius * (_REACH + 2.0 * _PAD_PIXELS / np.hypot(nx, ny))
        if not reach < np.pi / 3:  # wide, or with a border off the sphere: nothing can be left out safely
            return None
        return vectors[0], float(np.cos(reach))

    @cached_property
    def _astropy(self) -> WCS:
        return astropy_wcs(self.cards)

    def _general_to_pixel(self, vectors: FloatArray, out: FloatArray) -> None:
        """Project unit vectors (ICRS) by astropy into x, y, scale; what does not come back is NaN."""
        wcs = self._astropy.wcs
        world = np.empty((len(vectors), 2))
        world[:, wcs.lng], world[:, wcs.lat] = ra_dec(rotated(vectors, rotation("icrs", self.frame)))
        x, y = _world_to_pixel(self._astropy, world).T
        back = self._general_to_vectors(x, y)
        half = 0.5
        along_x = self._general_to_vectors(x + half, y) - self._general_to_vectors(x - half, y)
        along_y = self._general_to_vectors(x, y + half) - self._general_to_vectors(x, y - half)
        scale = np.degrees(np.sqrt(np.linalg.norm(np.cross(along_x, along_y), axis=-1)))
        error = np.degrees(np.linalg.norm(back - vectors, axis=-1))
        out[:] = np.where(error <= _ROUND_TRIP * scale, np.stack([x, y, scale]), np.nan)

    def _general_to_vectors(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Return the unit vectors (ICRS) of pixels by astropy."""
        world = self._astropy.all_pix2world(np.stack([x, y], axis=-1), 0)
        wcs = self._astropy.wcs
        return rotated(unit_vectors(world[:, wcs.lng], world[:, wcs.lat]), rotation(self.frame, "icrs"))


def frame_of(cards: Mapping[str, float | int | str]) -> str:
    """Return the celestial frame of the world coordinates, as `sky.frame.rotation` names it.

    Without RADESYS the equinox decides (FITS standard 4.0, section 8.3): none is ICRS, before 1984 FK4.
    """
    types = {str(cards.get(f"CTYPE{axis}", ""))[:4].rstrip("-") for axis in (1, 2)}
    if types == {"GLON", "GLAT"}:
        return "galactic"
    if types != {"RA", "DEC"}:
        raise WcsError(
            "the image has no celestial coordinates we can use",
            found=f"axes {cards.get('CTYPE1', 'none')} and {cards.get('CTYPE2', 'none')}",
            hint="a WCS with the axes RA and DEC, or GLON and GLAT",
        )
    equinox = _equinox(cards)
    system = str(cards.get("RADESYS", cards.get("RADECSYS", ""))).strip().upper()
    if not system:
        system = "ICRS" if equinox is None else "FK5" if equinox >= 1984.0 else "FK4"
    if system == "ICRS":
        return "icrs"
    if system == "FK5":
        return f"fk5:J{2000.0 if equinox is None else equinox}"
    raise WcsError(
        "the image's coordinates are in a frame that no rotation relates to ICRS",
        found=f"RADESYS {system}, EQUINOX {'none' if equinox is None else equinox}",
        hint="solve the astrometry of the image against an ICRS catalog (e.g. Gaia)",
    )


def astropy_wcs(cards: Mapping[str, float | int | str]) -> WCS:
    """Return astropy's WCS of the cards.

    Raises
    ------
    WcsError
        astropy refuses the cards.
    """
    # the frame is ours to apply: astropy would only warn about deprecated forms of these cards
    header = fits.Header({"NAXIS": 2, **{k: v for k, v in cards.items() if k not in _FRAME_CARDS}})
    try:
        # fix=False: the repairs concern dates and units that the cards do not contain, and would warn
        wcs = WCS(header, fix=False)
        wcs.wcs.set()
    except (AstropyWcsError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise WcsError("the image's WCS cannot be used", found=_one_line(error)) from error
    if wcs.wcs.lng < 0 or wcs.wcs.lat < 0:
        raise WcsError("the image's WCS has no celestial axes", found=", ".join(wcs.wcs.ctype))
    return wcs


class _Tan(NamedTuple):
    """A gnomonic projection as the kernels want it."""

    basis: FloatArray
    linear: FloatArray
    linear_inverse: FloatArray
    crpix: FloatArray
    sip_a: FloatArray
    sip_b: FloatArray

    def to_pixel(self, ra: FloatArray, dec: FloatArray, out: FloatArray) -> None:
        tan_to_pixel(ra, dec, self.basis, self.linear_inverse, self.crpix, self.sip_a, self.sip_b, *out)

    def to_sky(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        ra, dec = np.empty(x.size), np.empty(x.size)
        tan_to_sky(x, y, self.basis, self.linear, self.crpix, self.sip_a, self.sip_b, ra, dec)
        return ra, dec


def _tan_of(cards: Cards, frame: str) -> _Tan | None:
    """Return the projection if it is TAN or TAN-SIP, longitude first and in degrees; otherwise None."""
    if not _is_plain_tan(cards):
        return None
    linear = _linear(cards)
    # written out: BLAS and LAPACK give other last bits on other processors, and a cluster may have several kinds
    determinant = linear[0, 0] * linear[1, 1] - linear[0, 1] * linear[1, 0]
    if not np.isfinite(determinant) or determinant == 0.0:
        raise WcsError("the image's WCS has a singular matrix", found=str(linear.tolist()))
    sip_a, sip_b = _sip(cards)
    return _Tan(
        basis=(_tangent_basis(cards)[:, :, None] * rotation("icrs", frame)[None]).sum(axis=1),
        linear=linear,
        linear_inverse=np.array([[linear[1, 1], -linear[0, 1]], [-linear[1, 0], linear[0, 0]]]) / determinant,
        crpix=np.array([_number(cards, f"CRPIX{axis}", 0.0) - 1.0 for axis in (1, 2)]),
        sip_a=sip_a,
        sip_b=sip_b,
    )


def _is_plain_tan(cards: Cards) -> bool:
    lon, lat = str(cards["CTYPE1"]).strip(), str(cards["CTYPE2"]).strip()
    names = f"{lon} {lat}"
    known = re.fullmatch(r"RA---TAN(-SIP)? DEC--TAN(-SIP)?|GLON-TAN(-SIP)? GLAT-TAN(-SIP)?", names)
    degrees = all(str(cards.get(f"CUNIT{axis}", "deg")).strip() in ("deg", "") for axis in (1, 2))
    # TAN with PV cards is TPV in disguise; two ways to give one matrix are astropy's to sort out
    forms = {name[:2] for name in cards if re.fullmatch(r"(CD|PC)\d_\d", name)}
    turned = ("CROTA2" in cards and bool(forms)) or bool(cards.get("CROTA1"))
    return bool(known) and degrees and len(forms) < 2 and not turned and not any(n[:2] == "PV" for n in cards)


def _linear(cards: Cards) -> FloatArray:
    """Return the matrix of degrees per pixel from CD, PC and CDELT, or CDELT and CROTA2."""
    axes = (1, 2)
    if any(name.startswith("CD") and "_" in name for name in cards):
        return np.array([[_number(cards, f"CD{i}_{j}", 0.0) for j in axes] for i in axes])
    step = np.array([_number(cards, f"CDELT{axis}", 1.0) for axis in axes])
    if "CROTA2" in cards:
        angle = np.radians(_number(cards, "CROTA2", 0.0))
        cos, sin = np.cos(angle), np.sin(angle)
        # AIPS convention, Calabretta and Greisen 2002, equation 189
        return np.array([[step[0] * cos, -step[1] * sin], [step[0] * sin, step[1] * cos]], dtype=np.float64)
    turn = np.array([[_number(cards, f"PC{i}_{j}", float(i == j)) for j in axes] for i in axes])
    linear: FloatArray = step[:, np.newaxis] * turn
    return linear


def _sip(cards: Cards) -> tuple[FloatArray, FloatArray]:
    """Return the coefficients of the forward distortion, two square arrays of one size."""
    size = 1 + int(max(_number(cards, name, -1) for name in ("A_ORDER", "B_ORDER")))
    sip = np.zeros((2, size, size))
    for coefficients, letter in zip(sip, "AB", strict=True):
        order = int(_number(cards, f"{letter}_ORDER", -1))
        for i in range(order + 1):
            for j in range(order + 1 - i):
                coefficients[i, j] = _number(cards, f"{letter}_{i}_{j}", 0.0)
    return sip[0], sip[1]


def _tangent_basis(cards: Cards) -> FloatArray:
    """Return the axes (xi, eta) and pole of the tangent plane as rows, in the image's frame."""
    lon, lat = _number(cards, "CRVAL1", 0.0), _number(cards, "CRVAL2", 0.0)
    # section 2.2 of Calabretta and Greisen 2002: the default puts north up, except at the pole itself
    pole = np.radians(_number(cards, "LONPOLE", 0.0 if lat >= 90.0 else 180.0))
    a, d = np.radians(lon), np.radians(lat)
    east = np.array([-np.sin(a), np.cos(a), 0.0])
    north = np.array([-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)])
    xi = np.sin(pole) * north - np.cos(pole) * east
    eta = -np.cos(pole) * north - np.sin(pole) * east
    return np.stack([xi, eta, unit_vectors(lon, lat)])


def _world_to_pixel(wcs: WCS, world: FloatArray) -> FloatArray:
    """Invert astropy's WCS source by source: one that cannot be inverted is NaN and spoils no other."""
    if len(world) == 0:
        return np.empty((0, 2))
    try:
        return np.asarray(wcs.all_world2pix(world, 0), dtype=np.float64)
    except NoConvergence as error:
        pixels = np.array(error.best_solution, dtype=np.float64)
        for failed in (error.divergent, error.slow_conv):
            if failed is not None:
                pixels[failed] = np.nan
        return pixels
    except (AstropyWcsError, ValueError):
        if len(world) == 1:
            return np.full((1, 2), np.nan)
        half = len(world) // 2
        return np.concatenate([_world_to_pixel(wcs, world[:half]), _world_to_pixel(wcs, world[half:])])


def _equinox(cards: Mapping[str, float | int | str]) -> float | None:
    """Return EQUINOX, or its deprecated form EPOCH, in years; None without."""
    text = str(cards.get("EQUINOX", cards.get("EPOCH", ""))).strip().lstrip("JjBb")
    if not text:
        return None
    try:
        equinox = float(text)
    except ValueError:
        equinox = np.nan
    if not 1800.0 <= equinox <= 2200.0:
        raise WcsError("the image's EQUINOX is no year", found=text)
    return equinox


def _number(cards: Cards, name: str, default: float) -> float:
    try:
        return float(cards.get(name, default))
    except ValueError as error:
        raise WcsError(f"the WCS card {name} is no number", found=str(cards[name])) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
