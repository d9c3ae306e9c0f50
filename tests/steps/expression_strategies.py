"""Hypothesis strategies of tables with nulls and NaN and of expressions on them, and what these mean row by row."""

import math

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from sciplat.steps.expression import Call, Column, Literal

INTEGERS = st.integers(-9, 9) | st.sampled_from([2**53, 2**53 + 1, 10**18 + 1, 2**63 - 1, -(2**63)])
FLOATS = st.sampled_from([0.0, -0.0, 0.5, -2.5, 3.0, 1e30, math.inf, -math.inf, math.nan]) | st.floats(-9, 9, width=32)
LETTERS = st.text("aB%_é\\\n", max_size=3)


@st.composite
def tables(draw, integers=INTEGERS):
    """Draw up to eight rows with columns n, u (integers), a, b (float64, float32), flag and name, in chunks."""
    rows = draw(st.integers(1, 8))

    def column(values, kind):
        drawn = pa.array(draw(st.lists(values | st.none(), min_size=rows, max_size=rows)), kind)
        cut = draw(st.integers(0, rows))
        return pa.chunked_array([drawn[:cut], drawn[cut:]])

    return pa.table(
        {
            "n": column(integers, pa.int64()),
            "u": column(integers.map(abs) | st.just(2**64 - 1), pa.uint64()),
            "a": column(FLOATS, pa.float64()),
            "b": column(FLOATS, pa.float32()),
            "flag": column(st.booleans(), pa.bool_()),
            "name": column(LETTERS, pa.string()),
        }
    )


def texts_of(column):
    """Return the texts of a column."""
    return [text for text in column.to_pylist() if text is not None]


def _call(operator, *operands):
    return st.tuples(*operands).map(lambda drawn: Call(operator, drawn))


def _binary(operators, one, other):
    return st.builds(lambda operator, *operands: Call(operator, operands), st.sampled_from(operators), one, other)


def _grown(numbers):
    more = _binary(["+", "-", "*", "/", "%"], numbers, numbers) | _call("coalesce", numbers, numbers)
    more |= _call("least", numbers, numbers) | _call("greatest", numbers, numbers, numbers) | _call("floor", numbers)
    more |= _call("abs", numbers) | _call("negate", _named(["n", "a"]))
    return more | _call("case", _compared(numbers), numbers, numbers)


def _named(names):
    return st.sampled_from(names).map(Column)


def _compared(numbers):
    return _binary(["=", "<>", "<", "<=", ">", ">="], numbers, numbers)


_small = st.integers(-9, 9) | st.sampled_from([0.5, -2.5, 0.0, 1e-3])
_leaves = _named(["n", "a"]) | _small.map(Literal) | st.just(Literal(None))
numbers = st.recursive(_leaves, _grown, max_leaves=5)
_texts = _named(["name"]) | LETTERS.map(Literal)
_listed = st.lists(_leaves.filter(lambda leaf: isinstance(leaf, Literal)), min_size=1, max_size=3)
_conditions = _compared(numbers) | _binary(["=", "<>", "<", ">="], _texts, _texts) | _named(["flag"])
_conditions |= st.builds(lambda value, items: Call("in", (value, *items)), numbers, _listed)
_conditions |= _call("is null", numbers | _texts) | _call("isnan", numbers)
_conditions |= st.sampled_from([True, False, None]).map(Literal)
truths = st.recursive(
    _conditions,
    lambda inner: _binary(["and", "or"], inner, inner) | _call("not", inner) | _call("and", inner, inner, inner),
    max_leaves=6,
)


def meaning(expression, row):
    """Return the value of an expression for a row, by brute force: None is null."""
    if isinstance(expression, Literal):
        return expression.value
    if isinstance(expression, Column):
        return row[expression.name]
    values = [meaning(operand, row) for operand in expression.operands]
    if expression.operator in _LENIENT:
        return _LENIENT[expression.operator](*values)
    if None in values:
        return None
    with np.errstate(all="ignore"):
        return _STRICT[expression.operator](*values)


def _and(*values):
    return False if False in values else None if None in values else True


def _or(*values):
    return True if True in values else None if None in values else False


def _in(value, *items):
    if value is None:
        return None
    return True if value in [item for item in items if item is not None] else None if None in items else False


def _first(*values):
    return next((value for value in values if value is not None), None)


def _best(choose):
    def best(*values):
        known = [value for value in values if value is not None and not math.isnan(value)]
        return choose(known) if known else _first(*values)

    return best


def _divided(one, other):
    return float(np.divide(np.float64(one), np.float64(other)))


def _remainder(one, other):
    if isinstance(one, int) and isinstance(other, int):
        return None if other == 0 else int(math.fmod(one, other))
    return float(np.fmod(np.float64(one), np.float64(other)))


def _floor(value):
    return value if isinstance(value, int) or not math.isfinite(value) else float(math.floor(value))


_LENIENT = {
    "and": _and,
    "or": _or,
    "in": _in,
    "is null": lambda value: value is None,
    "coalesce": _first,
    "least": _best(min),
    "greatest": _best(max),
    "case": lambda condition, value, default: value if condition else default,
}
_STRICT = {
    "+": lambda one, other: one + other,
    "-": lambda one, other: one - other,
    "*": lambda one, other: one * other,
    "/": _divided,
    "%": _remainder,
    "negate": lambda value: -value,
    "abs": abs,
    "floor": _floor,
    "isnan": math.isnan,
    "not": lambda value: not value,
    "=": lambda one, other: one == other,
    "<>": lambda one, other: one != other,
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
}
