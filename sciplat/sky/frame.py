"""Celestial frames as rotation matrices, and positions as unit vectors."""

from functools import lru_cache

import numpy as np
from astropy.coordinates import FK5, ICRS, BaseCoordinateFrame, CartesianRepresentation, Galactic
from astropy.time import Time
from numpy.typing import ArrayLike, NDArray

from sciplat.errors import ArgumentError

FloatArray = NDArray[np.float64]


@lru_cache(maxsize=64)
def rotation(from_frame: str, to_frame: str) -> FloatArray:
    """Return the matrix that takes unit vectors of one frame to another.

    Parameters
    ----------
    from_frame, to_frame : str
        "icrs", "galactic", "fk5" (equinox J2000) or "fk5:J1975" (any other equinox).

    Returns
    -------
    ndarray of float64, shape (3, 3)
        `rotated(vectors, matrix)` are the vectors in `to_frame`. Shared between callers, hence read-only.

    Raises
    ------
    ArgumentError
        The frame is unknown, or its relation to the others is no rotation (FK4).
    """
    basis = CartesianRepresentation(np.eye(3))
    source, target = _astropy_frame(from_frame), _astropy_frame(to_frame)
    turned = source.realize_frame(basis).transform_to(target)
    matrix: FloatArray = np.ascontiguousarray(turned.cartesian.xyz.value)
    matrix.setflags(write=False)
    return matrix


def rotated(vectors: FloatArray, matrix: FloatArray) -> FloatArray:
    """Return the vectors, shape (n, 3), turned by a matrix of `rotation`.

    Written out, because the last bits of a BLAS product depend on how many rows it is given.
    """
    x, y, z = vectors[:, 0], vectors[:, 1], vectors[:, 2]
    return np.stack([row[0] * x + row[1] * y + row[2] * z for row in matrix], axis=-1)


def turned(ra: ArrayLike, dec: ArrayLike, from_frame: str, to_frame: str) -> tuple[FloatArray, FloatArray]:
    """Return positions, degrees, in another frame; see `rotation`."""
    return ra_dec(rotated(unit_vectors(ra, dec), rotation(from_frame, to_frame)))


def unit_vectors(ra: ArrayLike, dec: ArrayLike) -> FloatArray:
    """Return the unit vectors, shape (..., 3), of positions in degrees."""
    lon, lat = np.radians(ra), np.radians(dec)
    with np.errstate(invalid="ignore"):  # other writers may have infinite positions, which lie nowhere
        cos_lat = np.cos(lat)
        return np.stack([cos_lat * np.cos(lon), cos_lat * np.sin(lon), np.sin(lat)], axis=-1)


def ra_dec(vectors: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return right ascension (0 to 360) and declination in degrees of vectors of shape (..., 3)."""
    x, y, z = np.moveaxis(np.asarray(vectors, dtype=np.float64), -1, 0)
    # a tiny negative angle rounds to exactly 360 under the first modulus
    ra = np.degrees(np.arctan2(y, x)) % 360.0 % 360.0
    return ra, np.degrees(np.arctan2(z, np.hypot(x, y)))


def _astropy_frame(name: str) -> BaseCoordinateFrame:
    kind, _, equinox = name.lower().partition(":")
    if kind == "icrs" and not equinox:
        return ICRS()
    if kind == "galactic" and not equinox:
        return Galactic()
    if kind == "fk5":
        return FK5(equinox=_equinox(name, equinox))
    if kind.startswith("fk4"):
        raise ArgumentError(
            f"positions cannot be rotated to or from the frame {name!r}",
            found="FK4 positions contain the E-terms of aberration: no rotation relates them to ICRS",
            hint="bring the positions to ICRS first, e.g. with astropy's SkyCoord.icrs",
        )
    raise ArgumentError(f"no celestial frame is called {name!r}", hint="icrs, galactic, fk5 (J2000) or e.g. fk5:J1975")


def _equinox(name: str, equinox: str) -> Time:
    try:
        return Time(equinox.upper() or "J2000")
    except ValueError as error:
        raise ArgumentError(
            f"the frame {name!r} has an equinox that cannot be read", found=equinox, hint="e.g. fk5:J1975"
        ) from error
