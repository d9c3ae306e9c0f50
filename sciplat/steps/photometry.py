"""Forced aperture photometry of many sources on one image: place, measure, calibrate, name the columns.

Positions are ICRS degrees, pixels 0-based; fluxes are adu, or nJy (AB) where the image has a zero point. What the
columns mean is written beside each in `photometry_schema`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.errors import ArgumentError
from sciplat.kernels import flags
from sciplat.kernels.aperture import aperture_scratch, aperture_sums
from sciplat.kernels.background import MEAN, MEDIAN, MODE, annulus_background, annulus_scratch_size
from sciplat.sky.angle import Length
from sciplat.steps.wcs import ImageWcs

Floats = NDArray[np.float64]
Background = Literal["median", "mean", "mode"]
BACKGROUNDS: dict[str, int] = {"median": MEDIAN, "mean": MEAN, "mode": MODE}
# variance of each estimate to that of a mean, for normal pixels: 9 pi/2 + 4 - 12 for 3 median - 2 mean
_SPREAD = {"median": np.pi / 2, "mean": 1.0, "mode": 4.5 * np.pi - 8}
_AB_NJY = 31.4  # AB magnitude of 1 nJy
_LARGEST_RADIUS = 1000  # pixels
_MAG = 2.5 / np.log(10.0)


@dataclass(frozen=True)
class Apertures:
    """What is measured around every source.

    Parameters
    ----------
    radii : tuple of Length
        One or more circles.
    annulus : tuple of two Length, or None
        Inner and outer radius of the background annulus; None takes nothing out.
    background : {"median", "mean", "mode"}
        Of the annulus: median, 3-sigma clipped mean, or 3 median - 2 mean of the clipped pixels.
    """

    radii: tuple[Length, ...]
    annulus: tuple[Length, Length] | None
    background: Background

    def reach(self, scale: Floats) -> Floats:
        """Return the pixels around each source (n,) that are needed, from its pixel scale in degrees."""
        lengths = self.radii if self.annulus is None else (*self.radii, self.annulus[1])
        farthest: Floats = np.max([_in_pixels(length, scale) for length in lengths], axis=0)
        return np.asarray(np.ceil(farthest) + 1)


@dataclass(frozen=True)
class Placed:
    """The sources whose centre lies on an image.

    Parameters
    ----------
    row : ndarray of int64, shape (n,)
        Rows of the catalog.
    x, y : ndarray, shape (n,)
        Pixels.
    scale : ndarray, shape (n,)
        Degrees per pixel at the source, from the area of the pixel there.
    """

    row: NDArray[np.int64]
    x: Floats
    y: Floats
    scale: Floats


@dataclass(frozen=True)
class ImagePixels:
    """Pixels of an image, or of the part that holds all apertures, and how to read them.

    Parameters
    ----------
    x0, y0 : int
        Image pixel of the first element.
    science : ndarray of float32, shape (ny, nx)
    variance : ndarray of float32, shape (ny, nx), or None
    mask : ndarray of uint32, shape (ny, nx), or None
    bad_bits, saturated_bits : int
        Of the mask.
    saturation : float
        adu; inf if unknown.
    """

    x0: int
    y0: int
    science: NDArray[np.float32]
    variance: NDArray[np.float32] | None
    mask: NDArray[np.uint32] | None
    bad_bits: int
    saturated_bits: int
    saturation: float


def place(wcs: ImageWcs, ny: int, nx: int, ra: Floats, dec: Floats) -> Placed:
    """Return the sources whose centre lies on the array, -0.5 <= x < nx - 0.5 and likewise in y."""
    x, y, scale = wcs.sky_to_pixel(ra, dec)
    row = np.flatnonzero((x >= -0.5) & (x < nx - 0.5) & (y >= -0.5) & (y < ny - 0.5))
    return Placed(row, x[row], y[row], scale[row])


def gain_variance(science: NDArray[np.float32], gain: float, read_noise: float, sky: float) -> NDArray[np.float32]:
    """Return the variance in adu^2 that follows from the gain: (pixel with sky) / gain + (read noise / gain)^2.

    Parameters
    ----------
    science : ndarray of float32, shape (ny, nx)
        adu.
    gain : float
        Electrons per adu.
    read_noise : float
        Electrons.
    sky : float
        adu that were taken out of the pixels before.
    """
    counts = np.maximum(science + np.float32(sky), np.float32(0))
    variance: NDArray[np.float32] = counts / np.float32(gain) + np.float32((read_noise / gain) ** 2)
    return variance


def measure(pixels: ImagePixels, placed: Placed, apertures: Apertures, zero_point: float | None) -> dict[str, Any]:
    """Measure every placed source.

    Parameters
    ----------
    pixels : ImagePixels
        Must hold all apertures and annuli as far as the image does.
    placed : Placed
    apertures : Apertures
    zero_point : float or None
        AB magnitude of 1 adu.

    Returns
    -------
    dict of str to ndarray, shape (n,)
        x, y, background, background_err, and for aperture k flux_k, flux_err_k, area_k, flags_k, flux_nJy_k,
        flux_nJy_err_k, mag_k, mag_err_k. NaN where a number cannot be given.
    """
    level, noise, annulus_flag = _background(pixels, placed, apertures)
    subtracted = np.zeros_like(level) if apertures.annulus is None else level
    flux, variance, area, flag = _sums(pixels, placed, apertures, subtracted)
    flag |= annulus_flag[:, np.newaxis]
    scatter = np.zeros_like(noise) if apertures.annulus is None else noise
    error = np.sqrt(variance + (area * scatter[:, np.newaxis]) ** 2)
    # nothing was measured where no pixel is good: a flux of 0 with an error of 0 would weigh more than all others
    flux[area == 0], error[area == 0] = np.nan, np.nan
    if zero_point is None:
        flag |= flags.NO_ZERO_POINT
    measured: dict[str, Any] = {"x": placed.x, "y": placed.y, "background": level, "background_err": noise}
    for k in range(len(apertures.radii)):
        measured |= {
            f"flux_{k}": flux[:, k],
            f"flux_err_{k}": error[:, k],
            f"area_{k}": area[:, k],
            f"flags_{k}": flag[:, k],
        }
    for k in range(len(apertures.radii)):
        measured |= _calibrated(k, flux[:, k], error[:, k], np.nan if zero_point is None else zero_point)
    return measured


def _background(pixels: ImagePixels, placed: Placed, apertures: Apertures) -> tuple[Floats, Floats, NDArray[np.int32]]:
    """Return level, its error, and flags of the local background; NaN and no flag without an annulus."""
    n = len(placed.x)
    level, scatter = np.full(n, np.nan), np.full(n, np.nan)
    count, flag = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int32)
    if apertures.annulus is None or n == 0:
        return level, scatter, flag
    inner, outer = (_in_pixels(length, placed.scale) for length in apertures.annulus)
    _check_size(outer)
    scratch = np.empty(annulus_scratch_size(float(outer.max())))
    annulus_background(
        *_kernel_pixels(pixels),
        placed.x,
        placed.y,
        pixels.x0,
        pixels.y0,
        inner,
        outer,
        BACKGROUNDS[apertures.background],
        scratch,
        level,
        scatter,
        count,
        flag,
    )
    return level, scatter * np.sqrt(_SPREAD[apertures.background] / np.maximum(count, 1)), flag


def _sums(
    pixels: ImagePixels, placed: Placed, apertures: Apertures, background: Floats
) -> tuple[Floats, Floats, Floats, NDArray[np.int32]]:
    shape = (len(placed.x), len(apertures.radii))
    radii = np.stack([_in_pixels(length, placed.scale) for length in apertures.radii], axis=1)
    _check_size(radii)
    flux, variance, area = np.empty(shape), np.empty(shape), np.empty(shape)
    flag = np.zeros(shape, dtype=np.int32)
    aperture_sums(
        *_kernel_pixels(pixels),
        placed.x,
        placed.y,
        pixels.x0,
        pixels.y0,
        radii,
        background,
        aperture_scratch(float(radii.max(initial=0.0))),
        flux,
        variance,
        area,
        flag,
    )
    return flux, variance, area, flag


def _check_size(radii: Floats) -> None:
    """Refuse what would need more memory than any image: most likely a wrong unit."""
    largest = float(radii.max(initial=0.0))
    if largest > _LARGEST_RADIUS:
        raise ArgumentError(
            f"a radius of {largest:.0f} pixels is too large",
            hint=f"at most {_LARGEST_RADIUS} pixels; is the unit right?",
        )


def _kernel_pixels(pixels: ImagePixels) -> tuple[Any, ...]:
    """Return the arguments about pixels as the kernels take them: an absent plane has no elements."""
    variance = np.empty((0, 0), np.float32) if pixels.variance is None else pixels.variance
    mask = np.empty((0, 0), np.uint32) if pixels.mask is None else pixels.mask
    bits = np.uint32(pixels.bad_bits), np.uint32(pixels.saturated_bits)
    return pixels.science, variance, mask, *bits, pixels.saturation


def _calibrated(k: int, flux: Floats, error: Floats, zero_point: float) -> dict[str, Floats]:
    unit = 10 ** ((_AB_NJY - zero_point) / 2.5)
    positive = np.where((flux > 0) & np.isfinite(zero_point), flux, np.nan)
    return {
        f"flux_nJy_{k}": flux * unit,
        f"flux_nJy_err_{k}": error * unit,
        f"mag_{k}": zero_point - 2.5 * np.log10(positive),
        f"mag_err_{k}": _MAG * error / positive,
    }


def _in_pixels(length: Length, scale: Floats) -> Floats:
    """Return the length in pixels at each source: a sky radius R is R / sqrt(area of the pixel)."""
    return np.full_like(scale, length.value) if length.unit == "pix" else length.value / scale


def photometry_schema(identity: pa.Field, apertures: Apertures, kept: Sequence[pa.Field]) -> pa.Schema:
    """Return the columns of a photometry result.

    Parameters
    ----------
    identity : pyarrow.Field
        The catalog's identity column; it is called source_id here.
    apertures : Apertures
    kept : sequence of pyarrow.Field
        The catalog's own columns that follow, under their new names.
    """
    head = [
        pa.field("_healpix_29", pa.int64()),
        pa.field("source_id", identity.type, metadata={"ucd": "meta.id", "description": f"catalog {identity.name}"}),
        _field("ra", pa.float64(), "deg", "of the catalog's source, ICRS"),
        _field("dec", pa.float64(), "deg", "of the catalog's source, ICRS"),
        _field("image_id", pa.string(), "", "the image measured"),
        _field("mjd", pa.float64(), "d", "middle of the exposure, TAI"),
        _field("band", pa.string(), "", "of the image"),
        _field("x", pa.float64(), "pix", "0-based, of the source on the image"),
        _field("y", pa.float64(), "pix", "0-based, of the source on the image"),
        _field("background", pa.float64(), "adu", _about_annulus(apertures)),
        _field("background_err", pa.float64(), "adu", "standard error of the background"),
    ]
    sums = [column for k, radius in enumerate(apertures.radii) for column in _sum_fields(k, str(radius))]
    calibrated = [column for k, radius in enumerate(apertures.radii) for column in _calibrated_fields(k, str(radius))]
    return pa.schema([*head, *sums, *calibrated, *kept])


def _sum_fields(k: int, radius: str) -> list[pa.Field]:
    names = ", ".join(f"{bit} {name}" for bit, name, _ in flags.FLAGS)
    return [
        _field(f"flux_{k}", pa.float64(), "adu", "sum over good pixels of overlap x (pixel - background)", radius),
        _field(f"flux_err_{k}", pa.float64(), "adu", "from the variance and the background's error", radius),
        _field(f"area_{k}", pa.float64(), "pix2", "good part of the aperture", radius),
        _field(f"flags_{k}", pa.int32(), "", f"bits: {names}", radius),
    ]


def _calibrated_fields(k: int, radius: str) -> list[pa.Field]:
    return [
        _field(f"flux_nJy_{k}", pa.float64(), "nJy", "flux by the zero point", radius),
        _field(f"flux_nJy_err_{k}", pa.float64(), "nJy", "its error", radius),
        _field(f"mag_{k}", pa.float64(), "mag", "AB; null where the flux is not positive", radius),
        _field(f"mag_err_{k}", pa.float64(), "mag", "its error", radius),
    ]


def _about_annulus(apertures: Apertures) -> str:
    if apertures.annulus is None:
        return "none was asked for"
    return f"{apertures.background} of the annulus {apertures.annulus[0]} to {apertures.annulus[1]}, per pixel"


def _field(name: str, kind: pa.DataType, unit: str, description: str, radius: str = "") -> pa.Field:
    about = {"unit": unit, "description": description, "radius": radius}
    return pa.field(name, kind, metadata={key: value for key, value in about.items() if value})
