import itertools
import math
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciplat.errors import ArgumentError, ColumnError
from sciplat.steps import aggregate
from sciplat.steps.aggregate import Aggregation, parse_measure

SCHEMA = pa.schema(
    [
        pa.field("band", pa.string(), metadata={"unit": "", "ucd": "instr.bandpass"}),
        pa.field("field", pa.int32()),
        pa.field("mag", pa.float64(), metadata={"unit": "mag", "description": "in no band"}),
        pa.field("n", pa.int64()),
    ]
)
WHAT = {
    "rows": "count()",
    "mags": "count(mag)",
    "total": "sum(mag)",
    "mean": "mean(mag)",
    "std": "std(mag)",
    "var": "var(n)",
    "low": "min(mag)",
    "high": "max(n)",
    "all": "sum(n)",
    "first": "min(band)",
    "last": "max(band)",
}

magnitudes = st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32)
rows = st.lists(
    st.tuples(
        st.sampled_from(["g", "r", "é", "", None]),
        st.integers(-2, 2) | st.none(),
        magnitudes,
        st.integers(-(2**55), 2**55) | st.none(),
    ),
    max_size=40,
)


def table_of(rows):
    return pa.table([list(column) for column in zip(*rows, strict=True)] or [[]] * 4, schema=SCHEMA)


def aggregation(by, **what):
    return Aggregation(tuple(by), tuple(parse_measure(name, text, SCHEMA) for name, text in what.items()))


def aggregated(table, by, **what):
    plan = aggregation(by, **what)
    return plan.result(plan(table), table.schema)


def expected(rows, places):
    """Return the aggregates by exact arithmetic, row by row."""
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[place] for place in places)].append(row)
    result = []
    for key in sorted(groups, key=lambda key: [(part is None, part or type(part)()) for part in key]):
        bands, mags, ns = ([r[i] for r in groups[key] if r[i] is not None] for i in (0, 2, 3))
        mean = sum(map(Fraction, mags)) / len(mags) if mags else None
        result.append(
            (
                *key,
                len(groups[key]),
                len(mags),
                float(sum(map(Fraction, mags))) if mags else None,
                None if mean is None else float(mean),
                float(math.sqrt(variance(mags))) if len(mags) > 1 else None,
                float(variance(ns)) if len(ns) > 1 else None,
                min(mags, default=None),
                max(ns, default=None),
                sum(ns) if ns else None,
                min(bands, default=None),
                max(bands, default=None),
            )
        )
    return result


def variance(values):
    mean = sum(map(Fraction, values)) / len(values)
    return sum((Fraction(value) - mean) ** 2 for value in values) / (len(values) - 1)


@pytest.mark.parametrize("by", [["band"], ["field"], ["field", "band"], []], ids=str)
@given(rows=rows)
def test_aggregates_are_those_of_exact_arithmetic(rows, by):
    found = aggregated(table_of(rows), by, **WHAT)
    wanted = expected(rows, [SCHEMA.names.index(name) for name in by])
    if not by and not rows:
        wanted = [(0, 0, *[None] * 9)]
    deviations = found["std"].to_pylist()
    place = found.schema.get_field_index("std")
    assert [tuple(row.values())[:place] for row in found.to_pylist()] == [row[:place] for row in wanted]
    assert [tuple(row.values())[place + 1 :] for row in found.to_pylist()] == [row[place + 1 :] for row in wanted]
    # the root of a rounded variance is the last bit off at most, where it does not underflow
    for deviation, row in zip(deviations, wanted, strict=True):
        assert deviation == row[place] or deviation == pytest.approx(row[place], rel=1e-15, abs=1e-160)


@given(rows=rows, cuts=st.lists(st.integers(0, 40), max_size=5), random=st.randoms(use_true_random=False))
def test_no_partition_and_no_order_changes_a_bit(rows, cuts, random):
    plan, whole = aggregation(["field", "band"], **WHAT), table_of(rows)
    random.shuffle(rows)
    table = table_of(rows)
    ends = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    parts = [plan(table.slice(a, b - a)) for a, b in itertools.pairwise(ends)]
    random.shuffle(parts)
    while len(parts) > 1:
        count = random.randint(2, len(parts))
        parts = [*parts[count:], plan.merged(parts[:count])]
    assert plan.result(parts[0], SCHEMA).equals(plan.result(plan(whole), SCHEMA), check_metadata=True)


def test_units_stay_where_they_make_sense():
    found = aggregated(table_of([("g", 1, 20.0, 1)]), ["band"], n="count(mag)", mean="mean(mag)", var="var(mag)")
    assert [found.schema.field(name).metadata for name in ("n", "mean", "var")] == [None, {b"unit": b"mag"}, None]
    assert found.schema.field("band").metadata == SCHEMA.field("band").metadata


def test_nan_and_both_zeros():
    values = [math.nan, 0.0, -0.0, np.float64(-math.nan), None, 1.0]
    table = pa.table({"x": values, "y": [1, 2, 3, 4, 5, 6]})
    plan = Aggregation(("x",), tuple(parse_measure(f, f"{f}(x)", table.schema) for f in ("min", "sum", "count")))
    found = plan.result(plan(table), table.schema)
    assert str(found["x"].to_pylist()) == "[0.0, 1.0, nan, None]"
    assert str(found["sum"].to_pylist()) == "[0.0, 1.0, nan, None]"
    assert str(found["min"].to_pylist()) == "[0.0, 1.0, nan, None]"
    assert found["count"].to_pylist() == [2, 1, 2, 0]
    mixed = Aggregation((), tuple(parse_measure(f, f"{f}(x)", table.schema) for f in ("min", "max", "sum")))
    assert str(mixed.result(mixed(table), table.schema).to_pylist()) == "[{'min': 0.0, 'max': 1.0, 'sum': nan}]"


def test_booleans_times_and_dictionaries():
    table = pa.table(
        {
            "good": [True, False, None, True],
            "when": pa.array([3, 1, 2, None], pa.timestamp("s")),
            "band": pa.array(["r", "g", "r", "g"]).dictionary_encode(),
            "short": pa.array([1.5, 2.5, math.nan, None], pa.float32()),
        }
    )
    what = {"good": "sum(good)", "share": "mean(good)", "begin": "min(when)", "peak": "max(short)", "any": "max(good)"}
    plan = Aggregation(("band",), tuple(parse_measure(name, text, table.schema) for name, text in what.items()))
    found = plan.result(plan.merged([plan(table.slice(0, 2)), plan(table.slice(2))]), table.schema)
    assert found["good"].to_pylist() == [1, 1]
    assert found["share"].to_pylist() == [0.5, 1.0]
    assert found["begin"].cast(pa.int64()).to_pylist() == [1, 2]
    assert found["peak"].to_pylist() == [2.5, 1.5]
    assert (found.schema.field("peak").type, found.schema.field("any").type) == (pa.float32(), pa.bool_())
    assert found["band"].cast(pa.string()).to_pylist() == ["g", "r"]


def test_integer_sums_stay_integers_or_fail():
    table = pa.table({"n": pa.array([2**63 - 1, 1, -1], pa.int64())})
    plan = Aggregation((), (parse_measure("total", "sum(n)", table.schema),))
    assert plan.result(plan(table), table.schema)["total"].to_pylist() == [2**63 - 1]
    with pytest.raises(ArgumentError, match="does not fit 64 bits"):
        plan.result(plan(table.slice(0, 2)), table.schema)


def test_too_many_groups_are_refused(monkeypatch):
    monkeypatch.setattr(aggregate, "MOST_GROUPS", 3)
    plan, table = Aggregation(("n",), ()), pa.table({"n": [1, 2, 3, 4]})
    with pytest.raises(ArgumentError, match="more than 3 groups"):
        plan(table)
    with pytest.raises(ArgumentError, match="more than 3 groups"):
        plan.merged([plan(table.slice(0, 2)), plan(table.slice(2))])


@pytest.mark.parametrize("text", ["median(mag)", "mean", "mean()", "mag", 3, "mean(band)", "sum(mag", ""])
def test_what_makes_no_sense_is_refused(text):
    with pytest.raises(ArgumentError):
        parse_measure("x", text, SCHEMA)


@pytest.mark.parametrize("text", ["mean(magnitude)", "count(nothing)", "max(nothing)"])
def test_a_column_that_is_not_there_is_named(text):
    with pytest.raises(ColumnError, match="no column"):
        parse_measure("x", text, SCHEMA)


def test_blanks_capitals_and_odd_names_are_understood():
    schema = pa.schema([("E(B-V)", pa.float64())])
    measure = parse_measure("x", " MEAN ( E(B-V) ) ", schema)
    assert (measure.function, measure.column) == ("mean", "E(B-V)")


def test_half_precision_numbers_are_keys_and_have_extremes():
    half = pa.array(np.array([1.5, -0.0, 0.0, np.nan, 1.5], np.float16), mask=np.array([False] * 4 + [True]))
    table = pa.table({"h": half, "x": half})
    measures = (parse_measure("n", "count()", table.schema), parse_measure("low", "min(x)", table.schema))
    plan = Aggregation(("h",), measures)
    found = plan.result(plan.merged([plan(table), plan(table.slice(1))]), table.schema)
    keys = [0.0, 1.5, math.nan, None]
    assert str(found["h"].to_pylist()) == str(found["low"].to_pylist()) == str(keys)
    assert found["n"].to_pylist() == [4, 1, 2, 2]
    assert found.schema.types == [pa.float16(), pa.int64(), pa.float16()]
