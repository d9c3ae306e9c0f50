"""Expressions on tables, by Arrow's kernels: SQL's logic of three values, IEEE 754's numbers.

- Null compared with anything, and most functions of it, are null; `and` and `or` know that one operand may decide.
- NaN is a number that compares false, only `<>` is true of it; `least` and `greatest` pass null and NaN over.
- `/` always divides as floats, and dividing by zero gives inf or NaN; `%` has the sign of its first operand, of
  integers by zero it is null. `round` goes away from zero at a half. Angles are radians.
- Integers are computed with 64 bits, and what does not fit is an error; with a float, or of uint64 and another integer,
  float64 comes out. Two float32 give float32, but a float32 and a literal give float64.
- Integers are compared exactly with literals, however large, columns of integers with floats as float64; so is float32.
- A text beside dates or times is one of them, in ISO 8601: see `moment.py`.
"""

import math
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sciplat.errors import ArgumentError, ColumnError
from sciplat.steps.expression import COMPARISONS, Call, Column, Expression, Literal
from sciplat.steps.moment import timed, wide_scalar

Datum = Any  # pyarrow's Array, ChunkedArray, or Scalar for all rows alike
_NULL, _TRUTH, _NUMBER, _TEXT = "null", "a truth value", "a number", "text"
_INT64_END, _UINT64_END = 2**63, 2**64
_SHOWN = 80  # characters of an expression in an error


class _MismatchError(Exception):
    """Operands that do not fit the operator."""


def evaluate(expression: Expression, table: pa.Table) -> pa.ChunkedArray | pa.Array:
    """Compute an expression for every row.

    Parameters
    ----------
    expression : Expression
    table : pyarrow.Table

    Returns
    -------
    pyarrow.ChunkedArray or pyarrow.Array
        Of as many values as the table has rows; the type follows from the table's schema alone.

    Raises
    ------
    ColumnError
        If the table lacks a column.
    ArgumentError
        If the types of columns do not fit the operators, or integers do not fit into 64 bits.
    """
    value = _value(expression, table)
    return pa.repeat(value, table.num_rows) if isinstance(value, pa.Scalar) else value


def result_type(expression: Expression, schema: pa.Schema) -> pa.DataType:
    """Return the type of what an expression gives; see `evaluate`."""
    return evaluate(expression, schema.empty_table()).type


def _value(expression: Expression, table: pa.Table) -> Datum:
    if isinstance(expression, Literal):
        return _scalar(expression.value)
    if isinstance(expression, Column):
        return _column(expression.name, table)
    if not isinstance(expression, Call):
        raise TypeError(type(expression))
    try:
        if expression.operator in _FOLDED:
            return _folded(expression, table)
        return _KERNELS[expression.operator]([_value(operand, table) for operand in expression.operands])
    except (_MismatchError, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        _refuse(expression, table)
    except pa.ArrowInvalid as error:
        raise ArgumentError(
            f"{_short(expression)} cannot be computed",
            found=str(error),
            hint="integers beyond 64 bits become floats when they are multiplied by 1.0",
        ) from None


def _scalar(value: Any) -> pa.Scalar:
    return wide_scalar(value) if isinstance(value, int) and not isinstance(value, bool) else pa.scalar(value)


def _column(name: str, table: pa.Table) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise missing_column(name, table.column_names)
    column = table[name]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_decimal(kind):
        kind = pa.float64()
    elif pa.types.is_float16(kind):
        kind = pa.float32()
    elif pa.types.is_string_view(kind):
        kind = pa.large_string()
    return column if kind == column.type else column.cast(kind)


def missing_column(name: str, names: Sequence[str]) -> ColumnError:
    """Return the error of a column that is not there, with what may have been meant."""
    like = [known for known in names if known.lower() == name.lower()]
    near = get_close_matches(name, names, 1)
    if like:
        hint = f"{like[0]}: names are case-sensitive"
    else:
        hint = near[0] if near else "texts stand in single quotes, names of columns in double quotes or none"
    return ColumnError(f"there is no column {name!r}", found=", ".join(names), hint=hint)


def _refuse(call: Call, table: pa.Table) -> NoReturn:
    kinds = [(operand, _value(operand, table.slice(0, 0)).type) for operand in call.operands[:4]]
    found = [f"{_short(operand)} is {_kind(kind)} ({kind})" for operand, kind in kinds if not pa.types.is_null(kind)]
    hint = _USES.get(call.operator, "")
    raise ArgumentError(f"{_short(call)}: the types do not fit", found=", ".join(found), hint=hint)


def _short(expression: Expression) -> str:
    text = str(expression)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_null(kind):
        return _NULL
    if pa.types.is_boolean(kind):
        return _TRUTH
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _NUMBER
    return _TEXT if pa.types.is_string(kind) or pa.types.is_large_string(kind) else str(kind)


def _checked(operands: Sequence[Datum], *allowed: str) -> str | None:
    """Return the one kind of all operands, None if all are null."""
    kinds = {_kind(operand.type) for operand in operands} - {_NULL}
    if len(kinds) > 1 or (allowed and not kinds <= set(allowed)):
        raise _MismatchError
    return next(iter(kinds), None)


def _cast(value: Datum, kind: pa.DataType) -> Datum:
    if value.type == kind:
        return value
    if isinstance(value, pa.Scalar) and not value.is_valid:
        return pa.scalar(None, kind)
    return value.cast(kind, safe=not pa.types.is_floating(kind))


def _numbers(*operands: Datum) -> list[Datum]:
    """Return operands in their common type: int64, uint64, float32 or float64."""
    _checked(operands, _NUMBER)
    if any(pa.types.is_uint64(operand.type) for operand in operands):
        operands = tuple(_unsigned(operand) for operand in operands)
    kinds = {operand.type for operand in operands} - {pa.null()}
    if len(kinds) == 1 and kinds <= {pa.float32(), pa.uint64()}:
        return [_cast(operand, *kinds) for operand in operands]
    whole = bool(kinds) and all(pa.types.is_integer(kind) and not pa.types.is_uint64(kind) for kind in kinds)
    return [_cast(operand, pa.int64() if whole else pa.float64()) for operand in operands]


def _unsigned(number: Datum) -> Datum:
    """Return a literal that stands beside numbers of 64 bits without a sign as one of them, if it is."""
    literal = isinstance(number, pa.Scalar) and pa.types.is_integer(number.type) and number.is_valid
    return _cast(number, pa.uint64()) if literal and number.as_py() >= 0 else number


def _floats(*operands: Datum) -> list[Datum]:
    numbers = _numbers(*operands)
    return [n if pa.types.is_floating(n.type) else _cast(n, pa.float64()) for n in numbers]


def _alike(*operands: Datum) -> list[Datum]:
    """Return operands of any one kind in a common type."""
    if _checked(operands) in (_NUMBER, None):
        return _numbers(*operands)
    kind = next(operand.type for operand in operands if not pa.types.is_null(operand.type))
    return [_cast(operand, kind) for operand in operands]


def _truths(*operands: Datum) -> list[Datum]:
    _checked(operands, _TRUTH)
    return [_cast(operand, pa.bool_()) for operand in operands]


def _compared(kernel: Callable[..., Datum]) -> Callable[[list[Datum]], Datum]:
    def compare(operands: list[Datum]) -> Datum:
        one, other = timed(operands)
        if place := _beyond(one, other) - _beyond(other, one):
            rows = other if isinstance(one, pa.Scalar) else one
            return pc.if_else(pc.is_valid(rows), kernel(pa.scalar(place), pa.scalar(0)), pa.scalar(None, pa.bool_()))
        return kernel(*_alike(_whole(one, other), _whole(other, one)))

    return compare


def _beyond(number: Datum, other: Datum) -> int:
    """Return 1 for a literal above all that other integers can be, -1 for one below, else 0."""
    if not _is_literal(number) or not pa.types.is_integer(other.type):
        return 0
    low, end = _span(other.type)
    return int(number.as_py() >= end) - int(number.as_py() < low)


def _is_literal(number: Datum) -> bool:
    return isinstance(number, pa.Scalar) and number.is_valid and _kind(number.type) == _NUMBER


def _span(kind: pa.DataType) -> tuple[int, int]:
    """Return the first integer of a type as it is computed with, and the first beyond."""
    return (0, _UINT64_END) if pa.types.is_uint64(kind) else (-_INT64_END, _INT64_END)


def _whole(number: Datum, other: Datum) -> Datum:
    """Return a literal like 1e18 as an integer where it meets integers: they need not be floats of 53 bits then."""
    if not _is_literal(number) or not (pa.types.is_floating(number.type) and pa.types.is_integer(other.type)):
        return number
    values = _within_type([number.as_py()], other.type)
    return wide_scalar(values[0]) if values else number


def _within_type(values: list[Any], kind: pa.DataType) -> list[int]:
    """Return those of some numbers that are integers of a type."""
    low, end = _span(kind)
    return [int(v) for v in values if v is not None and math.isfinite(v) and v == int(v) and low <= v < end]


def _folded(call: Call, table: pa.Table) -> Datum:
    """Combine operand after operand: a thousand masks are not held at once."""
    kernel, prepare = _FOLDED[call.operator]
    result = _value(call.operands[0], table)
    for operand in call.operands[1:]:
        result = kernel(*prepare(result, _value(operand, table)))
    return result


def _remainder(dividend: Datum, divisor: Datum) -> Datum:
    if isinstance(dividend, pa.Scalar) and isinstance(divisor, pa.Scalar):
        return _remainder(pa.array([dividend.as_py()], dividend.type), divisor)[0]
    whole = pa.types.is_integer(dividend.type)
    parts = [pc.fill_null(part, pa.scalar(0, part.type)) for part in (dividend, divisor)]
    parts = [part.as_py() if isinstance(part, pa.Scalar) else np.asarray(part) for part in parts]
    missing = ~np.asarray(pc.and_(pc.is_valid(dividend), pc.is_valid(divisor)))
    with np.errstate(all="ignore"):
        values = np.fmod(*(np.asarray(part, dividend.type.to_pandas_dtype()) for part in parts))
    return pa.array(values, mask=missing | (whole & (np.asarray(parts[1]) == 0)))


def _is_in(operands: list[Datum]) -> Datum:
    value, *items = operands = timed(operands)
    kind, unknown = _checked(operands), pa.scalar(None, pa.bool_())
    if pa.types.is_null(value.type):
        return unknown
    listed = [item.as_py() for item in items if item.is_valid]
    if kind == _NUMBER and pa.types.is_integer(value.type):
        value = value if pa.types.is_uint64(value.type) else _cast(value, pa.int64())
        listed = _within_type(listed, value.type)
    elif kind == _NUMBER:
        value = _cast(value, pa.float64())
        listed = [*map(float, listed), *(-0.0 for item in listed if item == 0)]  # they have different bits
    found = pc.is_in(value, value_set=pa.array(listed, value.type))
    if not all(item.is_valid for item in items):
        found = pc.or_kleene(found, unknown)
    return pc.if_else(pc.is_valid(value), found, unknown)


def _like(*, ignore_case: bool) -> Callable[[list[Datum]], Datum]:
    def match(operands: list[Datum]) -> Datum:
        value, pattern = operands
        if not isinstance(pattern, pa.Scalar) or not pa.types.is_string(pattern.type) or not pattern.is_valid:
            raise _MismatchError
        value, _ = _alike(value, pattern)
        return pc.match_like(value, pattern=pattern.as_py(), ignore_case=ignore_case)

    return match


def _case(operands: list[Datum]) -> Datum:
    conditions = _truths(*operands[:-1:2])
    *values, result = _alike(*operands[1:-1:2], operands[-1])
    for condition, value in zip(reversed(conditions), reversed(values), strict=True):
        result = pc.if_else(pc.coalesce(condition, pa.scalar(False)), value, result)
    return result


def _negative(operands: list[Datum]) -> Datum:
    (number,) = _numbers(*operands)
    return pc.negate_checked(_cast(number, pa.int64()) if pa.types.is_uint64(number.type) else number)


def _rounded(kernel: Callable[..., Datum], **options: str) -> Callable[[list[Datum]], Datum]:
    def round_floats(operands: list[Datum]) -> Datum:
        (number,) = _numbers(*operands)
        return kernel(number, **options) if pa.types.is_floating(number.type) else number

    return round_floats


def _scaled(factor: float) -> Callable[[list[Datum]], Datum]:
    def scale(operands: list[Datum]) -> Datum:
        (number,) = _floats(*operands)
        return pc.multiply(number, pa.scalar(factor, number.type))

    return scale


def _of_floats(kernel: Callable[..., Datum]) -> Callable[[list[Datum]], Datum]:
    return lambda operands: kernel(*_floats(*operands))


_FOLDED: dict[str, tuple[Callable[..., Datum], Callable[..., list[Datum]]]] = {
    "and": (pc.and_kleene, _truths),
    "or": (pc.or_kleene, _truths),
    "+": (pc.add_checked, _numbers),
    "-": (pc.subtract_checked, _numbers),
    "*": (pc.multiply_checked, _numbers),
    "/": (pc.divide, _floats),
    "%": (_remainder, _numbers),
}
_KERNELS: dict[str, Callable[[list[Datum]], Datum]] = {
    "=": _compared(pc.equal),
    "<>": _compared(pc.not_equal),
    "<": _compared(pc.less),
    "<=": _compared(pc.less_equal),
    ">": _compared(pc.greater),
    ">=": _compared(pc.greater_equal),
    **{name: _of_floats(getattr(pc, name)) for name in ("sqrt", "exp", "ln", "log10", "sin", "cos", "tan")},
    **{name: _of_floats(getattr(pc, name)) for name in ("asin", "acos", "atan", "atan2")},
    "pow": _of_floats(pc.power),
    "isnan": _of_floats(pc.is_nan),
    "radians": _scaled(math.pi / 180),
    "degrees": _scaled(180 / math.pi),
    "floor": _rounded(pc.floor),
    "ceil": _rounded(pc.ceil),
    "round": _rounded(pc.round, round_mode="half_towards_infinity"),
    "abs": lambda operands: pc.abs_checked(*_numbers(*operands)),
    "negate": _negative,
    "least": lambda operands: pc.min_element_wise(*_alike(*operands)),
    "greatest": lambda operands: pc.max_element_wise(*_alike(*operands)),
    "coalesce": lambda operands: pc.coalesce(*_alike(*operands)),
    "not": lambda operands: pc.invert(*_truths(*operands)),
    "is null": lambda operands: pc.is_null(operands[0]),
    "in": _is_in,
    "like": _like(ignore_case=False),
    "ilike": _like(ignore_case=True),
    "case": _case,
}
_USES = {
    **dict.fromkeys(("and", "or", "not"), "comparisons: mag > 5"),
    **dict.fromkeys((*COMPARISONS, "in"), "numbers with numbers, texts in single quotes with texts or dates"),
    **dict.fromkeys(("like", "ilike"), "a column of texts and a pattern in single quotes: name like 'NGC%'"),
}
