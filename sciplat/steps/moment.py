"""Dates and times beside texts: both become whole numbers, so that they are compared exactly.

A text is ISO 8601: '2020-01-31', '2020-01-31T12:30:00.5', '2020-01-31T12:30:00Z' or with an offset like +02:00, '12:30'
beside times of day. A date is its midnight. A column with a time zone is compared with texts that have one, a column
without one with texts that have none.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from sciplat.errors import ArgumentError

_DAY = 86_400_000_000_000
_UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1000, "ns": 1}


def is_moment(kind: pa.DataType) -> bool:
    """Return whether values of a type are dates, times of day, or both."""
    return bool(pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind))


def timed(operands: Sequence[Any]) -> list[Any]:
    """Return dates or times of one type and texts beside them as integers in the same order; others as they are.

    Parameters
    ----------
    operands : sequence of pyarrow.Array, ChunkedArray or Scalar

    Raises
    ------
    ArgumentError
        If a text is no date or time, or only one of text and column has a time zone.
    """
    kinds = {operand.type for operand in operands if is_moment(operand.type)}
    texts = [operand.as_py() for operand in operands if _is_text(operand)]
    others = [operand for operand in operands if not (is_moment(operand.type) or pa.types.is_null(operand.type))]
    if len(kinds) != 1 or not texts or len(texts) < len(others):
        return list(operands)
    (kind,) = kinds
    step = _DAY if pa.types.is_date32(kind) else 1_000_000 if pa.types.is_date64(kind) else _UNITS[kind.unit]
    places = {text: _nanoseconds(text, kind) for text in texts}
    # what lies between two values of the type gets the odd number between their doubles
    factor = 2 if any(place % step for place in places.values()) else 1
    return [_number(operand, places, step, factor) for operand in operands]


def _is_text(operand: Any) -> bool:
    return isinstance(operand, pa.Scalar) and pa.types.is_string(operand.type) and operand.is_valid


def _number(operand: Any, places: dict[str, int], step: int, factor: int) -> Any:
    if pa.types.is_null(operand.type):
        return operand
    if is_moment(operand.type):
        whole = operand.cast(pa.int32() if operand.type.bit_width == 32 else pa.int64()).cast(pa.int64())
        return whole if factor == 1 else pc.multiply_checked(whole, pa.scalar(factor))
    steps, rest = divmod(places[operand.as_py()], step)
    return wide_scalar(factor * steps + (rest > 0))


def wide_scalar(number: int) -> pa.Scalar:
    """Return an integer as it is, or as a float that lies beyond the same 64-bit integers.

    Integers from 2**63 are uint64; floats are those beyond its end, or before int64 begins.
    """
    if -(2**63) <= number < 2**63:
        return pa.scalar(number)
    if 0 < number < 2**64:
        return pa.scalar(number, pa.uint64())
    # the float nearest to -2**63 - 1 is -2**63 itself
    return pa.scalar(float(number) if number > 0 else min(float(number), _BEFORE_INT64))


_BEFORE_INT64 = -(2.0**63) - 2048


def _nanoseconds(text: str, kind: pa.DataType) -> int:
    """Return a date or time as nanoseconds since 1970, or since midnight."""
    whole = f"1970-01-01T{text}" if pa.types.is_time(kind) else text
    zone = kind.tz if pa.types.is_timestamp(kind) else None
    for unit in ("us", "ns"):  # nanoseconds do not reach from year 1 to 9999
        for tz in (None, "UTC"):
            try:
                place = pa.scalar(whole).cast(pa.timestamp(unit, tz)).value
            except pa.ArrowInvalid:
                continue
            if bool(tz) != bool(zone):
                _refuse_zone(text, kind, has_zone=bool(tz))
            return int(place) * _UNITS[unit]
    hint = "'12:30' or '12:30:15.5'" if pa.types.is_time(kind) else "'2020-01-31' or '2020-01-31T12:30:00'"
    raise ArgumentError(f"'{text}' is compared with {kind}, but is none in ISO 8601", hint=hint)


def _refuse_zone(text: str, kind: pa.DataType, *, has_zone: bool) -> NoReturn:
    if has_zone:
        raise ArgumentError(
            f"'{text}' has a time zone, but the column has none", found=str(kind), hint="the text without a zone"
        )
    whole = text if len(text) > len("2020-01-31") else f"{text}T00:00:00"
    raise ArgumentError(f"'{text}' has no time zone, but the column has one", found=str(kind), hint=f"'{whole}Z'")
