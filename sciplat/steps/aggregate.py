"""Groups of rows and what is said of each: counts, exact sums, means, variances, extremes.

Nulls are left out; a NaN makes a sum NaN, as IEEE 754 has it, but minima and maxima are those of the numbers. Sums of
floats are exact and rounded once, integers never leave the integers, so that no order of rows or cells changes a bit.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sciplat.errors import ArgumentError, ColumnError
from sciplat.steps.bins import numbers
from sciplat.steps.exact_sum import ExactSums, exact_squares, exact_sums, regrouped_sums, variances

MOST_GROUPS = 10_000_000
_SUMS = ("sum", "present")
_STATES = {  # what is kept of each group for each function
    "count": ("present",),
    "sum": _SUMS,
    "mean": _SUMS,
    "var": (*_SUMS, "squares"),
    "std": (*_SUMS, "squares"),
    "min": ("min",),
    "max": ("max",),
}
_FORM = re.compile(r"\s*(\w+)\s*\((.*)\)\s*", re.DOTALL)
_INT64 = np.iinfo(np.int64)
_KEY_BYTES, _STATE_BYTES = 120, 60  # of a row: finding its group, and what is kept

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Measure:
    """One column of a result: a function of one of the plan's columns, or the number of rows."""

    name: str
    function: str
    column: str = ""


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of rows, and what is kept of each.

    Parameters
    ----------
    keys : pyarrow.Table
        One row for each group, ascending.
    rows : ndarray of int64, shape (groups,)
    states : dict
        By kind and column: counts of values that are not null (`present`), ExactSums (`sum`, `squares`), or the
        extremes (`min`, `max`).
    """

    keys: pa.Table = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)
    states: dict[tuple[str, str], Any] = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Aggregation:
    """Groups rows by the values of some columns; without any, all rows are one group.

    Parameters
    ----------
    by : tuple of str
    measures : tuple of Measure
    """

    by: tuple[str, ...]
    measures: tuple[Measure, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(dict.fromkeys([*self.by, *(measure.column for measure in self.measures if measure.column)]))

    @property
    def row_bytes(self) -> int:
        """Bytes that a row takes at most while it is reduced, beside the rows themselves: where each is a group."""
        return _KEY_BYTES * len(self.by) + _STATE_BYTES * (1 + len(self._kept))

    def __call__(self, table: pa.Table) -> Groups:
        """Return the groups of some rows.

        Raises
        ------
        ArgumentError
            If there are more than ten million.
        """
        keys, codes = _grouped(table.select(list(self.by)), table.num_rows)
        size = keys.num_rows if self.by else 1
        states = {}
        for kind, name in self._kept:
            column = table[name]
            present = codes if not column.null_count else codes[column.is_valid().to_numpy()]
            states[kind, name] = _state(kind, column.drop_null(), present, size)
        return Groups(keys, np.bincount(codes, minlength=size), states)

    def merged(self, parts: Sequence[Groups]) -> Groups:
        """Return the groups of all rows.

        Raises
        ------
        ArgumentError
            If there are more than ten million.
        """
        keys, codes = _grouped(pa.concat_tables([part.keys for part in parts]), sum(map(len, parts)))
        size = keys.num_rows if self.by else 1
        places = np.split(codes, np.cumsum([len(part) for part in parts])[:-1])
        states = {
            (kind, name): _regrouped(kind, [part.states[kind, name] for part in parts], places, size)
            for kind, name in self._kept
        }
        return Groups(keys, _regrouped("present", [part.rows for part in parts], places, size), states)

    @property
    def _kept(self) -> list[tuple[str, str]]:
        pairs = [(kind, m.column) for m in self.measures if m.column for kind in _STATES[m.function]]
        return list(dict.fromkeys(pairs))

    def result(self, groups: Groups, schema: pa.Schema) -> pa.Table:
        """Return a row for each group: its keys, and its measures.

        Parameters
        ----------
        groups : Groups
        schema : pyarrow.Schema
            Of the rows.

        Raises
        ------
        ArgumentError
            If a sum of integers does not fit 64 bits.
        """
        fields = [schema.field(name) for name in self.by]
        arrays = [groups.keys[name].cast(column.type) for name, column in zip(self.by, fields, strict=True)]
        for measure in self.measures:
            column = schema.field(measure.column) if measure.column else None
            values = groups.rows if column is None else _values(measure, groups, column)
            array = values if isinstance(values, pa.Array) else pa.array(values)
            arrays.append(array)
            fields.append(pa.field(measure.name, array.type, metadata=_unit(measure, column)))
        return pa.table(arrays, schema=pa.schema(fields))


def parse_measure(name: str, text: object, schema: pa.Schema) -> Measure:
    """Return what a text such as "mean(mag)" asks for.

    Raises
    ------
    ArgumentError
        If it is no such text, or the function does not suit the column.
    ColumnError
        If there is no such column.
    """
    found = _FORM.fullmatch(text) if isinstance(text, str) else None
    function, column = (found[1].lower(), found[2].strip()) if found else ("", "")
    if function not in _STATES or not (column or function == "count"):
        raise ArgumentError(
            f"{name} is nothing that can be aggregated",
            found=repr(text),
            hint=f'"count()", "mean(mag)"; functions: {", ".join(_STATES)}',
        )
    if column:
        _check_column(function, column, schema)
    return Measure(name, function, column)


def check_keys(by: Sequence[str], schema: pa.Schema) -> None:
    """Raise ColumnError or ArgumentError if rows cannot be grouped by these columns."""
    for name in by:
        if name not in schema.names:
            raise ColumnError(f"there is no column {name!r}", found=", ".join(schema.names))
        if pa.types.is_nested(schema.field(name).type):
            raise ArgumentError(f"rows cannot be grouped by {name!r}", found=str(schema.field(name).type))


def is_number(kind: pa.DataType) -> bool:
    """Return whether a column's type counts as numbers; booleans do."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _check_column(function: str, column: str, schema: pa.Schema) -> None:
    check_keys([column] if function in {"min", "max"} else [], schema)
    if column not in schema.names:
        raise ColumnError(f"there is no column {column!r}", found=", ".join(schema.names))
    if function in {"sum", "mean", "var", "std"} and not is_number(schema.field(column).type):
        raise ArgumentError(
            f"there is no {function} of {column!r}, which is no number", found=str(schema.field(column).type)
        )


def _grouped(keys: pa.Table, rows: int) -> tuple[pa.Table, Codes]:
    """Return the different rows of a table, ascending with nulls last, and which of them each row is."""
    codes = np.zeros(rows, np.int64)
    if not keys.num_columns:
        return keys, codes
    columns = [_plain(column.combine_chunks()) for column in keys.columns]
    for place, column in enumerate(columns):
        numbered, values = _coded(column)
        codes = _coded(pa.array(codes * len(values) + numbered))[0] if place else numbered
    size = int(codes.max(initial=-1)) + 1
    if size > MOST_GROUPS:
        raise ArgumentError(
            f"there are more than {MOST_GROUPS:,} groups",
            found=f"{size:,} and more values of {', '.join(keys.schema.names)}",
            hint="group by something coarser, or .select(...).write(...) and read the store in parts",
        )
    first = np.zeros(size, np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    return pa.table([column.take(pa.array(first)) for column in columns], names=keys.column_names), codes


def _plain(values: pa.Array) -> pa.Array:
    """Return values with -0 as 0 and all NaN alike, so that equal ones share their bits."""
    if pa.types.is_dictionary(values.type):
        return values.dictionary_decode()
    if not pa.types.is_floating(values.type):
        return values
    if pa.types.is_float16(values.type):
        values = values.cast(pa.float32())  # Arrow does not sort or encode shorter ones
    floats = np.asarray(values.fill_null(0).to_numpy(zero_copy_only=False)) + values.type.to_pandas_dtype()(0)
    floats[np.isnan(floats)] = np.nan
    return pa.array(floats, values.type, mask=~values.is_valid().to_numpy(zero_copy_only=False))


def _coded(values: pa.Array) -> tuple[Codes, pa.Array]:
    """Return the different values, ascending with NaN and then null last, and which of them each value is."""
    encoded = values.dictionary_encode(null_encoding="encode")
    order = pc.array_sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[encoded.indices.to_numpy()], encoded.dictionary.take(pa.array(order))


def _state(kind: str, column: pa.ChunkedArray, codes: Codes, size: int) -> Any:
    """Return what is kept of a column without nulls."""
    if kind == "present":
        return np.bincount(codes, minlength=size)
    if kind in {"min", "max"}:
        return _extremes(kind, column.combine_chunks(), codes, size)
    return (exact_sums if kind == "sum" else exact_squares)(numbers(column), codes, size)


def _regrouped(kind: str, parts: Sequence[Any], places: Sequence[Codes], size: int) -> Any:
    """Return what is kept of the new groups, given the new group of each group of each part."""
    if kind in {"sum", "squares"}:
        return regrouped_sums(parts, places, size)
    if kind in {"min", "max"}:
        values, codes = pa.concat_arrays(parts), np.concatenate(places)
        return _extremes(kind, values.drop_null(), codes[values.is_valid().to_numpy(zero_copy_only=False)], size)
    total = np.zeros(size, np.int64)
    for part, place in zip(parts, places, strict=True):
        total[place] += part
    return total


def _extremes(kind: str, values: pa.Array, codes: Codes, size: int) -> pa.Array:
    """Return the smallest or largest value of each group, null where it has none; NaN only where all are NaN."""
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        numbered, ordered = _coded(values)
        return ordered.take(_extremes(kind, pa.array(numbered), codes, size))
    plain = _plain(values).to_numpy()
    worst: Any = np.nan
    if pa.types.is_integer(values.type):
        worst = np.iinfo(plain.dtype).max if kind == "min" else np.iinfo(plain.dtype).min
    found, extremes = np.zeros(size, bool), np.full(size, worst, plain.dtype)
    found[codes] = True
    (np.fmin if kind == "min" else np.fmax).at(extremes, codes, plain)
    return pa.array(extremes, values.type, mask=~found)


def _values(measure: Measure, groups: Groups, column: pa.Field) -> Any:
    """Return the values of a measure for each group: null where there is nothing to say."""
    function, name = measure.function, measure.column
    if function in {"min", "max"}:
        return groups.states[function, name]
    present = groups.states["present", name]
    if function == "count":
        return present
    sums: ExactSums = groups.states["sum", name]
    if function == "sum" and not pa.types.is_floating(column.type):
        return _integer_sums(measure, sums, present)
    if function in {"sum", "mean"}:
        counts = np.ones_like(present) if function == "sum" else present
        return pa.array(sums.means(counts), mask=present == 0)
    spread = variances(sums, groups.states["squares", name], present, root=function == "std")
    return pa.array(spread, mask=present < 2)


def _integer_sums(measure: Measure, sums: ExactSums, present: NDArray[np.int64]) -> pa.Array:
    integers = sums.integers()
    totals = integers << sums.exponent if sums.exponent >= 0 else integers >> -sums.exponent
    if len(totals) and not _INT64.min <= totals.min() <= totals.max() <= _INT64.max:
        raise ArgumentError(
            f"the sum of {measure.column!r} does not fit 64 bits",
            found=f"{max(totals, key=abs):,}",
            hint=f'"mean({measure.column})" is not limited',
        )
    return pa.array(totals.astype(np.int64), mask=present == 0)


def _unit(measure: Measure, column: pa.Field | None) -> dict[bytes, bytes] | None:
    """Return the unit as metadata where the function keeps it."""
    unit = (column.metadata or {}).get(b"unit") if column is not None else None
    return {b"unit": unit} if unit and measure.function in {"sum", "mean", "min", "max", "std"} else None
