import operator
import pickle

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciplat.steps.evaluate import evaluate
from sciplat.steps.expression import Call, Column, Literal
from sciplat.steps.parse import parse_expression
from tests.steps.expression_strategies import tables, texts_of, truths

ODD = "dec date order end And 1st with\"quote it's é interval filter abs select".split()  # noqa: SIM905


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("mag<18 AND(parallax>1)", "mag < 18 and parallax > 1"),
        ("a == 1 or b != 2 and not c <> 3", "a = 1 or b <> 2 and not c <> 3"),
        ("(a or b) and (c and (d and e))", "(a or b) and c and d and e"),
        ("a between 1 and 2", "a >= 1 and a <= 2"),
        ("a not between 1 and 2", "not (a >= 1 and a <= 2)"),
        ("a not in (1, -2.50, 'x', null, TRUE)", "not a in (1, -2.5, 'x', null, true)"),
        ("a is not null", "not a is null"),
        ("a not like 'NGC%' and b ilike 'it''s'", "not a like 'NGC%' and b ilike 'it''s'"),
        ("a - (b - c) - d * (e + f)", "a - (b - c) - d * (e + f)"),
        ("((a - b) - c) + d + (e + f)", "a - b - c + d + (e + f)"),
        ("- -a - -1 - (-(b))", "- -a - -1 - -b"),
        ("-(a + b) % 2", "-(a + b) % 2"),
        ("+5 * -a", "5 * -a"),
        ("Pow(a, .5) / LOG10(1e22)", "pow(a, 0.5) / log10(1e+22)"),
        ("case when a then 1 when b then 2 end", "case when a then 1 when b then 2 else null end"),
        ('"odd name" + "plain"', '"odd name" + plain'),
        ("(a = b) = (c < d)", "(a = b) = (c < d)"),
        ("1 = 1.0", "1 = 1.0"),
    ],
)
def test_an_expression_has_one_text(text, canonical):
    expression = parse_expression(text)
    assert str(expression) == canonical
    assert repr(parse_expression(canonical)) == repr(expression)


@given(truths)
def test_the_text_of_any_tree_gives_it_back(tree):
    expression = parse_expression(str(tree))
    assert repr(parse_expression(str(expression))) == repr(expression)
    assert expression.columns == tree.columns
    assert pickle.loads(pickle.dumps(expression)) == expression


@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(ODD) | st.text(st.characters(codec="utf-8")))
def test_any_text_and_any_name_of_a_column_come_back(text, name):
    assert parse_expression(str(Literal(text))) == Literal(text)
    tree = Call("or", (Call(">", (Column(name), Literal(1))), Call("isnan", (Column(name),))))
    assert parse_expression(str(tree)) == tree


@pytest.mark.parametrize("name", ["dec", "date", "order", "index", "interval", "filter", "abs", "row", "über"])
def test_what_is_a_keyword_elsewhere_is_a_column_here(name):
    assert parse_expression(f"not {name} - 3 < {name}").columns == (name,)


def test_columns_are_named_once_in_their_order():
    assert parse_expression('b + a > c or a in (1) and "d d" is null').columns == ("b", "a", "c", "d d")


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("mag < 18 and 1 <= plx and dec between -5 and 5", {"mag": (None, 18), "plx": (1, None), "dec": (-5, 5)}),
        ("a > 1 and (a >= 2 and a < 9) and a <= 7", {"a": (2, 7)}),
        ("name in ('b', 'a') and a in (3, 1.5, null)", {"name": ("a", "b"), "a": (1.5, 3)}),
        ("a = 3 and b or c < 2", {}),
        ("not a < 3 and b <> 2 and flag = true and a < null and a + 1 < 3 and a < b", {}),
        ("a < 3 and (a > 1 or a < 0)", {"a": (None, 3)}),
        ("name = 'x'", {"name": ("x", "x")}),
        ("a >= 9223372036854775808", {"a": (2**63, None)}),
        ("a >= -9223372036854775809", {}),
        ("a <= 9007199254740993", {"a": (None, 9007199254740993)}),
        ("a >= 9007199254740993", {"a": (9007199254740992.0, None)}),
        ("name in (null)", {}),
    ],
)
def test_bounds_follow_from_what_must_be_true(text, bounds):
    assert parse_expression(text).bounds() == bounds


NUMBERS = st.sampled_from([2**53 + 1, -(2**53) - 1, 10**18 + 1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1])
NUMBERS |= st.sampled_from([2**64, 2**64 + 1, 10**30, -(10**30)])
NUMBERS |= st.sampled_from([0.5, -2.5, 0.1, 2.0**53, 1e18, 2.0**63, -(2.0**63), 1e30, -0.0]) | st.integers(-3, 3)
COMPARED = st.builds(
    lambda column, sign, value, mirrored: Call(sign, (value, column) if mirrored else (column, value)),
    st.sampled_from("nuab").map(Column),
    st.sampled_from(["=", "<", "<=", ">", ">="]),
    NUMBERS.map(Literal),
    st.booleans(),
)
LISTED = st.builds(
    lambda column, values: Call("in", (column, *values)),
    st.sampled_from("nuab").map(Column),
    st.lists(NUMBERS.map(Literal), min_size=1, max_size=3),
)


@settings(max_examples=300)
@given(st.lists(COMPARED | LISTED, min_size=1, max_size=3), tables())
def test_no_row_that_is_kept_lies_outside_the_bounds(conditions, table):
    expression = conditions[0] if len(conditions) == 1 else Call("and", tuple(conditions))
    kept = table.filter(evaluate(expression, table))
    for name, (low, high) in expression.bounds().items():
        for value in kept[name].to_pylist():
            assert value is not None
            assert low is None or value >= low
            assert high is None or value <= high


@given(COMPARED | LISTED, tables())
def test_integers_are_compared_exactly(condition, table):
    """With floats of any size; columns of floats are compared as floats."""
    (name,) = condition.columns
    compare = {"=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}

    def brute(value):
        if value is None:
            return None
        operands = [value if isinstance(each, Column) else each.value for each in condition.operands]
        if isinstance(value, float):
            operands = [float(each) for each in operands]
        if condition.operator == "in":
            return operands[0] in operands[1:]
        one, other = operands
        return compare[condition.operator](one, other)  # Python compares integers with floats exactly

    assert evaluate(condition, table).to_pylist() == [brute(value) for value in table[name].to_pylist()]


def test_texts_are_compared_as_their_bounds_are():
    table = pa.table({"name": ["a", "é", "z", "Z", "\U0001f600", "\uffff", None]})
    for value in texts_of(table["name"]):
        expression = Call("<=", (Column("name"), Literal(value)))
        low, high = expression.bounds()["name"]
        assert low is None
        assert table.filter(evaluate(expression, table))["name"].to_pylist() == [
            name for name in table["name"].to_pylist() if name is not None and name <= high
        ]
