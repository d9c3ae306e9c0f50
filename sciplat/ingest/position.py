"""Which columns of a table hold the position, and which the identity."""

from collections.abc import Sequence

import pyarrow as pa

from sciplat.errors import ArgumentError, ColumnError, PositionError
from sciplat.sky.column import shown_names, unit_of

_RA_NAMES = (
    "ra",
    "raj2000",
    "_raj2000",
    "ra_icrs",
    "ra_deg",
    "radeg",
    "ramean",
    "alpha_j2000",
    "right_ascension",
    "coord_ra",
)
_DEC_NAMES = (
    "dec",
    "dej2000",
    "_dej2000",
    "de_icrs",
    "dec_deg",
    "dedeg",
    "decmean",
    "delta_j2000",
    "declination",
    "coord_dec",
)
_GALACTIC_NAMES = ("l", "glon", "gal_lon"), ("b", "glat", "gal_lat")
_DEGREES = ("deg", "degs", "degree", "degrees", "°")


def is_degrees(unit: str) -> bool:
    """Return whether a unit means degrees, in any of the ways in which files write it."""
    return unit.strip(" '\"").lower() in _DEGREES


def position_columns(schema: pa.Schema, ra: str | None, dec: str | None, frame: str) -> tuple[str, str]:
    """Return the names of the columns with the position: those that are named, or the first with a usual name.

    Raises
    ------
    ColumnError
        If there are none.
    PositionError
        If they do not hold degrees as numbers.
    ArgumentError
        If both are one column.
    """
    usual = _GALACTIC_NAMES if frame == "galactic" else ((), ())
    found = _find(schema, ra, (*usual[0], *_RA_NAMES), "ra"), _find(schema, dec, (*usual[1], *_DEC_NAMES), "dec")
    if found[0] == found[1]:
        raise ArgumentError(
            f"the column {found[0]!r} is taken for ra and for dec",
            found=shown_names(schema.names),
            hint='name both: ra="...", dec="..."',
        )
    return found


def _find(schema: pa.Schema, named: str | None, usual: Sequence[str], what: str) -> str:
    if named is None:
        lowered = {name.lower(): name for name in reversed(schema.names)}
        chosen = next((lowered[name] for name in usual if name in lowered), None)
        if chosen is None:
            there = shown_names(schema.names)
            raise ColumnError(f"no column looks like {what}", found=there, hint=f'name it: {what}="..." (--{what})')
    elif named in schema.names:
        chosen = named
    else:
        raise ColumnError(f"there is no column {named!r}", found=shown_names(schema.names))
    field = schema.field(chosen)
    if not (pa.types.is_floating(field.type) or pa.types.is_integer(field.type)):
        raise PositionError(
            f"the column {chosen!r} does not hold numbers", found=str(field.type), hint="decimal degrees as numbers"
        )
    unit = unit_of(field)
    if unit and not is_degrees(unit):
        raise PositionError(f"the column {chosen!r} is not in degrees", found=unit, hint="convert it first")
    return chosen
