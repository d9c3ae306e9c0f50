"""The pixels of a simulated exposure, and its file.

A star is a circular Gaussian integrated over each pixel exactly, as the outer product of two one-dimensional
integrals. Arrays are (size, size), adu; positions are 0-based pixels. Mask bits: 1 bad pixel, 2 saturated.
"""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from astropy.time import Time

from sciplat.demo.survey import SATURATION, Exposure, FloatArray

BAD = 1
SATURATED = 2
STAMP_SIGMAS = 6.0
TILE_ROWS = 32  # one tile per row costs twice the time
QUANTIZE_SCI = 16.0  # steps per noise sigma: quantisation adds 1 / (12 * 16^2) = 0.03 % to the variance
QUANTIZE_VAR = 1e-3  # step as a share of the sky's variance

PixelArray = npt.NDArray[np.float32]
MaskArray = npt.NDArray[np.uint8]

_erf = np.frompyfunc(math.erf, 1, 1)  # numpy has no erf, and scipy is no dependency


def star_stamps(x: FloatArray, y: FloatArray, flux: FloatArray, sigma: float, image: FloatArray) -> None:
    """Add stars of total `flux`, each a Gaussian of width `sigma` pixels integrated over pixels, to `image`.

    Parameters
    ----------
    x, y, flux : (n,) float
        Centres in 0-based pixels, also outside the image, and total fluxes.
    sigma : float
        Width of the Gaussian, in pixels. A stamp ends at 6 sigma, outside of which lies 1.5e-8 of the flux.
    image : (ny, nx) float
        Image that the stars are added to.
    """
    ny, nx = image.shape
    half = math.ceil(STAMP_SIGMAS * sigma)
    left, share_x = _pixel_shares(x, sigma, half)
    bottom, share_y = _pixel_shares(y, sigma, half)
    width = 2 * half + 1
    touches = (left < nx) & (left + width > 0) & (bottom < ny) & (bottom + width > 0)
    for i in np.flatnonzero(touches):
        x0, y0 = left[i], bottom[i]
        cut_x, cut_y = slice(max(0, x0), min(nx, x0 + width)), slice(max(0, y0), min(ny, y0 + width))
        column = share_y[i, cut_y.start - y0 : cut_y.stop - y0]
        row = share_x[i, cut_x.start - x0 : cut_x.stop - x0]
        image[cut_y, cut_x] += flux[i] * np.outer(column, row)


def draw_image(
    exposure: Exposure, x: FloatArray, y: FloatArray, flux: FloatArray, rng: np.random.Generator
) -> tuple[PixelArray, PixelArray, MaskArray]:
    """Return the science, variance and mask planes of an exposure with stars of `flux` adu at (x, y).

    The noise is normal with the variance of photon and read noise. Poisson counts would be truer to the
    detector but not to the test: the median of a Poisson sky lies 1/6 electron below its mean, a bias of the
    median background, not of the code that measures it.
    """
    size = exposure.size
    model = _sky(exposure)
    star_stamps(x, y, flux, exposure.psf_sigma, model)
    variance = (model / exposure.gain + (exposure.read_noise / exposure.gain) ** 2).astype(np.float32)
    noise = rng.standard_normal((size, size), dtype=np.float32)
    science = model.astype(np.float32) + noise * np.sqrt(variance)
    mask = np.where(science >= SATURATION, SATURATED, 0).astype(np.uint8)
    science = np.minimum(science, np.float32(SATURATION))
    bad = _bad_pixels(size, rng)
    mask[bad] = BAD
    science[bad] = rng.uniform(-5000.0, 0.9 * SATURATION, np.count_nonzero(bad))
    return science, variance, mask


def write_image(
    path: Path, image: tuple[PixelArray, PixelArray, MaskArray], exposure: Exposure, dither_seed: int
) -> None:
    """Write the planes as a tile-compressed FITS file with the extensions SCI, VAR and MASK."""
    science, variance, mask = image
    tile = (min(TILE_ROWS, exposure.size), exposure.size)
    step = QUANTIZE_VAR * exposure.sky_level / exposure.gain
    mask_header = fits.Header()
    mask_header["COMMENT"] = f"mask: {BAD} bad pixel, {SATURATED} saturated"
    planes = [
        fits.CompImageHDU(
            science,
            header=_header(exposure),
            name="SCI",
            compression_type="RICE_1",
            tile_shape=tile,
            quantize_level=QUANTIZE_SCI,
            quantize_method=fits.hdu.compressed.SUBTRACTIVE_DITHER_1,
            dither_seed=dither_seed,
        ),
        # The variance is smooth: a fixed step (negative in astropy) without dither compresses it to little.
        fits.CompImageHDU(
            variance,
            name="VAR",
            compression_type="RICE_1",
            tile_shape=tile,
            quantize_level=-step,
            quantize_method=fits.hdu.compressed.NO_DITHER,
        ),
        fits.CompImageHDU(mask, header=mask_header, name="MASK", compression_type="RICE_1", tile_shape=tile),
    ]
    fits.HDUList([fits.PrimaryHDU(), *planes]).writeto(path)


def _pixel_shares(centre: FloatArray, sigma: float, half: int) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Return the first pixel of each stamp and the shares, (n, 2 half + 1), of its pixels along one axis."""
    first = np.rint(centre).astype(np.int64) - half
    edges = first[:, None] + np.arange(2 * half + 2) - 0.5
    scaled = (edges - centre[:, None]) / (sigma * math.sqrt(2.0))
    cumulative = 0.5 * np.asarray(_erf(scaled), dtype=np.float64)
    return first, np.diff(cumulative, axis=1)


def _sky(exposure: Exposure) -> FloatArray:
    offset = (np.arange(exposure.size) - (exposure.size - 1) / 2.0) / 1000.0
    slope_x, slope_y = exposure.sky_slope
    return exposure.sky_level * (1.0 + slope_x * offset[None, :] + slope_y * offset[:, None])


def _bad_pixels(size: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Return where the detector is bad: two columns over part of their length, and small clusters."""
    bad = np.zeros((size, size), dtype=bool)
    for column in rng.integers(0, size, 2):
        start, stop = np.sort(rng.integers(0, size + 1, 2))
        bad[start:stop, column] = True
    for x, y in rng.integers(0, size, (max(2, round(12 * (size / 1024.0) ** 2)), 2)):
        bad[y : y + rng.integers(1, 5), x : x + rng.integers(1, 5)] = True
    return bad


def _header(exposure: Exposure) -> fits.Header:
    header = fits.Header()
    header["OBJECT"] = (f"field {exposure.field}", "simulated")
    header["FILTER"] = exposure.band
    header["TIMESYS"] = "TAI"
    header["MJD-AVG"] = (exposure.mjd, "middle of the exposure")
    header["DATE-AVG"] = (Time(exposure.mjd, format="mjd", scale="tai").isot, "the same")
    header["EXPTIME"] = (exposure.exptime, "s")
    header["GAIN"] = (exposure.gain, "e-/adu")
    header["RDNOISE"] = (exposure.read_noise, "e-")
    header["SATURATE"] = (SATURATION, "adu")
    header["MAGZERO"] = (exposure.zero_point, "AB magnitude of 1 adu")
    header.extend(exposure.wcs_cards)
    return header
