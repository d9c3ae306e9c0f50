import decimal
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciplat.errors import ArgumentError, ColumnError
from sciplat.steps.evaluate import evaluate, result_type
from sciplat.steps.parse import FUNCTIONS, parse_expression
from tests.steps.expression_strategies import meaning, numbers, tables, truths

NAN, INF = math.nan, math.inf
TABLE = pa.table(
    {
        "mag": pa.array([17.0, 19.5, None, NAN]),
        "n": pa.array([5, -7, None, 0], pa.int32()),
        "f": pa.array([0.1, 1.5, None, NAN], pa.float32()),
        "u": pa.array([1, 2**64 - 1, None, 7], pa.uint64()),
        "flag": pa.array([True, False, None, True]),
        "name": pa.array(["NGC 1", "it's", None, "a\nb"]),
        "band": pa.array(["g", "r", None, "g"]).dictionary_encode(),
        "taken": pa.array([0, 1, None, 2], pa.timestamp("ms")),
        "curve": pa.array([[1.0], [], None, [2.0]]),
    }
)


def values(text, table=TABLE):
    expression = parse_expression(text)
    result = evaluate(expression, table)
    assert len(result) == table.num_rows
    assert result_type(expression, table.schema) == result.type
    return result.to_pylist()


def same(given_values, expected):
    """Compare lists with NaN and the types of their values."""
    return repr([float(v) if isinstance(v, np.floating) else v for v in given_values]) == repr(expected)


SMALL = tables(integers=st.integers(-9, 9))


@settings(max_examples=150)
@given(truths, SMALL)
def test_conditions_mean_what_they_mean_row_by_row(tree, table):
    expected = [meaning(tree, row) for row in table.to_pylist()]
    given_values = evaluate(parse_expression(str(tree)), table).to_pylist()
    assert given_values == [None if value is None else bool(value) for value in expected]


@settings(max_examples=150)
@given(numbers, SMALL)
def test_numbers_mean_what_they_mean_row_by_row(tree, table):
    expected = [meaning(tree, row) for row in table.to_pylist()]
    result = evaluate(parse_expression(str(tree)), table)
    for value, wanted in zip(result.to_pylist(), expected, strict=True):
        assert (value is None) == (wanted is None)
        assert wanted is None or value == wanted or (math.isnan(value) and math.isnan(wanted))


@given(truths, SMALL, st.integers(0, 8))
def test_rows_are_computed_one_by_one(tree, table, cut):
    expression = parse_expression(str(tree))
    parts = [evaluate(expression, part).to_pylist() for part in (table.slice(0, cut), table.slice(cut))]
    assert parts[0] + parts[1] == evaluate(expression, table).to_pylist()
    assert result_type(expression, table.schema) in (pa.bool_(), pa.null())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mag < 18", [True, False, None, False]),
        ("not mag < 18", [False, True, None, True]),
        ("mag <> 17", [False, True, None, True]),
        ("mag = null", [None] * 4),
        ("mag is null", [False, False, True, False]),
        ("curve is not null", [True, True, False, True]),
        ("null = null", [None] * 4),
        ("mag > 100 and null", [False, False, None, False]),
        ("mag between 17 and 18", [True, False, None, False]),
        ("mag in (17, null)", [True, None, None, None]),
        ("mag not in (17, 19.5)", [False, False, None, True]),
        ("n in (5.0, 0.5, 1e30, -7)", [True, True, None, False]),
        ("-0.0 in (0)", [True] * 4),
        ("null in (1)", [None] * 4),
        ("f in (0.1)", [False, False, None, False]),
        ("f = 0.1", [False, False, None, False]),
        ("f < 0.2", [True, False, None, False]),
        ("u = 18446744073709551615", [False, True, None, False]),
        ("u in (18446744073709551615, 7.0)", [False, True, None, True]),
        ("u > -1", [True, True, None, True]),
        ("flag", [True, False, None, True]),
        ("flag = true", [True, False, None, True]),
        ("flag in (false)", [False, True, None, False]),
        ("name = 'it''s'", [False, True, None, False]),
        ("name < 'a'", [True, False, None, False]),
        ("name like 'NGC%'", [True, False, None, False]),
        ("name like 'a_b'", [False, False, None, True]),
        ("name not ilike 'ngc _'", [False, True, None, True]),
        ("null like 'a'", [None] * 4),
        ("band = 'g'", [True, False, None, True]),
        ("band in ('r')", [False, True, None, False]),
        ("taken = taken", [True, True, None, True]),
        ("isnan(mag) or isnan(n)", [False, False, None, True]),
        ("true", [True] * 4),
        ("n + 1", [6, -6, None, 1]),
        ("n - mag", [-12.0, -26.5, None, NAN]),
        ("n / 0", [INF, -INF, None, NAN]),
        ("5 / 2", [2.5] * 4),
        ("n % 3", [2, -1, None, 0]),
        ("-7 % n", [-2, 0, None, None]),
        ("7 % 4", [3] * 4),
        ("mag % 0", [NAN, NAN, None, NAN]),
        ("5.5 % -2", [1.5] * 4),
        ("u % 10", [1, 5, None, 7]),
        ("u - 1", [0, 2**64 - 2, None, 6]),
        ("-n", [-5, 7, None, 0]),
        ("abs(n)", [5, 7, None, 0]),
        ("round(n)", [5, -7, None, 0]),
        ("round(mag)", [17.0, 20.0, None, NAN]),
        ("round(-2.5)", [-3.0] * 4),
        ("floor(-mag)", [-17.0, -20.0, None, NAN]),
        ("ceil(mag)", [17.0, 20.0, None, NAN]),
        ("pow(n, 2)", [25.0, 49.0, None, 0.0]),
        ("sqrt(n)", [math.sqrt(5), NAN, None, 0.0]),
        ("ln(n)", [math.log(5), NAN, None, -INF]),
        ("exp(1000)", [INF] * 4),
        ("least(mag, 18, null)", [17.0, 18.0, 18.0, 18.0]),
        ("greatest(mag, n)", [17.0, 19.5, None, 0.0]),
        ("greatest(name, 'b')", ["b", "it's", "b", "b"]),
        ("coalesce(mag, n, 1)", [17.0, 19.5, 1.0, NAN]),
        ("coalesce(null, null)", [None] * 4),
        ("coalesce(name, '?')", ["NGC 1", "it's", "?", "a\nb"]),
        ("case when mag < 18 then 1 when n < 0 then 2.5 end", [1.0, 2.5, None, None]),
        ("case when flag then 'a' else name end", ["a", "it's", None, "a"]),
        ("1.5", [1.5] * 4),
    ],
)
def test_operators_and_functions(text, expected):
    assert same(values(text), expected)


TRIGONOMETRY = ["sin", "cos", "tan", "exp", "radians", "degrees", "atan", "asin", "acos", "log10", "sqrt", "ln"]


@pytest.mark.parametrize("name", TRIGONOMETRY)
def test_functions_agree_with_numpy(name):
    x = np.array([0.3, -0.9, 1.0, 0.0, 7.0, NAN])
    numpy_name = {"ln": "log", "asin": "arcsin", "acos": "arccos", "atan": "arctan"}.get(name, name)
    with np.errstate(all="ignore"):
        expected = getattr(np, numpy_name)(x)
    table = pa.table({"x": x})
    np.testing.assert_allclose(values(f"{name}(x)", table), expected, rtol=1e-15)
    assert result_type(parse_expression(f"{name}(x)"), pa.schema([("x", pa.float32())])) == pa.float32()
    np.testing.assert_allclose(values("atan2(x, 2)", table), np.arctan2(x, 2), rtol=1e-15)


def test_every_function_is_computed():
    for name, (least, _) in FUNCTIONS.items():
        assert len(values(f"{name}({', '.join(['mag'] * least)})")) == 4


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("n + n", pa.int64()),
        ("u + 1", pa.uint64()),
        ("u + n", pa.float64()),
        ("u + 1.0", pa.float64()),
        ("f - f", pa.float32()),
        ("f / f", pa.float32()),
        ("f + 1", pa.float64()),
        ("f - mag", pa.float64()),
        ("n / n", pa.float64()),
        ("n + null", pa.int64()),
        ("half * half", pa.float32()),
        ("price * 2", pa.float64()),
        ("view", pa.large_string()),
        ("band", pa.string()),
        ("null", pa.null()),
        ("1", pa.int64()),
        ("9223372036854775808", pa.uint64()),
        ("18446744073709551616", pa.float64()),
    ],
)
def test_types_follow_from_the_schema(text, kind):
    schema = TABLE.schema.append(pa.field("half", pa.float16())).append(pa.field("price", pa.decimal128(9, 2)))
    assert result_type(parse_expression(text), schema.append(pa.field("view", pa.string_view()))) == kind


def test_decimals_and_views_have_their_values():
    prices, view = [decimal.Decimal("1.25"), None], pa.array(["a", "b"], pa.string_view())
    table = pa.table({"price": prices, "view": view})
    assert values("price * 2", table) == [2.5, None]
    assert values("view like 'a%'", table) == [True, False]


@pytest.mark.parametrize("text", ["n64 + 1", "n64 * 2", "-2 - n64", "-u", "u - 3", "abs(-n64 - 1)"])
def test_integers_that_overflow_are_an_error(text):
    table = pa.table({"n64": pa.array([2**63 - 1]), "u": pa.array([2**64 - 1 if text == "-u" else 1], pa.uint64())})
    if text == "abs(-n64 - 1)":
        assert values("-n64 - 1", table) == [-(2**63)]
    with pytest.raises(ArgumentError, match=r"(?s)cannot be computed.*1\.0"):
        values(text, table)
    assert math.isfinite(values(text.replace("n64", "(n64 * 1.0)").replace("u", "(u * 1.0)"), table)[0])


EDGES = pa.table(
    {
        "j": pa.array([2**63 - 1, -(2**63), None]),
        "u": pa.array([2**64 - 1, 10**19 + 1, None], pa.uint64()),
    }
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("j < 9223372036854775808", [True, True, None]),
        ("9223372036854775808 = j", [False, False, None]),
        ("j <> 9223372036854775808.0", [True, True, None]),
        ("9223372036854775808 <= j", [False, False, None]),
        ("j > -9223372036854775809", [True, True, None]),
        ("j = -9223372036854775809", [False, False, None]),
        ("j = -9.223372036854775808e18", [False, True, None]),
        ("j in (9223372036854775808, -9223372036854775809)", [False, False, None]),
        ("j between 9223372036854775807 and 1e30", [True, False, None]),
        ("j < -1e30", [False, False, None]),
        ("u < 18446744073709551616", [True, True, None]),
        ("u = 18446744073709551616", [False, False, None]),
        ("u = 1e19", [False, False, None]),
        ("u > 1e19", [True, True, None]),
        ("u between -0.5 and 10000000000000000001", [False, True, None]),
        ("u >= -9223372036854775809", [True, True, None]),
        ("5 < 9223372036854775808", [True, True, True]),
    ],
)
def test_integers_are_compared_exactly_at_the_edge_of_their_type(text, expected):
    assert values(text, EDGES) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name < 3", r"(?s)name < 3.*name is text \(string\), 3 is a number.*single quotes"),
        ("mag and 5", r"(?s)mag is a number \(double\).*mag > 5"),
        ("not mag", r"mag is a number"),
        ("mag = true", r"true is a truth value"),
        ("mag + name", r"name is text"),
        ("flag * 2", r"flag is a truth value"),
        ("sqrt(name)", r"sqrt\(name\).*\n.*name is text"),
        ("mag in (1, 'a')", r"'a' is text"),
        ("name like name", r"(?s)pattern in single quotes"),
        ("mag like '1%'", r"mag is a number"),
        ("name like null", r"name is text"),
        ("coalesce(mag, 'none')", r"'none' is text"),
        ("case when mag then 1 end", r"mag is a number"),
        ("taken > 5", r"taken is timestamp\[ms\]"),
        ("taken < name", r"taken is timestamp\[ms\]"),
        ("taken in ('2020-01-01', 5)", r"5 is a number"),
        ("taken + 5", r"taken is timestamp\[ms\]"),
        ("curve = curve", r"curve is list"),
        ("greatest(flag, true)", r"flag is a truth value"),
        ("isnan(name)", r"name is text"),
    ],
)
def test_types_that_do_not_fit_are_named(text, told):
    for table in (TABLE, TABLE.slice(0, 0)):
        with pytest.raises(ArgumentError, match=told):
            evaluate(parse_expression(text), table)


@pytest.mark.parametrize(
    ("name", "hint"), [("Mag", "mag: names are case-sensitive"), ("nam", "name"), ("M31", "single quotes")]
)
def test_a_column_that_is_not_there_is_named_with_its_like(name, hint):
    with pytest.raises(ColumnError, match=rf"(?s)no column '{name}'.*mag, n, f.*{hint}"):
        evaluate(parse_expression(f'"{name}" < 3'), TABLE)
