"""The plan nodes of expressions: the rows where one is true, and columns that are computed."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow as pa

from sciplat.errors import ArgumentError
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.lazy.fingerprint import Record
from sciplat.lazy.node import OverOne, RowFilter, row_bytes
from sciplat.sky.cell import Cell
from sciplat.sky.coverage import Coverage
from sciplat.steps.evaluate import result_type
from sciplat.steps.expression import Call, Column, Expression
from sciplat.tasks.quote import Cost, rates
from sciplat.tasks.where import WhereTask, WithColumnsTask

_VALUE_BYTES = 8  # of a number that an expression gives for each row
_TRUTH_BYTES = 1  # of a truth value, and of whether it is known: less
_PLACE_BYTES = 8  # of a row that is kept
_TRUTHS = frozenset(["and", "or", "not", "=", "<>", "<", "<=", ">", ">=", "in", "is null", "like", "ilike", "isnan"])


@dataclass(frozen=True)
class Where(RowFilter):
    """Keep the rows for which an expression is true.

    Parameters
    ----------
    inner : Node
    expression : Expression

    Raises
    ------
    ColumnError
        If a column of the expression is not there.
    ArgumentError
        If it does not fit the columns' types, or gives no truth values.
    """

    expression: Expression

    def __post_init__(self) -> None:
        kind = result_type(self.expression, self.inner.schema)
        if not pa.types.is_boolean(kind):
            raise ArgumentError(
                "rows are kept where something is true or false", found=f"{self.expression} is {kind}", hint="mag < 18"
            )

    def task(self, cell: Cell, cover: Coverage | None = None) -> WhereTask:
        """Return the inner task with the other rows left out."""
        return WhereTask(self.inner.task(cell, cover), self.expression)

    def cost(self, cell: Cell) -> Cost:
        """Return the inner cost, as if all rows were kept: how many are is not known before they are read."""
        inner = self.inner.cost(cell)
        computing = inner.size + inner.rows * working_bytes(self.expression, self.inner.schema)
        copying = 2 * inner.size + inner.rows * (_TRUTH_BYTES + _PLACE_BYTES)
        seconds = inner.seconds + _seconds(inner.rows, self.expression)
        return replace(inner, memory=max(inner.memory, computing, copying), seconds=seconds)

    def describe(self) -> Record:
        """Return the expression."""
        return {"op": "where", "inner": self.inner.describe(), "expression": str(self.expression)}


@dataclass(frozen=True)
class WithColumns(OverOne):
    """Add columns that are computed from the others, or put them in the place of some.

    Parameters
    ----------
    inner : Node
    computed : tuple of (str, Expression)
        Names with what they are; all see the inner node's columns.

    Raises
    ------
    ColumnError
        If a column of an expression is not there.
    ArgumentError
        If an expression does not fit the columns' types, or a column would be replaced that places or names the rows.
    """

    computed: tuple[tuple[str, Expression], ...]

    def keeps(self, columns: Iterable[str]) -> bool:
        """Return whether none of the columns is computed."""
        return super().keeps(columns) and not set(columns) & {name for name, _ in self.computed}

    def __post_init__(self) -> None:
        fixed = (HEALPIX_COLUMN, self.properties["id"], *self.properties["position"])
        for name, expression in self.computed:
            if name in fixed:
                raise ArgumentError(
                    f"the column {name} places or names the rows and stays as it is", hint=f"another name: new_{name}"
                )
            if pa.types.is_null(result_type(expression, self.inner.schema)):
                raise ArgumentError(f"the column {name} would have no type", found=str(expression), hint="0.0 * mag")

    @cached_property
    def fields(self) -> tuple[pa.Field, ...]:
        """The computed columns."""
        return tuple(pa.field(name, result_type(each, self.inner.schema)) for name, each in self.computed)

    @cached_property
    def schema(self) -> pa.Schema:
        """The inner node's, with the computed columns in the place of those of the same name, or behind."""
        columns = {field.name: field for field in (*self.inner.schema, *self.fields)}  # the last, where the first was
        return pa.schema(columns.values())

    def task(self, cell: Cell, cover: Coverage | None = None) -> WithColumnsTask:
        """Return the inner task with the columns set."""
        expressions = (expression for _, expression in self.computed)
        return WithColumnsTask(self.inner.task(cell, cover), tuple(zip(self.fields, expressions, strict=True)))

    def cost(self, cell: Cell) -> Cost:
        """Return the inner cost, with the computed columns and what the computing holds."""
        inner = self.inner.cost(cell)
        size = inner.size + sum(self._column_bytes(field, inner) for field in self.fields)
        working = [working_bytes(expression, self.inner.schema) for _, expression in self.computed]
        seconds = inner.seconds + _seconds(inner.rows, *(expression for _, expression in self.computed))
        memory = max(inner.memory, size + inner.rows * max(working, default=0.0))
        return replace(inner, size=size, memory=memory, seconds=seconds)

    def _column_bytes(self, field: pa.Field, inner: Cost) -> float:
        # texts are chosen from columns and literals: which, and how the bytes are spread over columns, is not known
        return inner.rows * row_bytes([field]) + (0.0 if pa.types.is_primitive(field.type) else inner.size)

    def describe(self) -> Record:
        """Return the names with their expressions."""
        computed = [[name, str(expression)] for name, expression in self.computed]
        return {"op": "with_columns", "inner": self.inner.describe(), "computed": computed}


def working_bytes(expression: Expression, schema: pa.Schema) -> float:
    """Return the bytes for each row that computing an expression holds at once, its result among them."""
    if not isinstance(expression, Call):
        return 0.0
    peak = held = 0.0
    for operand in expression.operands:
        peak = max(peak, held + working_bytes(operand, schema))
        held += _held_bytes(operand, schema)
    return max(peak, held + (_TRUTH_BYTES if expression.operator in _TRUTHS else _VALUE_BYTES))


def _held_bytes(operand: Expression, schema: pa.Schema) -> float:
    """Return the bytes of an operand for each row; a column is there already, but perhaps of another type."""
    if isinstance(operand, Column):
        kind = schema.field(operand.name).type
        if pa.types.is_dictionary(kind):
            return row_bytes([pa.field(operand.name, kind.value_type)])
        return 0.0 if kind == pa.float64() or not pa.types.is_primitive(kind) else _VALUE_BYTES
    if isinstance(operand, Call):
        return _TRUTH_BYTES if operand.operator in _TRUTHS else _VALUE_BYTES
    return 0.0


def _seconds(rows: float, *expressions: Expression) -> float:
    """Return the time of computing expressions: each operation writes a value, as reading does."""
    parts = sum(1 for expression in expressions for _ in expression.parts())
    return rates().scan * rows * _VALUE_BYTES * parts
