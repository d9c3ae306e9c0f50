import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciplat.steps.bins import count_bins, merge_bins
from sciplat.steps.histogram import FiniteRanges, HistogramCounts


def dense(found, size):
    counts = np.zeros(size, np.int64)
    counts[found.bins] = found.counts
    return counts


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.uint8])
@given(
    values=st.lists(st.integers(0, 100) | st.floats(0, 100, width=32), min_size=1, max_size=50),
    bins=st.integers(1, 30),
)
def test_counts_are_those_of_numpy(values, bins, kind):
    values = np.array(values).astype(kind)
    wanted, edges = np.histogram(values, bins)
    found = HistogramCounts(("x",), (edges,))(pa.table({"x": values}))
    assert dense(found, bins).tolist() == wanted.tolist()


@given(st.lists(st.floats(-5, 5), max_size=60), st.lists(st.floats(-4, 4), min_size=2, max_size=9).map(sorted))
def test_any_edges_count_as_numpy_counts(values, edges):
    edges = np.array(edges)
    found = HistogramCounts(("x",), (edges,))(pa.table({"x": pa.array(values, pa.float64())}))
    assert dense(found, len(edges) - 1).tolist() == np.histogram(values, edges)[0].tolist()


def test_two_columns_count_as_numpy_counts():
    rng = np.random.default_rng(2)
    x, y = rng.normal(0, 1, (2, 5000)).round(1)
    edges = np.linspace(-1, 1, 9), np.array([-2.0, 0.0, 0.5, 3.0])
    found = HistogramCounts(("x", "y"), edges)(pa.table({"x": x, "y": y}))
    wanted = np.histogram2d(x, y, edges)[0]
    assert (dense(found, wanted.size).reshape(wanted.shape) == wanted).all()


def test_nulls_and_nan_are_in_no_bin():
    table = pa.table({"x": [0.5, None, np.nan, np.inf, 0.5, 9.0], "y": [0.5, 0.5, 0.5, 0.5, None, 0.5]})
    edges = np.array([0.0, 1.0, np.inf])
    one, two = HistogramCounts(("x",), (edges,))(table), HistogramCounts(("x", "y"), (edges, edges))(table)
    assert (one.bins.tolist(), one.counts.tolist(), one.rows) == ([0, 1], [2, 2], 6)
    assert (two.bins.tolist(), two.counts.tolist()) == ([0, 2], [1, 2])


@given(st.lists(st.lists(st.integers(-(2**62), 2**62) | st.integers(0, 9), max_size=20), min_size=1, max_size=5))
def test_bins_merge_to_the_counts_of_all(parts):
    counted = [count_bins(np.array(part, np.int64), len(part) + 1) for part in parts]
    merged = merge_bins(counted)
    bins, counts = np.unique(np.array([number for part in parts for number in part], np.int64), return_counts=True)
    assert (merged.bins.tolist(), merged.counts.tolist()) == (bins.tolist(), counts.tolist())
    assert merged.rows == sum(len(part) + 1 for part in parts)


def test_ranges_are_those_of_finite_values():
    ranges = FiniteRanges(("x", "n", "none"))
    table = pa.table({"x": [np.inf, 2.0, np.nan, -1.0], "n": [2**60 + 1, 3, None, 4], "none": [None, np.nan] * 2})
    parts = [ranges(table.slice(0, 1)), ranges(table.slice(1)), ranges(table.slice(0, 0))]
    assert ranges.merged(parts) == [(-1.0, 2.0), (3, 2**60 + 1), None]
