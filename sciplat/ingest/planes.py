"""Arrays of FITS files as the planes of an image: pixels, variance, mask."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sciplat.errors import InputError
from sciplat.ingest.fits_file import ArrayPlace, read_array
from sciplat.ingest.profile import PlaneKind

_MAX_CODE = 32


def read_pixels(path: Path, place: ArrayPlace) -> NDArray[np.float32]:
    """Read an array and scale it; integers beyond 16 bits are scaled in double precision."""
    array, scale, zero = read_array(path, place)
    if (scale, zero) == (1.0, 0.0):
        return array.astype(np.float32)
    if array.dtype.itemsize <= 2:
        return array.astype(np.float32) * np.float32(scale) + np.float32(zero)
    values: NDArray[np.float32] = (array * scale + zero).astype(np.float32)
    return values


def read_variance(path: Path, place: ArrayPlace, kind: PlaneKind) -> NDArray[np.float32]:
    """Read a variance, inverse variance or rms; what is not positive and finite is NaN."""
    values = read_pixels(path, place)
    bad = ~((values > 0.0) & np.isfinite(values))
    if kind == "weight":
        np.divide(np.float32(1.0), values, out=values, where=~bad)
    elif kind == "rms":
        values *= values
    values[bad | ~np.isfinite(values)] = np.nan
    return values


def read_mask(path: Path, place: ArrayPlace, *, codes: bool) -> NDArray[np.uint32]:
    """Read a mask as bits; a code v becomes bit v - 1."""
    array, scale, zero = read_array(path, place)
    if (scale, zero) != (1.0, 0.0):
        array = array * scale + zero
    elif array.dtype.kind == "i":  # the sign of an integer is its highest bit
        array = array.view(f"u{array.dtype.itemsize}")
    limit = _MAX_CODE if codes else 2**32 - 1
    with np.errstate(invalid="ignore"):
        bits = array.astype(np.int64)
    if not (bits == array).all() or bits.min() < 0 or bits.max() > limit:
        raise InputError(
            f"the mask in {path}, HDU {place.hdu}, does not hold {'codes' if codes else '32 bits'}",
            found=f"values from {array.min()} to {array.max()}",
            hint="a profile that describes this mask",
        )
    if codes:
        bits = np.where(bits == 0, 0, np.int64(1) << np.maximum(bits - 1, 0))
    return bits.astype(np.uint32)
