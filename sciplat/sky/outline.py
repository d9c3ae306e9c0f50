"""The part of the sky that an image may touch, from its outline through the true WCS."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sciplat.errors import WcsError
from sciplat.sky.coverage import Coverage, outline_coverage

Floats = NDArray[np.float64]
_SAMPLES = 16  # along each side: a distorted edge is followed closely enough for the ring of padding


@dataclass(frozen=True)
class Outline:
    """Where an image lies.

    Parameters
    ----------
    ra, dec : float
        Centre, degrees.
    corners : tuple of float
        ra, dec of the four corners, counted from the first pixel along x, degrees.
    coverage : Coverage
        A superset of the image.
    """

    ra: float
    dec: float
    corners: tuple[float, ...]
    coverage: Coverage


def outline(pixel_to_sky: Callable[[Floats, Floats], tuple[Floats, Floats]], ny: int, nx: int) -> Outline:
    """Return where an image lies.

    Parameters
    ----------
    pixel_to_sky : callable
        Takes 0-based pixels (x, y) to ICRS degrees.
    ny, nx : int
        Size of the image.

    Raises
    ------
    WcsError
        If the outline does not lie on the sky.
    """
    along = np.linspace(0, 1, _SAMPLES, endpoint=False)
    zero, one = np.zeros(_SAMPLES), np.ones(_SAMPLES)
    x = np.concatenate([along, one, 1 - along, zero, [0.5]]) * nx - 0.5
    y = np.concatenate([zero, along, one, 1 - along, [0.5]]) * ny - 0.5
    ra, dec = pixel_to_sky(x, y)
    if not (np.isfinite(ra).all() and np.isfinite(dec).all()):
        raise WcsError("the image's outline does not lie on the sky", hint="check its WCS")
    corners = np.stack([ra[:-1:_SAMPLES], dec[:-1:_SAMPLES]], axis=1).ravel()
    return Outline(float(ra[-1]), float(dec[-1]), tuple(corners.tolist()), outline_coverage(ra[:-1], dec[:-1]))
