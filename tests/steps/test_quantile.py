import itertools

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from sciplat.steps.quantile import SHIFTS, PatternCounts, at_ranks, between, locate, ranks_of


def quantiles(parts, q, shifts=SHIFTS):
    """Return quantiles by the given passes over all parts."""

    def counted(**arguments):
        counts = PatternCounts("x", **arguments)
        return counts.merged([counts(pa.table({"x": part})) for part in parts])

    found = counted(shift=shifts[0])
    low, high, part = ranks_of(q, int(found.counts.sum()))
    ranks = np.concatenate([low, high])
    for coarser, shift in itertools.pairwise(shifts):
        found, ranks = locate(found, ranks)
        rows = found.counts.sum()
        found = counted(shift=shift, coarser=coarser, within=found.bins)
        assert found.counts.sum() == rows
    values = at_ranks(found, ranks)
    return between(values[: len(q)], values[len(q) :], part)


floats = st.floats(allow_nan=False, allow_infinity=False, width=64)
close = st.integers(-9, 9).map(lambda n: 20 + n * 2.0**-48)


@given(
    st.lists(floats | close, min_size=1, max_size=60),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.sampled_from([SHIFTS, (42, 0), (0,)]),
    st.integers(1, 4),
)
def test_quantiles_are_those_of_numpy(values, q, shifts, parts):
    values, q = np.array(values), np.array(q)
    found = quantiles(np.array_split(values, parts), q, shifts)
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = np.quantile(values, q)
    low, high = (np.quantile(values, q, method=method) for method in ("lower", "higher"))
    # where the step between two values overflows there is no telling where between them
    np.testing.assert_allclose(found[np.isfinite(wanted)], wanted[np.isfinite(wanted)], rtol=1e-14, atol=1e-300)
    exact = low == high
    assert found[exact].tolist() == low[exact].tolist()


def test_nulls_and_nan_are_left_out_and_infinities_are_not():
    values = pa.array([None, np.nan, -np.inf, 3.0, -0.0, np.inf])
    assert quantiles([values], np.array([0.0, 1 / 3, 2 / 3, 1.0])).tolist() == [-np.inf, 0.0, 3.0, np.inf]


def test_integers_and_booleans_have_quantiles():
    assert quantiles([pa.array([1, None, 4, 2], pa.int16())], np.array([0.5])).tolist() == [2.0]
    assert quantiles([pa.array([True, False, True])], np.array([0.25])).tolist() == [0.5]
