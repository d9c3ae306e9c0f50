"""Epochs as Julian years: "J2016.0", "B1950.0", and columns of years or of modified Julian dates.

Time scales are not told apart. TT is 69 s (2e-6 yr) ahead of UTC: Barnard's star, the fastest, moves 23
microarcseconds in that time.
"""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sciplat.errors import ArgumentError

Floats = NDArray[np.float64]

EPOCH_TEXT = re.compile(r"[JB]\d{4}(\.\d+)?")

_JULIAN_YEAR = 365.25  # days
_J2000_JD, _J2000_MJD = 2_451_545.0, 51_544.5
_B1900_JD, _TROPICAL_YEAR = 2_415_020.31352, 365.242198781  # days
_EARLIEST, _LATEST = 1.0, 5000.0  # Julian years, of any observed position


def julian_year(text: str) -> float:
    """Return an epoch as Julian year.

    Parameters
    ----------
    text : str
        "J2016.0", or "B1950.0" for a Besselian epoch.

    Raises
    ------
    ArgumentError
        If it is neither.

    Notes
    -----
    A Besselian epoch is the Julian date 2415020.31352 + 365.242198781 (B - 1900): Lieske 1979 (A&A 73, 282).

    Examples
    --------
    >>> julian_year("J1991.25")
    1991.25
    >>> round(julian_year("B1950.0"), 6)
    1949.99979
    """
    if not isinstance(text, str) or not EPOCH_TEXT.fullmatch(text):
        raise ArgumentError(f"the epoch {text!r} is no year", hint='"J2016.0", or "B1950.0" for a Besselian year')
    year = float(text[1:])
    if text[0] == "J":
        return year
    return 2000.0 + (_B1900_JD + (year - 1900.0) * _TROPICAL_YEAR - _J2000_JD) / _JULIAN_YEAR


def years_of(values: NDArray[Any], unit: str) -> Floats:
    """Return the epochs of a column as Julian years.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Numbers; NaN or infinite where there is no epoch.
    unit : {"yr", "d"}
        Julian years, or days of the modified Julian date.

    Returns
    -------
    ndarray of float64, shape (n,)
        Not finite where `values` is not.

    Raises
    ------
    ArgumentError
        If the unit is another one, or a year lies outside 1 to 5000: a date in days that is taken for years, or a
        number that stands for "unknown".
    """
    if unit not in {"yr", "d"}:
        raise ArgumentError(f"an epoch column is in {unit!r}", hint="years (yr), or days (d) for an MJD")
    epochs = np.asarray(values, dtype=np.float64)
    years = epochs if unit == "yr" else 2000.0 + (epochs - _J2000_MJD) / _JULIAN_YEAR
    strange = np.isfinite(years) & ~((years >= _EARLIEST) & (years <= _LATEST))
    if strange.any():
        raise ArgumentError(
            "an epoch column holds numbers that are no epochs of observations",
            found=f"{epochs[strange][0]:g} {unit}",
            hint="the unit d for modified Julian dates; nulls where an epoch is not known",
        )
    return years
