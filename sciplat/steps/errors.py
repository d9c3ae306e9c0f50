"""Position errors of a table's rows as covariances, from the columns that its store names."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.errors import ArgumentError

Floats = NDArray[np.float64]
_NEEDLE = 1e5  # ratio of the axes from which an ellipse counts as a line: its inverse is lost in rounding


@dataclass(frozen=True)
class ErrorColumns:
    """Where the errors of positions stand.

    Parameters
    ----------
    ra, dec : tuple of (str, float)
        Column, and degrees in one of its units. The error of the right ascension includes the cosine of the
        declination.
    corr : str or None
        Column of their correlation; without one it is 0.
    """

    ra: tuple[str, float]
    dec: tuple[str, float]
    corr: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (self.ra[0], self.dec[0], *(() if self.corr is None else (self.corr,)))


def error_columns(properties: dict[str, Any]) -> ErrorColumns:
    """Return where the errors of positions stand.

    Parameters
    ----------
    properties : dict
        The property "errors" of a store, such as ``{"ra": {"column": "e_RA", "unit": "mas"}, "dec": ...}``.

    Raises
    ------
    ArgumentError
        If the correlation is in percent or another unit that is not 1.
    """
    import astropy.units as u

    corr = properties.get("corr")
    if corr is not None and u.Unit(corr["unit"]) != u.one:
        raise ArgumentError(
            f"the correlation {corr['column']!r} is in {corr['unit']}", hint="a column from -1 to 1, without a unit"
        )
    ra, dec = ((properties[key]["column"], float(u.Unit(properties[key]["unit"]).to(u.deg))) for key in ("ra", "dec"))
    return ErrorColumns(ra, dec, None if corr is None else corr["column"])


def covariances(table: pa.Table, columns: ErrorColumns, what: str) -> Floats:
    """Return the covariance of each row's position.

    Parameters
    ----------
    table : pyarrow.Table
    columns : ErrorColumns
    what : str
        The table's name in an error, such as "the left catalog".

    Returns
    -------
    ndarray of float64, shape (n, 3)
        Variance along right ascension (times cos(dec) squared), covariance, variance along declination; deg^2.

    Raises
    ------
    ArgumentError
        If an error is null, NaN, infinite or not positive, a correlation is null, NaN or not between -1 and 1, or an
        ellipse is a line: 100,000 times as long as wide, or more.
    """
    ra, dec = (_values(table[name]) * unit for name, unit in (columns.ra, columns.dec))
    corr = np.zeros(table.num_rows) if columns.corr is None else _values(table[columns.corr])
    with np.errstate(over="ignore", invalid="ignore"):
        cov = np.stack([ra * ra, corr * ra * dec, dec * dec], axis=1)
        is_ellipse = cov[:, 0] * cov[:, 2] - cov[:, 1] ** 2 > ((cov[:, 0] + cov[:, 2]) / _NEEDLE) ** 2
    good = is_ellipse & (ra > 0) & (dec > 0) & (np.abs(corr) < 1)
    if not good.all():
        raise _unusable(table, columns, what, ~good)
    return cov


def turned_covariances(cov: Floats, own_ra: Floats, ra: Floats, dec: Floats, frame: str, to: str) -> Floats:
    """Return covariances along right ascension and declination of one frame along those of another.

    Parameters
    ----------
    cov : ndarray of float64, shape (n, 3)
        As `covariances` returns them.
    own_ra : ndarray of float64, shape (n,)
        Degrees, in the first frame.
    ra, dec : ndarray of float64, shape (n,)
        Degrees, in the other one.
    frame, to : str
    """
    from sciplat.sky.frame import rotated, rotation

    # the first frame's east, along east and north of the other one
    own, lon, lat = np.radians(own_ra), np.radians(ra), np.radians(dec)
    x, y, z = rotated(np.stack([-np.sin(own), np.cos(own), np.zeros_like(own)], axis=1), rotation(frame, to)).T
    cos = y * np.cos(lon) - x * np.sin(lon)
    sin = np.sin(lat) * (x * np.cos(lon) + y * np.sin(lon)) - z * np.cos(lat)
    xx, xy, yy = cov.T
    return np.stack(
        [
            cos * cos * xx + 2 * cos * sin * xy + sin * sin * yy,
            cos * sin * (yy - xx) + (cos * cos - sin * sin) * xy,
            sin * sin * xx - 2 * cos * sin * xy + cos * cos * yy,
        ],
        axis=1,
    )


def _values(column: pa.ChunkedArray) -> Floats:
    """Return a column of numbers as float64, nulls as NaN."""
    values: Floats = column.cast(pa.float64(), safe=False).to_numpy()
    return values


def _unusable(table: pa.Table, columns: ErrorColumns, what: str, wrong: NDArray[np.bool_]) -> ArgumentError:
    first = int(np.argmax(wrong))
    values = {name: table[name][first].as_py() for name in columns.names}
    written = [name if name.isidentifier() else f'"{name}"' for name in columns.names]  # as in .where
    limit = " and {0} < 1e30" if np.isinf([values[name] or 0 for name in columns.names]).any() else ""
    conditions = [f"{name} > 0{limit.format(name)}" for name in written[:2]]
    conditions += [f"abs({name}) < 1" for name in written[2:]]
    return ArgumentError(
        f"{what}: {int(wrong.sum()):,} of {table.num_rows:,} rows have no usable position error",
        found=", ".join(f"{name} = {'null' if value is None else value}" for name, value in values.items()),
        hint=f"leave such rows out: .where('{' and '.join(conditions)}')",
    )
