"""Expressions on the columns of a table, as plans hold them: small trees that are text again and imply intervals.

`parse.py` makes them from text, `evaluate.py` computes them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Value = bool | int | float | str | None
Bounds = dict[str, tuple[Any, Any]]  # of columns: inclusive low and high, None where it is open

RESERVED = frozenset("and or not between in is null true false like ilike case when then else end".split())  # noqa: SIM905
COMPARISONS = ("=", "<>", "<", "<=", ">", ">=")
# how tightly operators hold their operands; functions and `case` need no parentheses around them
_BINDING = {"or": 1, "and": 2, "not": 3, "+": 5, "-": 5, "*": 6, "/": 6, "%": 6, "negate": 7}
_BINDING |= dict.fromkeys((*COMPARISONS, "in", "is null", "like", "ilike"), 4)
_MIRRORED = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_INT64_START = -(2**63)


@dataclass(frozen=True)
class Expression:
    """What is computed for each row: a Literal, a Column or a Call.

    ``str(expression)`` is its one canonical text: parsed again, it gives the same tree. Numbers stay as they were
    written: `a < 1` and `a < 1.0` are two expressions, because `a * 1` and `a * 1.0` have different types.
    """

    def parts(self) -> Iterator["Expression"]:
        """Yield the expression and all that it is made of."""
        yield self

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that it needs, in the order in which they first stand there."""
        return tuple(dict.fromkeys(part.name for part in self.parts() if isinstance(part, Column)))

    def bounds(self) -> Bounds:
        """Return the intervals of columns outside which it is never true, for an expression that fits its table.

        Returns
        -------
        dict
            Column to inclusive (low, high), None where it is open. Columns that it says nothing of are left out.
        """
        found: Bounds = {}
        for condition in _conditions(self):
            found = common_bounds(found, _interval(condition))
        return found


@dataclass(frozen=True)
class Literal(Expression):
    """A number, a text, true, false or null."""

    value: Value

    def __str__(self) -> str:
        if isinstance(self.value, str):
            return "'" + self.value.replace("'", "''") + "'"
        if self.value is None or isinstance(self.value, bool):
            return {None: "null", True: "true", False: "false"}[self.value]
        return repr(self.value)


@dataclass(frozen=True)
class Column(Expression):
    """The value of a column."""

    name: str

    def __str__(self) -> str:
        plain = self.name.isascii() and self.name.isidentifier() and self.name.lower() not in RESERVED
        return self.name if plain else '"' + self.name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Call(Expression):
    """An operator or a function with its operands.

    Parameters
    ----------
    operator : str
        As it is written; "negate" for a minus sign before its operand, "case" for conditions and values in turn, the
        value of `else` last. Chains hold all their operands: `a + b + c` is one call.
    operands : tuple of Expression
    """

    operator: str
    operands: tuple[Expression, ...]

    def parts(self) -> Iterator[Expression]:
        """Yield the call and all that it is made of."""
        yield self
        for operand in self.operands:
            yield from operand.parts()

    def __str__(self) -> str:
        operator, words = self.operator, [self._word(place) for place in range(len(self.operands))]
        if operator == "not":
            return f"not {words[0]}"
        if operator == "negate":
            return f"- {words[0]}" if words[0].startswith("-") else f"-{words[0]}"  # two dashes begin a comment
        if operator == "is null":
            return f"{words[0]} is null"
        if operator == "in":
            return f"{words[0]} in ({', '.join(words[1:])})"
        if operator == "case":
            whens = [f"when {words[place]} then {words[place + 1]}" for place in range(0, len(words) - 1, 2)]
            return f"case {' '.join(whens)} else {words[-1]} end"
        return f" {operator} ".join(words) if operator in _BINDING else f"{operator}({', '.join(words)})"

    def _word(self, place: int) -> str:
        """Return the text of an operand, in parentheses where it needs them."""
        operand, mine = self.operands[place], _BINDING.get(self.operator, 0)
        theirs = _BINDING.get(operand.operator, 8) if isinstance(operand, Call) else 8
        # a - b + c begins with a - b; a = b = c is refused
        loose = theirs < mine or (theirs == mine and (place > 0 or mine == _BINDING["="]))
        return f"({operand})" if loose else str(operand)


def common_bounds(one: Bounds, other: Bounds) -> Bounds:
    """Return the intervals that both leave."""
    both = dict(one)
    for name, (low, high) in other.items():
        before_low, before_high = one.get(name, (None, None))
        both[name] = (_tighter(max, before_low, low), _tighter(min, before_high, high))
    return both


def _conditions(expression: Expression) -> Iterator[Expression]:
    """Yield what is all true where the expression is."""
    if isinstance(expression, Call) and expression.operator == "and":
        for operand in expression.operands:
            yield from _conditions(operand)
    else:
        yield expression


def _interval(condition: Expression) -> Bounds:
    """Return the column that a condition compares with literals, and the interval that it leaves."""
    if not isinstance(condition, Call):
        return {}
    operator, operands = condition.operator, condition.operands
    if operator in _MIRRORED and isinstance(operands[0], Literal):
        operator, operands = _MIRRORED[operator], operands[::-1]
    column, *others = operands
    literals = [other.value for other in others if isinstance(other, Literal)]
    if operator not in (*_MIRRORED, "in") or not isinstance(column, Column) or len(literals) < len(others):
        return {}
    spans = [span for value in literals if value is not None for span in _span(value)]
    if len(spans) < len(literals) - literals.count(None) or not spans:
        return {}
    low, high = min(low for low, _ in spans), max(high for _, high in spans)
    return {column.name: (None if operator in ("<", "<=") else low, None if operator in (">", ">=") else high)}


def _span(value: Value) -> list[tuple[Any, Any]]:
    """Return an interval that holds a value however it is compared, if there is one: integers meet floats as floats."""
    if isinstance(value, str):
        return [(value, value)]
    if value is None or isinstance(value, bool) or value < _INT64_START:  # such an integer becomes another float
        return []
    return [(min(value, float(value)), max(value, float(value)))]


def _tighter(choose: Callable[[Any, Any], Any], one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    return choose(one, other)
