"""Exact sums against Python's integers, at the edges of float64, in any order, and compiled against interpreted."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciplat.kernels import exact_sum

LOWEST = -2176  # below the last bit of any product


def limbs_of(kernel, *arrays, groups=None, size=1):
    groups = np.zeros(len(arrays[0]), np.int64) if groups is None else groups
    limbs = np.zeros((size, 140), np.int64)
    kernel(*(np.asarray(array, float).view(np.int64) for array in arrays), groups, LOWEST, limbs)
    return limbs


def value(limbs):
    return sum(Fraction(int(limb)) * Fraction(2) ** (32 * place + LOWEST) for place, limb in enumerate(limbs))


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite, max_size=30))
def test_sums_are_those_of_rational_numbers(values):
    assert value(limbs_of(exact_sum.add_values, values)[0]) == sum(map(Fraction, values))


@given(st.lists(st.tuples(finite, finite), max_size=30))
def test_sums_of_products_are_those_of_rational_numbers(pairs):
    left, right = [one for one, _ in pairs], [other for _, other in pairs]
    expected = sum((Fraction(one) * Fraction(other) for one, other in pairs), Fraction(0))
    assert value(limbs_of(exact_sum.add_products, left, right)[0]) == expected


@pytest.mark.parametrize("number", [5e-324, 2.2250738585072014e-308, 1.0, 1 - 2**-53, 1.7976931348623157e308])
def test_the_edges_of_float64(number):
    assert value(limbs_of(exact_sum.add_values, [number, -0.0, number])[0]) == 2 * Fraction(number)
    assert value(limbs_of(exact_sum.add_products, [number], [-number])[0]) == -(Fraction(number) ** 2)


def test_what_is_not_finite_is_left_out():
    odd = [math.inf, 1.0, math.nan, -math.inf]
    assert value(limbs_of(exact_sum.add_values, odd)[0]) == 1
    assert value(limbs_of(exact_sum.add_products, odd, odd[::-1])[0]) == 0


def test_every_value_goes_to_its_group_in_any_order():
    rng = np.random.default_rng(5)
    values, groups = rng.normal(0, 1e9, 1000), rng.integers(0, 7, 1000)
    limbs = limbs_of(exact_sum.add_values, values, groups=groups, size=7)
    assert [value(row) for row in limbs] == [sum(map(Fraction, values[groups == group])) for group in range(7)]
    order = rng.permutation(1000)
    assert (limbs_of(exact_sum.add_values, values[order], groups=groups[order], size=7) == limbs).all()


def test_compiled_equals_interpreted(interpret):
    rng = np.random.default_rng(3)
    left, right = (rng.normal(0, 1, 300) * 10.0 ** rng.integers(-300, 150, 300) for _ in range(2))
    compiled = limbs_of(exact_sum.add_values, left), limbs_of(exact_sum.add_products, left, right)
    interpret(exact_sum)
    plain = limbs_of(exact_sum.add_values, left), limbs_of(exact_sum.add_products, left, right)
    assert all((one == other).all() for one, other in zip(compiled, plain, strict=True))
