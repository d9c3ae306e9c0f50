"""Bringing the rows of a catalog to another epoch by their proper motions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from sciplat.errors import ArgumentError
from sciplat.sky.epoch import julian_year, years_of

Floats = NDArray[np.float64]

AU_PER_YEAR = 149_597_870.7 / (365.25 * 86_400.0)  # km/s, 4.74047: IAU 2012 resolution B2, Julian year


@dataclass(frozen=True)
class Moving:
    """Where a catalog says how its rows move, and to when they are brought.

    Parameters
    ----------
    pmra, pmdec : tuple of str and float
        Column, and the factor that makes it radians per year; `pmra` includes cos(dec).
    parallax : tuple of str and float, or None
        Column, and the factor that makes it radians.
    rv : tuple of str and float, or None
        Column of the radial velocity, away from us positive, and the factor that makes it km/s.
    epoch : float or tuple of two str
        Julian year of the positions, or the column that holds it and its unit ("yr", or "d" for an MJD).
    target : float
        Julian year to which the rows are brought.
    """

    pmra: tuple[str, float]
    pmdec: tuple[str, float]
    parallax: tuple[str, float] | None
    rv: tuple[str, float] | None
    epoch: float | tuple[str, str]
    target: float

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that `moved` reads, besides the position."""
        radial = () if self.parallax is None or self.rv is None else (self.parallax[0], self.rv[0])
        epoch = (self.epoch[0],) if isinstance(self.epoch, tuple) else ()
        return (self.pmra[0], self.pmdec[0], *radial, *epoch)


@dataclass(frozen=True)
class Moved:
    """Positions at another epoch.

    Parameters
    ----------
    ra, dec : ndarray of float64, shape (n,)
        Degrees, 0 <= ra < 360.
    missing : ndarray of bool, shape (n,)
        Rows that stayed where they are, because their proper motion or their epoch is not known.
    """

    ra: Floats
    dec: Floats
    missing: NDArray[np.bool_]


def moving(properties: dict[str, Any], target: float) -> Moving:
    """Return how the rows of a catalog are brought to another epoch.

    Parameters
    ----------
    properties : dict
        Of the store; "motion" and "epoch" as `sciplat.sky.motion` writes them.
    target : float
        Julian year.

    Raises
    ------
    ArgumentError
        If the properties name no proper motions, or no epoch.
    """
    motion, epoch = properties.get("motion"), properties.get("epoch")
    if not motion:
        raise ArgumentError(
            "the catalog does not say how its sources move", hint="ingest_catalog(..., motion=Motion(...))"
        )
    if epoch is None:
        raise ArgumentError(
            "the catalog has proper motions, but no epoch of its positions",
            hint='ingest_catalog(..., epoch="J2016.0"), or motion=False to leave positions as they are',
        )
    return Moving(
        pmra=_column(motion["pmra"], "rad/yr"),
        pmdec=_column(motion["pmdec"], "rad/yr"),
        parallax=_column(motion["parallax"], "rad") if "parallax" in motion else None,
        rv=_column(motion["rv"], "km/s") if "rv" in motion else None,
        epoch=julian_year(epoch) if isinstance(epoch, str) else (epoch["column"], epoch["unit"]),
        target=target,
    )


def moved(table: pa.Table, position: tuple[str, str], moving: Moving) -> Moved:
    """Bring the rows of a catalog to another epoch.

    Parameters
    ----------
    table : pyarrow.Table
        With the columns of the position and `moving.columns`.
    position : tuple of two str
        Columns of right ascension and declination, degrees, in the frame in which the proper motions are given.
    moving : Moving

    Returns
    -------
    Moved
        A row without both components of the proper motion, or without an epoch, stays where it is. Where the
        parallax or the radial velocity is not known, or the parallax is not positive (noise: it tells no distance),
        the distance is taken as constant.

    Raises
    ------
    ArgumentError
        If an epoch column holds numbers that are no epochs.
    """
    from sciplat.kernels.motion import propagate

    ra, dec = (_values(table, name) for name in position)
    pmra, pmdec = _scaled(table, moving.pmra), _scaled(table, moving.pmdec)
    years = _years(table, moving)
    missing = ~(np.isfinite(pmra) & np.isfinite(pmdec) & np.isfinite(years))
    pmra[missing], pmdec[missing], years[missing] = 0.0, 0.0, 0.0
    out_ra, out_dec = np.empty_like(ra), np.empty_like(dec)
    propagate(ra, dec, pmra, pmdec, _radial(table, moving), years, out_ra, out_dec)
    return Moved(out_ra, out_dec, missing)


def displacement(pm: ArrayLike, radial: ArrayLike, years: ArrayLike) -> Floats:
    """Return how far stars move on the sky at most, in degrees.

    Parameters
    ----------
    pm : array_like
        Total proper motion, radians per year.
    radial : array_like
        Radial velocity by distance, per year, away from us positive; 0 where it is not known.
    years : array_like
        Of either sign.

    Returns
    -------
    ndarray of float64
        Of the broadcast shape: the angle between the two directions, or 180 for a star that comes as near as us.

    Notes
    -----
    By the vectors of `sciplat.kernels.motion` the angle is that whose tangent is pm |t| / (1 + radial t), as long as
    the denominator is positive. It grows with pm, with -radial t and, as its derivative pm / (1 + radial t)^2 shows,
    with |t|. So the largest pm, |radial| and |t| of a set of stars, the radial one taken as approaching
    (``displacement(pm, -radial, t)`` with t > 0), bound the motion of each. Without radial motion it is at most
    pm |t|. Rounding adds up to 1e-13 degrees to a position that is moved.
    """
    time = np.asarray(years, dtype=np.float64)
    across = np.abs(np.asarray(pm, dtype=np.float64) * time)
    away = 1.0 + np.asarray(radial, dtype=np.float64) * time
    return np.where(away > 0.0, np.degrees(np.arctan2(across, away)), 180.0)


def _column(named: dict[str, str], unit: str) -> tuple[str, float]:
    """Return a column and the factor that brings it to a unit."""
    import astropy.units as u

    return named["column"], float(u.Unit(named["unit"]).to(unit))


def _values(table: pa.Table, name: str) -> Floats:
    """Return a column of numbers, NaN where it has nulls."""
    return np.asarray(table[name].to_numpy(), dtype=np.float64)


def _scaled(table: pa.Table, column: tuple[str, float]) -> Floats:
    name, factor = column
    return _values(table, name) * factor


def _years(table: pa.Table, moving: Moving) -> Floats:
    """Return the years from each row's epoch to the target, not finite where there is no epoch."""
    if isinstance(moving.epoch, tuple):
        name, unit = moving.epoch
        return moving.target - years_of(_values(table, name), unit)
    return np.full(table.num_rows, moving.target - moving.epoch)


def _radial(table: pa.Table, moving: Moving) -> Floats:
    """Return radial velocity by distance, per year, 0 where one of them is not known."""
    if moving.parallax is None or moving.rv is None:
        return np.zeros(table.num_rows)
    parallax = _scaled(table, moving.parallax)
    radial = _scaled(table, moving.rv) / AU_PER_YEAR * parallax
    return np.where(np.isfinite(radial) & (parallax > 0.0), radial, 0.0)
