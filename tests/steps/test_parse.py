import sys

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciplat.errors import ArgumentError, SciplatError
from sciplat.steps.evaluate import evaluate
from sciplat.steps.parse import FUNCTIONS, parse_expression

WORDS = ["a", '"b c"', "1", "1.5", "'x'", "null", "true", "and", "or", "not", "in", "is", "like", "case"]
WORDS += ["between", "when", "then", "else", "end", "(", ")", ",", "+", "-", "*", "/", "%", "=", "<", "<>", "."]
WORDS += ["<=", ">", "abs", "select", "as", "--", "/*", "[", "]", ";", "::", "interval", "exists", "cast", "distinct"]
WORDS += ["from", "escape", "any", "{", "@", "$", "?"]


@pytest.mark.parametrize(
    ("text", "place", "told"),
    [
        ("mag < 18)", ")", "this does not belong here"),
        ("mag <", "<", "something is missing after this"),
        ("(mag < 18", "18", r"\) is missing"),
        ("a b", "b", "does not belong"),
        ("mag & 3", "&", "(?s)& is unknown.*and"),
        ("a && b", "&&", "(?s)unknown.*and"),
        ("! flag", "!", "(?s)unknown.*not"),
        ("a ** 2", "2", "does not belong"),
        ("a ^ 2", "^", r"(?s)\^ is unknown.*pow"),
        ("log(mag) < 3", "log", "(?s)no function log.*log10"),
        ("sqr(mag) < 3", "sqr", "(?s)no function sqr.*sqrt"),
        ("3 < count(*)", "count", "no function count"),
        ("mag--1 < 3", "--", "(?s)comments.*two dashes"),
        ("mag < 3 /* hi */", "/*", "comments"),
        ("-- hi", "--", "comments"),
        ("mag; drop table stars", ";", "; is unknown"),
        ("mag in (select mag from stars)", "mag f", "missing"),
        ("mag::int", "::", "unknown"),
        ("N'abc' = name", "N'abc'", "unknown"),
        ("name like 'a' escape 'b'", "escape", "does not belong"),
        ("mag[1]", "[", "unknown"),
        ("case when a then 1", "1", "END is missing"),
        ("a\n <  < b", None, "not supported"),
    ],
)
def test_the_place_of_an_error_is_marked(text, place, told):
    with pytest.raises(ArgumentError, match=told) as caught:
        parse_expression(text)
    if place is not None:
        lines = str(caught.value).splitlines()
        assert lines[1][lines[2].index("^") :].startswith(place)


WRONG = ["", "  \n", None, 5, b"a < 1", "a.b < 1", "(1, 2) = a", "*", "+", "in", "else", "mag in ()", "mag in (a)"]
WRONG += ["mag in b", "flag is true", "a < b < c", "a = b = c", "sqrt(1, 2)", "atan2(1)", "least()", "'a' 'b' = name"]
WRONG += ["1e = 1", "1e999", "mag < 'un", "case mag when 1 then 2 end", "name = '\ud800'", "{{ x }}", "abs mag"]
WRONG += ["a between 1", "select 1", "exists(select 1)", "__import__('os').system('true')", "(lambda: 1)()"]
WRONG += ["a if b else c", "x -> x", "a;", "\x00", "a < \x00"]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_expression_is_one_error(text):
    with pytest.raises(ArgumentError):
        parse_expression(text)


@settings(max_examples=500)
@given(st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join) | st.text(max_size=30))
def test_whatever_is_written_gives_an_expression_or_our_error(text):
    try:
        expression = parse_expression(text)
    except ArgumentError:
        return
    assert repr(parse_expression(str(expression))) == repr(expression)
    try:
        evaluate(expression, pa.table({"a": [1.0, None], "b c": ["x", "y"]}))
    except SciplatError:
        return


DEEP = ["(" * 5000 + "a" + ")" * 5000, "not " * 5000 + "a", "- " * 5000 + "a", "abs(" * 5000 + "a" + ")" * 5000]
DEEP += ["case when " * 3000 + "a" + " then 1 end" * 3000, "a = not " * 3000 + "a", "a + b - " * 3000 + "c"]
DEEP += ["(" * 30 + "a" + ")" * 30]


@pytest.mark.parametrize("text", DEEP, ids=range(8))
def test_what_is_nested_too_deep_is_one_error(text):
    with pytest.raises(ArgumentError, match="nested too deep"):
        parse_expression(text)


def test_a_deep_caller_gets_one_error_too():
    def deeper(left):
        return deeper(left - 1) if left else parse_expression("((((a))))")

    frames = 0
    frame = sys._getframe()
    while frame := frame.f_back:
        frames += 1
    with pytest.raises(ArgumentError, match="nested too deep"):
        deeper(sys.getrecursionlimit() - frames - 60)


def test_long_chains_and_lists_are_computed():
    table = pa.table({"n": range(3000)})
    chain = parse_expression(" or ".join(f"n = {number}" for number in range(1000)))
    assert sum(evaluate(chain, table).to_pylist()) == 1000
    assert len(chain.operands) == 1000
    listed = parse_expression(f"n in ({', '.join(str(10**18 + number) for number in range(5000))}, 7)")
    assert sum(evaluate(listed, table).to_pylist()) == 1
    total = parse_expression(" + ".join(["n"] * 1000))
    assert evaluate(total, table)[2].as_py() == 2000
    for expression in (chain, listed, total):
        assert parse_expression(str(expression)) == expression


def test_a_text_that_is_too_long_is_one_error():
    with pytest.raises(ArgumentError, match=r"(?s)too long.*join"):
        parse_expression(f"n in ({', '.join(map(str, range(10**5)))})")


def test_the_spelling_of_words_does_not_matter_but_that_of_columns_does():
    assert parse_expression("NOT Sqrt(Mag) IN (1) OR FALSE") == parse_expression("not sqrt(Mag) in (1) or false")
    assert parse_expression("Mag < 1") != parse_expression("mag < 1")


def test_functions_are_what_is_said():
    names = "abs sqrt exp ln log10 floor ceil round sin cos tan asin acos atan atan2 radians degrees least greatest"
    assert set(FUNCTIONS) == {*names.split(), "coalesce", "isnan", "pow"}
