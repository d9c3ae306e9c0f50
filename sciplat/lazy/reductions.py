"""Numbers of a whole plan: counts, aggregates, histograms, quantiles, maps of the sky. These run at once."""

import math
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from sciplat.config import is_whole, settings
from sciplat.errors import ArgumentError, ColumnError, SciplatError
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.lazy.node import Node, Scan
from sciplat.lazy.push_down import narrowed
from sciplat.sky.cell import MAX_ORDER, Cell
from sciplat.steps.aggregate import Aggregation, check_keys, is_number, parse_measure
from sciplat.steps.bins import BinCounts, numbers
from sciplat.steps.histogram import FiniteRanges, Histogram, HistogramCounts
from sciplat.steps.quantile import SHIFTS, PatternCounts, at_ranks, between, locate, ranks_of
from sciplat.steps.sky_map import CellAggregation, CellCounts
from sciplat.tasks.memory import plan_work
from sciplat.tasks.progress import format_bytes
from sciplat.tasks.quote import Cost
from sciplat.tasks.reduce import Reduction, RowCount, reduce_all, reduce_bundles
from sciplat.tasks.run import Run
from sciplat.tasks.workers import open_workers

_MOST_BINS = 100_000_000
_FEW_ROWS = 4_000_000  # whose values are told apart in one more pass


class Reducible(Protocol):
    """A plan whose rows can be reduced."""

    @property
    def node(self) -> Node:
        """The plan."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Columns of its rows."""
        ...


class Reductions:
    """The numbers of a whole catalog: part of `Catalog`."""

    def count(self: Reducible) -> int:
        """Return the number of rows: a store knows it, a plan is run with no more columns than it needs."""
        node = _narrowed(self, ())
        if isinstance(node, Scan) and node.cover is None and not node.bounds:
            return node.store.rows
        with closing(reduce_bundles(_run(node, RowCount(), "count"), RowCount())) as counts:
            return sum(counts)

    def aggregate(self: Reducible, /, by: str | Sequence[str], **what: str) -> pa.Table:
        """Return what is to be said of each group of rows.

        Parameters
        ----------
        by : str or list of str
            Columns whose values make the groups; nulls are a group, and so are NaNs. With an empty list all rows are
            one group.
        **what : str
            Columns of the result: ``n="count()"`` (rows), ``"count(mag)"`` (values that are not null), ``"sum(x)"``,
            ``"mean(x)"``, ``"min(x)"``, ``"max(x)"``, ``"std(x)"``, ``"var(x)"``; the last two are those of a sample
            (n - 1 in the denominator). Nulls are left out everywhere; NaN makes a sum NaN, but is no minimum.

        Returns
        -------
        pyarrow.Table
            Sorted by the keys, nulls last. Sums of integers are int64, all others float64: exact sums, rounded once,
            the same bits however the rows are spread over cells and workers. Null where a group has no value, and
            where it has one for `std` and `var`.

        Raises
        ------
        ColumnError
            If there is no such column.
        ArgumentError
            If a function is not known or does not suit its column, there are more than ten million groups, or a sum
            of integers does not fit 64 bits.
        """
        given: object = by  # callers are not all checked for types
        if not isinstance(given, str | Iterable):
            raise ArgumentError("groups are made by a column, or by a list of columns", found=repr(by), hint='"band"')
        keys = (by,) if isinstance(by, str) else tuple(by)
        check_keys(keys, self.schema)
        if twice := [name for name in what if name in keys] or [key for key in keys if keys.count(key) > 1]:
            raise ArgumentError(f"{twice[0]!r} stands twice in the result", found=f"by {', '.join(keys)}")
        measures = tuple(parse_measure(name, text, self.schema) for name, text in what.items())
        aggregation = Aggregation(keys, measures)
        return aggregation.result(_reduce(self, aggregation, aggregation.columns, "aggregate"), self.schema)

    def histogram(self: Reducible, *columns: str, bins: Any, range: Any = None) -> Histogram:  # noqa: A002
        """Count the rows in bins of one column or of two, with the counts and edges of `numpy.histogram`.

        Parameters
        ----------
        *columns : str
            One or two columns of numbers.
        bins : int or array_like
            Number of equal bins, or ascending edges; for two columns a pair of these.
        range : (low, high), optional
            Ends of equal bins; for two columns a pair of these. By default the smallest and largest finite value,
            which are looked for first.

        Returns
        -------
        Histogram
            ``counts``, ``edges``, and ``left_out``: how many rows are null, NaN or outside.

        Raises
        ------
        ColumnError
            If there is no such column.
        ArgumentError
            If a column is no number, or bins or range make no sense.
        """
        if not 1 <= len(columns) <= 2:
            raise ArgumentError("a histogram has one column or two", found=", ".join(map(str, columns)))
        _check_numbers(self, columns)
        choices = [bins] if len(columns) == 1 else _pair(bins, "bins")
        _check_size(choices)
        ranges = [range] if len(columns) == 1 else [None, None] if range is None else _pair(range, "range")
        if any(isinstance(choice, int | np.integer) for choice in choices) and any(given is None for given in ranges):
            found = _reduce(self, FiniteRanges(columns), columns, "histogram")
            ranges = [known if given is None else given for given, known in zip(ranges, found, strict=True)]
        empty = [numbers(column) for column in self.schema.empty_table().select(list(columns)).columns]
        edges = tuple(_bin_edges(*choice) for choice in zip(choices, ranges, empty, strict=True))
        shape = tuple(len(ends) - 1 for ends in edges)
        dense, rows = _dense(self, HistogramCounts(columns, edges), columns, math.prod(shape), "histogram")
        left_out = rows - int(dense.sum())
        return Histogram(dense.reshape(shape), edges[0] if len(edges) == 1 else edges, left_out)

    def quantile(self: Reducible, column: str, q: ArrayLike) -> Any:
        """Return exact quantiles of a column, as `numpy.quantile` defines them (linear interpolation).

        The column is read two or three times: rows are counted by the leading bits of their values, then those in
        the bins that hold the wanted ranks.

        Parameters
        ----------
        column : str
            Of numbers; nulls and NaN are left out. Integers beyond 2**53 are rounded to float64.
        q : float or array_like
            0 to 1; 0.5 is the median.

        Returns
        -------
        float or ndarray of float64
            In the shape of `q`; NaN where there is no value.

        Raises
        ------
        ColumnError
            If there is no such column.
        ArgumentError
            If it is no number, or `q` is not from 0 to 1.
        """
        _check_numbers(self, (column,))
        wanted = _parts(q)
        found: BinCounts = _reduce(self, PatternCounts(column, SHIFTS[0]), (column,), "quantile")
        total = int(found.counts.sum())
        if not total:
            values = np.full(wanted.shape, np.nan)
        else:
            low, high, part = ranks_of(wanted.ravel(), total)
            ends = _values_at(self, column, found, np.concatenate([low, high]))
            values = between(ends[: len(low)], ends[len(low) :], part).reshape(wanted.shape)
        return values if wanted.ndim else float(values)

    def sky_map(self: Reducible, order: int, what: str = "count()") -> NDArray[Any]:
        """Return a HEALPix map of the rows.

        Parameters
        ----------
        order : int
            The map has 12 * 4**order pixels; 10 is 3.4 arcmin.
        what : str
            As in `aggregate`: "count()", "mean(mag)" and others of numbers.

        Returns
        -------
        ndarray, shape (12 * 4**order,)
            In the nested scheme. Counts are int64; all else is float64, NaN where a pixel has no value.

        Raises
        ------
        ColumnError
            If there is no such column.
        ArgumentError
            If the order is not an integer from 0 to 29, the map does not fit memory, the function is not known or does
            not suit its column, or more than ten million pixels have something other than a count.
        """
        pixels = _map_size(order)
        measure = parse_measure("the map", what, self.schema)
        if not measure.column:
            return _dense(self, CellCounts(order), (), pixels, "sky map")[0]
        if measure.function != "count":
            _check_numbers(self, (measure.column,))
        reduction = CellAggregation(order, measure)
        schema = self.schema.append(pa.field(reduction.key, pa.int64()))
        groups = _reduce(self, reduction, (measure.column,), "sky map")
        table = reduction.aggregation.result(groups, schema)
        counted = measure.function == "count"
        values = np.zeros(pixels, np.int64) if counted else np.full(pixels, np.nan)
        values[table[reduction.key].to_numpy()] = table[measure.name].to_numpy()
        return values


def _narrowed(plan: Reducible, columns: Sequence[str]) -> Node:
    """Return the plan that reads only the index, and what some columns need."""
    return narrowed(plan.node, tuple(dict.fromkeys([HEALPIX_COLUMN, *columns])))


def _run(node: Node, reduction: Reduction[Any], what: str) -> Run[Any]:
    def cost(cell: Cell) -> Cost:
        inner = node.cost(cell)
        return replace(inner, memory=max(inner.memory, inner.size + reduction.row_bytes * inner.rows))

    workers = open_workers()
    return Run(what, plan_work(node.cells, cost, limit=workers.memory(), what=what), node.task, workers)


def _reduce(plan: Reducible, reduction: Reduction[Any], columns: Sequence[str], what: str) -> Any:
    """Run the plan with some columns and return the partial result of all rows."""
    node = _narrowed(plan, columns)
    return reduce_all(_run(node, reduction, what), reduction, reduction(node.schema.empty_table()))


def _dense(
    plan: Reducible, reduction: Reduction[BinCounts], columns: Sequence[str], bins: int, what: str
) -> tuple[NDArray[np.int64], int]:
    """Run the plan and return the rows in each of many bins, and the rows that were looked at."""
    counts, rows = np.zeros(bins, np.int64), 0
    with closing(reduce_bundles(_run(_narrowed(plan, columns), reduction, what), reduction)) as parts:
        for part in parts:
            counts[part.bins] += part.counts
            rows += part.rows
    return counts, rows


def _values_at(plan: Reducible, column: str, found: BinCounts, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the values at some ranks, given the counts of the first pass."""
    coarser = SHIFTS[0]
    while coarser:
        found, ranks = locate(found, ranks)
        rows, bins = int(found.counts.sum()), found.bins
        shift = SHIFTS[-1] if rows <= _FEW_ROWS else SHIFTS[SHIFTS.index(coarser) + 1]
        found = _reduce(plan, PatternCounts(column, shift, coarser, bins), (column,), "quantile")
        if int(found.counts.sum()) != rows:
            raise SciplatError(
                "the plan gives other rows each time it runs, so it has no quantiles",
                hint=".write(...) its rows, and take the quantiles of the store",
            )
        coarser = shift
    return at_ranks(found, ranks)


def _check_numbers(plan: Reducible, columns: Sequence[str]) -> None:
    for name in columns:
        if name not in plan.schema.names:
            raise ColumnError(f"there is no column {name!r}", found=", ".join(plan.schema.names))
        if not is_number(plan.schema.field(name).type):
            raise ArgumentError(f"the column {name!r} is no number", found=str(plan.schema.field(name).type))


def _parts(q: ArrayLike) -> NDArray[np.float64]:
    try:
        wanted = np.asarray(q, dtype=np.float64)
    except (TypeError, ValueError):
        wanted = np.array(np.nan)
    if not ((wanted >= 0) & (wanted <= 1)).all():
        raise ArgumentError("a quantile is not from 0 to 1", found=repr(q), hint="0.5 is the median")
    return wanted


def _pair(values: Any, name: str) -> list[Any]:
    if isinstance(values, int | np.integer) and name == "bins":
        return [values, values]
    if not isinstance(values, Sequence | np.ndarray) or len(values) != 2:
        raise ArgumentError(f"{name} of two columns are a pair", found=repr(values), hint=f"{name}=(..., ...)")
    return list(values)


def _check_size(choices: Sequence[Any]) -> None:
    """Refuse more bins than memory has room for, before there are any; each choice is their number or their edges."""
    sizes = [_size(choice) for choice in choices]
    if math.prod(sizes) > _MOST_BINS:
        raise ArgumentError(f"there are more than {_MOST_BINS:,} bins", found=" x ".join(f"{size:,}" for size in sizes))


def _size(bins: Any) -> int:
    """Return the number of bins, at least 1 whatever is given; as many for edges, which are one more."""
    if isinstance(bins, int | np.integer):
        return max(int(bins), 1)
    edges = bins.size if isinstance(bins, np.ndarray) else len(bins) if isinstance(bins, Sequence) else 0
    return max(edges - 1, 1)


def _bin_edges(bins: Any, ends: Any, empty: NDArray[Any]) -> NDArray[Any]:
    """Return the edges that `numpy.histogram` gives; numbers of the column's own type may round otherwise."""
    try:
        if isinstance(bins, str | bool):
            raise ValueError("bins are a number or edges")  # noqa: TRY004
        edges: NDArray[Any] = np.histogram_bin_edges(empty, bins, ends)
        if np.isnan(edges).any() or len(edges) < 2:
            raise ValueError("two edges or more are needed, none of them NaN")
    except (TypeError, ValueError) as error:
        told = f"{error}; bins {bins!r}, range {ends!r}"
        raise ArgumentError("these bins make no histogram", found=told, hint="bins=50, range=(10, 20)") from None
    return edges


def _map_size(order: Any) -> int:
    if not is_whole(order) or not 0 <= order <= MAX_ORDER:
        raise ArgumentError("the order of a map is an integer from 0 to 29", found=repr(order))
    pixels: int = 12 * 4 ** int(order)
    if 2 * 8 * pixels > settings().memory:
        raise ArgumentError(
            f"a map of order {order} does not fit memory",
            found=f"{format_bytes(8 * pixels)} for {pixels:,} pixels",
            hint="a lower order: 8 has 13.7 arcmin, 10 has 3.4 arcmin",
        )
    return pixels
