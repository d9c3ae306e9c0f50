import datetime as dt
import operator

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciplat.errors import ArgumentError
from sciplat.steps.evaluate import evaluate, result_type
from sciplat.steps.parse import parse_expression

NOON = dt.datetime.fromisoformat("2020-01-31T12:00:00")
TIMES = [NOON - dt.timedelta(seconds=1), NOON, NOON + dt.timedelta(days=1), None]
DAYS = [dt.date(2020, 1, 30), dt.date(2020, 1, 31), dt.date(2020, 2, 1), None]
CLOCK = [dt.time(11, 59, 59), dt.time(12), dt.time(23, 59), None]
TABLE = pa.table(
    {
        "d32": pa.array(DAYS, pa.date32()),
        "d64": pa.array(DAYS, pa.date64()),
        **{unit: pa.array(TIMES, pa.timestamp(unit)) for unit in ("s", "ms", "us", "ns")},
        "zoned": pa.array(TIMES, pa.timestamp("us", "UTC")),
        "paris": pa.array(TIMES, pa.timestamp("ms", "Europe/Paris")),
        "t32": pa.array(CLOCK, pa.time32("s")),
        "t64": pa.array(CLOCK, pa.time64("ns")),
        "old": pa.array([dt.date(1, 1, 1), dt.date(1969, 12, 31), dt.date(9999, 12, 31), None]),
    }
)


def values(text):
    expression = parse_expression(text)
    assert result_type(expression, TABLE.schema) == pa.bool_()
    return evaluate(expression, TABLE).to_pylist()


@pytest.mark.parametrize("column", ["d32", "d64"])
def test_dates_are_compared_with_texts(column):
    assert values(f"{column} > '2020-01-30'") == [False, True, True, None]
    assert values(f"'2020-01-31' = {column}") == [False, True, False, None]
    assert values(f"{column} between '2020-01-30' and '2020-01-31'") == [True, True, False, None]
    assert values(f"{column} in ('2020-02-01', '2020-01-30T12:00:00')") == [False, False, True, None]
    assert values(f"{column} < '2020-01-31T00:00:00.000000001'") == [True, True, False, None]
    assert values(f"{column} = null") == [None] * 4


@pytest.mark.parametrize("column", ["s", "ms", "us", "ns"])
def test_times_are_compared_exactly_with_texts_of_any_precision(column):
    assert values(f"{column} >= '2020-01-31 12:00'") == [False, True, True, None]
    assert values(f"{column} < '2020-02-01'") == [True, True, False, None]
    assert values(f"{column} < '2020-01-31T12:00:00.000000001'") == [True, True, False, None]
    assert values(f"{column} > '2020-01-31T11:59:59.999999999'") == [False, True, True, None]
    assert values(f"{column} in ('2020-01-31T12', '2020-01-31T12:00:00.000000001', null)") == [None, True, None, None]
    assert values(f"{column} < '9999-12-31'") == [True, True, True, None]
    assert values(f"'0001-01-01' < {column}") == [True, True, True, None]


def test_times_with_a_zone_are_moments():
    for column in ("zoned", "paris"):
        assert values(f"{column} >= '2020-01-31T12:00:00Z'") == [False, True, True, None]
        assert values(f"{column} = '2020-01-31T13:00:00+01:00'") == [False, True, False, None]
    with pytest.raises(ArgumentError, match=r"(?s)has no time zone.*'2020-01-31T00:00:00Z'"):
        values("zoned > '2020-01-31'")
    for column in ("us", "d32"):
        with pytest.raises(ArgumentError, match="has a time zone, but the column has none"):
            values(f"{column} > '2020-01-31T12:00:00Z'")


@pytest.mark.parametrize("column", ["t32", "t64"])
def test_times_of_day_are_compared_with_texts(column):
    assert values(f"{column} < '12:00'") == [True, False, False, None]
    assert values(f"{column} > '11:59:59.5'") == [False, True, True, None]


@pytest.mark.parametrize("text", ["yesterday", "", "2020", "2020-1-1", "2020-02-30", "12:30", "2020-01-01T25:00"])
def test_a_text_that_is_no_date_is_refused(text):
    for column in ("d32", "us", "zoned"):
        with pytest.raises(ArgumentError, match=r"(?s)none in ISO 8601.*'2020-01-31'"):
            values(f"{column} > '{text}'")
    if text != "12:30":
        with pytest.raises(ArgumentError, match=r"(?s)none in ISO 8601.*'12:30'"):
            values(f"t64 in ('{text}')")


def test_dates_from_year_1_to_9999_have_their_order():
    assert values("old < '1970-01-01'") == [True, True, False, None]
    assert values("old > '1969-12-31T12:00'") == [False, False, True, None]
    assert values("old = '0001-01-01'") == [True, False, False, None]


def test_the_expression_keeps_its_text():
    expression = parse_expression("d32 > '2020-01-31T00:00'")
    assert str(expression) == "d32 > '2020-01-31T00:00'"
    assert parse_expression(str(expression)) == expression


MOMENTS = st.datetimes()
SIGNS = {"=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@given(st.lists(MOMENTS, min_size=1, max_size=4), MOMENTS, st.sampled_from(list(SIGNS)), st.sampled_from(["s", "us"]))
def test_they_are_compared_as_python_compares_them(times, moment, sign, unit):
    times = [time.replace(microsecond=0) if unit == "s" else time for time in times]
    table = pa.table({"taken": pa.array(times, pa.timestamp(unit)), "day": [time.date() for time in times]})
    text = f"'{moment.isoformat()}'"
    days = [dt.datetime.combine(time, dt.time()) for time in times]
    for column, operands in (("taken", times), ("day", days)):
        found = evaluate(parse_expression(f"{column} {sign} {text}"), table).to_pylist()
        assert found == [SIGNS[sign](each, moment) for each in operands]
