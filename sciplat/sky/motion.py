"""Which columns hold proper motions, parallaxes, radial velocities, position errors and epochs, and in which units."""

from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from sciplat.errors import ArgumentError, ColumnError
from sciplat.sky.column import shown_names, unit_of
from sciplat.sky.epoch import EPOCH_TEXT

ColumnProperty = dict[str, str]  # {"column": name, "unit": text that astropy reads}

_MOTION_UNITS = {"pmra": "mas/yr", "pmdec": "mas/yr", "parallax": "mas", "rv": "km/s"}
_ERROR_UNITS = {"ra": "mas", "dec": "mas", "corr": ""}
_EPOCH_UNITS = ("yr", "d")


@dataclass(frozen=True)
class Motion:
    """Names of the columns that say how sources move.

    Parameters
    ----------
    pmra, pmdec : str
        Proper motions; `pmra` includes the cosine of the declination. mas/yr where the column has no unit.
    parallax : str, optional
        mas where the column has no unit.
    rv : str, optional
        Radial velocity, away from us positive; km/s where the column has no unit.

    Raises
    ------
    ArgumentError
        If one column is named for two of them.
    """

    pmra: str
    pmdec: str
    parallax: str | None = None
    rv: str | None = None

    def __post_init__(self) -> None:
        _check_once("Motion", asdict(self))


@dataclass(frozen=True)
class Errors:
    """Names of the columns that say how well positions are known.

    Parameters
    ----------
    ra, dec : str
        Standard deviations on the sky: that of the right ascension includes the cosine of the declination. mas where
        the column has no unit.
    corr : str, optional
        Correlation of the two, -1 to 1.

    Raises
    ------
    ArgumentError
        If one column is named for two of them.
    """

    ra: str
    dec: str
    corr: str | None = None

    def __post_init__(self) -> None:
        _check_once("Errors", asdict(self))


def motion_properties(motion: Motion, schema: pa.Schema) -> dict[str, ColumnProperty]:
    """Return what a catalog says of its motions.

    Parameters
    ----------
    motion : Motion
    schema : pyarrow.Schema
        Of the catalog; a column's unit stands in its metadata.

    Returns
    -------
    dict
        For each column that is named, for example ``{"pmra": {"column": "pmRA", "unit": "mas/yr"}}``; JSON values.

    Raises
    ------
    ColumnError
        If a column is not there.
    ArgumentError
        If one does not hold numbers, or its unit is not one of an angle for each time, an angle or a velocity.
    """
    return _properties("motion", asdict(motion), _MOTION_UNITS, schema)


def errors_properties(errors: Errors, schema: pa.Schema) -> dict[str, ColumnProperty]:
    """Return what a catalog says of the errors of its positions.

    Parameters
    ----------
    errors : Errors
    schema : pyarrow.Schema
        Of the catalog; a column's unit stands in its metadata.

    Returns
    -------
    dict
        For each column that is named, for example ``{"ra": {"column": "e_RA", "unit": "mas"}}``; JSON values.

    Raises
    ------
    ColumnError
        If a column is not there.
    ArgumentError
        If one does not hold numbers, or its unit is not one of an angle (of the correlation: a number).
    """
    return _properties("errors", asdict(errors), _ERROR_UNITS, schema)


def epoch_property(epoch: str | None, schema: pa.Schema) -> str | ColumnProperty | None:
    """Return what a catalog says of the epoch of its positions.

    Parameters
    ----------
    epoch : str, optional
        One for all rows, "J2016.0" or "B1950.0", or the name of a column: Julian years, or days of the modified Julian
        date where its unit is "d".
    schema : pyarrow.Schema
        Of the catalog.

    Returns
    -------
    str, dict or None
        The text as it is, ``{"column": "Epoch", "unit": "yr"}`` (or "d"), or None where nobody said.

    Raises
    ------
    ArgumentError
        If it is neither, or the column does not hold numbers of years or days.
    """
    if epoch is None or (isinstance(epoch, str) and EPOCH_TEXT.fullmatch(epoch)):
        return epoch
    if epoch not in schema.names:
        raise ArgumentError(f"the epoch {epoch!r} is no year and no column", hint='"J2016.0", or the name of a column')
    field = _numeric(epoch, "epoch", schema)
    unit = _unit(field, "yr", f"the epoch column {epoch!r}")
    if unit not in _EPOCH_UNITS:
        raise ArgumentError(f"the epoch column {epoch!r} is in {unit}", hint="years (yr), or days (d) for an MJD")
    return {"column": epoch, "unit": unit}


def _check_once(what: str, names: dict[str, str | None]) -> None:
    """Refuse a column that is named for two things."""
    given = [name for name in names.values() if name is not None]
    if twice := [name for name in given if given.count(name) > 1]:
        told = ", ".join(f"{key}={name!r}" for key, name in names.items() if name == twice[0])
        raise ArgumentError(f"{what}: the column {twice[0]!r} is named for two things", found=told)


def _properties(
    what: str, names: dict[str, str | None], units: dict[str, str], schema: pa.Schema
) -> dict[str, ColumnProperty]:
    found = {}
    for key, name in names.items():
        if name is not None:
            field = _numeric(name, f"{what}, {key}", schema)
            found[key] = {"column": name, "unit": _unit(field, units[key], f"the {key} column {name!r}")}
    return found


def _numeric(name: str, what: str, schema: pa.Schema) -> pa.Field:
    """Return the field of a column that holds numbers."""
    if name not in schema.names:
        raise ColumnError(f"there is no column {name!r} ({what})", found=shown_names(schema.names))
    field = schema.field(name)
    if not (pa.types.is_floating(field.type) or pa.types.is_integer(field.type)):
        raise ArgumentError(f"the column {name!r} ({what}) does not hold numbers", found=str(field.type))
    return field


def _unit(field: pa.Field, usual: str, what: str) -> str:
    """Return a column's unit as astropy writes it, the usual one if it has none."""
    text = unit_of(field)
    if text in ("", usual):
        return usual
    import astropy.units as u

    unit = _parsed(text)
    if unit is None or not unit.is_equivalent(u.Unit(usual)):
        raise ArgumentError(f"{what} is in {text}", hint=f"a unit like {usual or 'none'}: convert the column first")
    written: str = unit.to_string().replace(" ", "")
    return written


def _parsed(text: str) -> Any:
    """Return a unit from the ways in which tables write it, None if it is none."""
    import astropy.units as u

    for style in ("generic", "vounit", "cds"):
        try:
            return u.Unit(text, format=style)
        except ValueError:
            continue
    return None
