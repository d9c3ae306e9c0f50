import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sciplat.steps.exact_sum import exact_squares, exact_sums, regrouped_sums, scaled_ratio, variances

finite = st.floats(allow_nan=False, allow_infinity=False)
ONE = np.ones(1, np.int64)


def total(values, count=1):
    values = np.asarray(values)
    return exact_sums(values, np.zeros(len(values), np.int64), 1).means(count * ONE)[0]


def spread(values, *, root=False):
    values = np.asarray(values)
    groups = np.zeros(len(values), np.int64)
    sums, squares = exact_sums(values, groups, 1), exact_squares(values, groups, 1)
    return variances(sums, squares, np.array([len(values)]), root=root)[0]


def rounded(number):
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def exact_variance(values):
    mean = sum(map(Fraction, values)) / len(values)
    return sum((Fraction(value) - mean) ** 2 for value in values) / (len(values) - 1)


@given(st.lists(finite, max_size=40))
@example([1e308, 1e308, -1e308])
@example([1e16, 1.0, -1e16, 5e-324])
@example([1.0, 2.0**-53, 2.0**-106])
def test_sums_are_rounded_once(values):
    assert total(np.array(values, float)) == rounded(sum(map(Fraction, values)))


def test_sums_agree_with_fsum():
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, 20_000) * 10.0 ** rng.integers(-30, 30, 20_000)
    assert total(values) == math.fsum(values)
    assert total(values, count=7) == rounded(sum(map(Fraction, values)) / 7)


@given(st.lists(finite, min_size=1, max_size=60), st.randoms(use_true_random=False), st.integers(1, 8))
def test_no_partition_and_no_order_changes_a_bit(values, random, parts):
    values = np.array(values)
    whole = exact_sums(values, np.zeros(len(values), np.int64), 1)
    random.shuffle(values)
    pieces = [exact_sums(piece, np.zeros(len(piece), np.int64), 1) for piece in np.array_split(values, parts)]
    random.shuffle(pieces)
    again = regrouped_sums(pieces, [np.zeros(1, np.int64)] * parts, 1)
    assert again.means(ONE).tobytes() == whole.means(ONE).tobytes()


def test_more_parts_are_added_up_than_a_limb_has_room_for():
    """Carries are made whenever parts meet: 2**40 times the largest mantissa is more than 63 bits."""
    sums = exact_sums(np.array([1 - 2**-53, -3.5]), np.array([0, 1]), 2)
    for _ in range(40):
        sums = regrouped_sums([sums, sums], [np.arange(2)] * 2, 2)
    assert sums.means(np.ones(2, np.int64)).tolist() == [(1 - 2**-53) * 2.0**40, -3.5 * 2**40]


def test_infinities_and_nan_follow_ieee():
    inf = math.inf
    assert total([1.0, inf]) == inf
    assert total([-inf, 1e308, -inf]) == -inf
    for values in ([inf, -inf], [math.nan, 1.0], [inf, math.nan]):
        assert np.float64(total(values)).tobytes() == np.float64(math.nan).tobytes()
    assert math.isnan(spread([1.0, 2.0, inf]))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=20))
def test_integers_of_any_size(values):
    sums = exact_sums(np.array(values, np.int64), np.zeros(len(values), np.int64), 1)
    assert Fraction(sums.integers()[0]) * Fraction(2) ** sums.exponent == sum(values)
    assert spread(np.array(values, np.int64)) == rounded(exact_variance(values))


def test_unsigned_integers_and_short_floats():
    assert total(np.array([2**64 - 1, 2**64 - 1], np.uint64)) == 2.0**65
    assert total(np.array([0.1, 0.2], np.float32)) == math.fsum(np.array([0.1, 0.2], np.float32).astype(float))


@given(st.lists(finite, min_size=2, max_size=20))
@example([1e9, 1e9 + 1e-7, 1e9 + 2e-7])
@example([1e200, -1e200])
@example([5e-324, 1.7976931348623157e308])
def test_variances_and_deviations_are_rounded_once(values):
    variance = exact_variance(values)
    assert spread(values) == rounded(variance)
    deviation = spread(values, root=True)
    if variance > 0 and math.isfinite(deviation):  # the neighbours on both sides are farther from the root
        below, above = (Fraction(deviation) + Fraction(math.nextafter(deviation, to)) for to in (0, math.inf))
        assert (below / 2) ** 2 <= variance <= (above / 2) ** 2


def test_one_value_has_no_spread_and_equal_ones_none():
    assert math.isnan(spread([3.0]))
    assert spread([0.1, 0.1, 0.1]) == spread([0.1, 0.1], root=True) == 0.0


@pytest.mark.parametrize(("above", "below", "exponent"), [(1, 3, -1074), (-(2**60), 1, 1000), (10**40, 7, -64)])
def test_ratios_are_rounded_once(above, below, exponent):
    assert scaled_ratio(above, below, exponent) == rounded(Fraction(above, below) * Fraction(2) ** exponent)
