"""A user's own function on one cell: it is called, and what it gives is checked against what was promised."""

import functools
import traceback
from collections import Counter
from collections.abc import Callable
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sciplat.errors import StepError, may_pass
from sciplat.sky.cell import Cell

Step = Callable[[pa.Table], pa.Table]
_POSITION = "_healpix_29"
_LONGEST_CAUSE = 300  # characters: one line
_LONGEST_TRACEBACK = 100_000  # characters: errors travel through the scheduler


def apply_step(step: Step, table: pa.Table, schema: pa.Schema, cell: Cell, *, surrounded: bool) -> pa.Table:
    """Call a user's function with the rows of one cell and check its result.

    Parameters
    ----------
    step : callable
        Takes a pyarrow.Table and gives one, or a RecordBatch.
    table : pyarrow.Table
        The rows of the cell, and of its surroundings if it is `surrounded`.
    schema : pyarrow.Schema
        Promised columns, `_healpix_29` among them. Their order does not matter, and a column of a narrower type
        (int32 for int64, null for any) is widened.
    cell : Cell
        Where rows of the result lie: start <= `_healpix_29` < stop.
    surrounded : bool
        Whether rows of the result outside the cell are expected and left out; otherwise they are an error.

    Returns
    -------
    pyarrow.Table
        With exactly `schema`, sorted by `_healpix_29`; rows of one position stay in the order of the function.

    Raises
    ------
    StepError
        If the function raises, SystemExit included, or breaks a promise. The StepErrors and the KeyboardInterrupt of
        a function pass unchanged.
    """
    where = step_on_cell(step, cell)
    try:
        result = step(table)
    except (StepError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        raise step_error(f"{where} raised an error", error) from error
    result = _as_table(where, result)
    _check_names(where, result.column_names, schema.names)
    promised = pa.Table.from_arrays([_as_promised(where, result[field.name], field) for field in schema], schema=schema)
    return _sorted(_inside(where, promised, cell, surrounded=surrounded))


def step_name(step: Step) -> str:
    """Return `module:qualified name` of a function; of a partial, its function's, of an object, its class's."""
    named: object = step
    while isinstance(named, functools.partial):
        named = named.func
    if not hasattr(named, "__qualname__"):
        named = type(named)
    return f"{getattr(named, '__module__', None) or 'builtins'}:{getattr(named, '__qualname__', '?')}"


def step_on_cell(step: Step, cell: Cell) -> str:
    """Return how errors name a function at work, for example "survey.colours:redden on cell 5/1284"."""
    return f"{step_name(step)} on cell {cell}"


def step_error(what: str, error: BaseException) -> StepError:
    """Return the StepError that tells of an error.

    Parameters
    ----------
    what : str
        What failed.
    error : BaseException
        Caught in the frame that called the user's code: the traceback leaves this frame out.
    """
    inner = error.__traceback__.tb_next if error.__traceback__ else None
    told = traceback.TracebackException(type(error), error, inner)
    cause = " ".join(f"{type(error).__name__}: {told}".split())
    failure = StepError(
        what,
        found=cause if len(cause) <= _LONGEST_CAUSE else f"{cause[:_LONGEST_CAUSE]}...",
        hint="call the function with one small table; the error's .traceback shows the line",
    )
    failure.traceback = "".join(told.format())[:_LONGEST_TRACEBACK]
    if may_pass(error):
        failure.kind = "transient"
    return failure


def _as_table(where: str, result: object) -> pa.Table:
    if isinstance(result, pa.Table):
        return result
    if isinstance(result, pa.RecordBatch):
        return pa.Table.from_batches([result])
    if result is None:
        raise StepError(f"{where} gave no table", found="None", hint="end the function with return table")
    raise StepError(
        f"{where} gave no table",
        found=f"{type(result).__module__}.{type(result).__qualname__}",
        hint="make one with pyarrow.table({...}), or pyarrow.Table.from_pandas(frame, preserve_index=False)",
    )


def _check_names(where: str, given: list[str], promised: list[str]) -> None:
    counts = Counter(given)
    wrong = {
        "missing": [name for name in promised if name not in counts],
        "not promised": [name for name in counts if name not in promised],
        "more than once": [name for name, count in counts.items() if count > 1],
    }
    if any(wrong.values()):
        raise StepError(
            f"{where} gave other columns than those of its schema",
            found="; ".join(f"{label}: {', '.join(names)}" for label, names in wrong.items() if names),
            hint="return exactly the columns of schema=, or change schema=",
        )


def _as_promised(where: str, column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """Return a column of the promised type."""
    if not _widens(column.type, field.type):
        _refuse_column(where, field, f"{field.name} is {column.type} instead of {field.type}")
    if column.null_count and not field.nullable:
        _refuse_column(where, field, f"{field.name} is null in {column.null_count} rows, and may not be")
    try:
        return column if column.type.equals(field.type) else column.cast(field.type)
    except pa.ArrowException as error:
        _refuse_column(where, field, f"{field.name} is {column.type} instead of {field.type}: {error}")


def _refuse_column(where: str, field: pa.Field, found: str) -> NoReturn:
    raise StepError(
        f"{where} gave a column of another type than its schema",
        found=found,
        hint=f"make it with pyarrow.array(values, schema.field({field.name!r}).type), or change schema=",
    )


def _widens(given: pa.DataType, promised: pa.DataType) -> bool:
    """Return whether the values of one type are values of another: types decide, not what a cell happens to hold."""
    if given.equals(promised) or pa.types.is_null(given):
        return True
    if pa.types.is_dictionary(given):
        return _widens(given.value_type, promised)
    if _is_list(given) and _is_list(promised):
        return _widens(given.value_type, promised.value_type)
    if _is_number(given) and _is_number(promised):
        # 64 bit integers count as float64: those beyond 2**53 the cast refuses itself
        return np.can_cast(given.to_pandas_dtype(), promised.to_pandas_dtype(), "safe")
    return _is_text(given) and _is_text(promised)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _inside(where: str, table: pa.Table, cell: Cell, *, surrounded: bool) -> pa.Table:
    """Return the rows that lie in the cell, which must be all of them unless it is surrounded."""
    position = table[_POSITION]
    hint = f"give every row the {_POSITION} of the row that it was made from"
    if position.null_count:
        found = f"{position.null_count} of {table.num_rows} rows where {_POSITION} is null"
        raise StepError(f"{where} gave rows without a position", found=found, hint=hint)
    inside = pc.and_(pc.greater_equal(position, cell.start), pc.less(position, cell.stop))
    outside = table.num_rows - (pc.sum(inside).as_py() or 0)
    if outside and not surrounded:
        found = f"{outside} of {table.num_rows} rows lie outside the cell"
        raise StepError(f"{where} gave rows of other cells", found=found, hint=hint)
    return table.filter(inside) if outside else table


def _sorted(table: pa.Table) -> pa.Table:
    index = table[_POSITION].to_numpy()
    is_sorted = (index[1:] >= index[:-1]).all()  # as it is in most results: sorting would hold the rows twice
    return table if is_sorted else table.sort_by(_POSITION)  # stable
