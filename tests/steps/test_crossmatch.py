"""The step that finds pairs: at the poles, and among errors of very different sizes."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from sciplat.kernels.separation import square
from sciplat.sky.cell import healpix_29
from sciplat.steps.crossmatch import Matching, Side, matches, placed
from sciplat.steps.errors import ErrorColumns
from tests import reference

MAS = 1 / 3.6e6  # degrees
POSITION = ("ra", "dec")
ERRORS = ErrorColumns(("e_ra", MAS), ("e_dec", MAS), None)


def table_of(ra, dec, error=None):
    """Return rows in the order of the sky, with round errors in mas."""
    index = healpix_29(ra, dec)
    columns = {"_healpix_29": index, "star": np.arange(len(ra)), "ra": ra, "dec": dec}
    columns |= {} if error is None else {"e_ra": error, "e_dec": error}
    return pa.table(columns).take(pa.array(np.argsort(index, kind="stable")))


def matched(left, right, *, find="nearest", neighbours=1, radius=None, n_sigma=None):
    errors = None if n_sigma is None else ERRORS
    sides = [Side(f"the {name} catalog", POSITION, "icrs", errors=errors) for name in ("left", "right")]
    matching = Matching(find, neighbours, radius, n_sigma, None, *sides)
    tables = (left, right)
    return matches(*(placed(table, side, "icrs") for table, side in zip(tables, sides, strict=True)), matching)


def as_list(found):
    return list(zip(found.left.tolist(), found.right.tolist(), strict=True))


def around_pole(rng, pole, width, count):
    """Return rows on and around a pole, the first of them on it, with whatever right ascensions."""
    ra, away = rng.uniform(0, 360, count), np.abs(rng.normal(0, width, count))
    ra[5:10] = np.round(ra[5:10] / 90) * 90 % 360
    away[:4] = 0.0
    return table_of(ra, np.sign(pole) * (90 - away))


@pytest.mark.parametrize("pole", [90, -90])
@pytest.mark.parametrize("width", [1e-11, 1 / 3.6e6, 1e-3, 2.0])
def test_three_neighbours_at_the_poles_are_those_of_brute_force(pole, width):
    rng = np.random.default_rng(6)
    left, right = around_pole(rng, pole, width, 30), around_pole(rng, pole, width, 60)
    found = matched(left, right, neighbours=3, radius=2 * width)
    places = [table[name].to_numpy() for table in (left, right) for name in POSITION]
    squares = np.vectorize(square)(*(values[:, np.newaxis] for values in places[:2]), *places[2:])
    near = squares <= square(0.0, 0.0, 0.0, 2 * width) * (1 + 1e-12)
    expected = []
    for row in range(30):
        order = np.lexsort([np.arange(60), squares[row]])[:3]
        expected += [(row, its) for its in order.tolist() if near[row, its]]
    assert len(expected) > 60
    assert as_list(found) == expected
    exact = [reference.precise_separation(*(float(each[i]) for each, i in zip(places, (r, r, s, s), strict=True)))
             for r, s in expected]  # fmt: skip
    for one, other in zip(found.square.tolist(), exact, strict=True):
        assert 2 * np.degrees(np.arcsin(one**0.5)) == pytest.approx(float(other), rel=1e-14, abs=1e-40)


def test_one_bad_error_changes_no_other_pair_and_costs_little():
    """A row with 0.1 deg among 20,000 with 1 mas: what is listed does not grow to everything within 0.5 deg."""
    rng = np.random.default_rng(5)
    count, bad = 20_000, 7
    ra, dec = rng.uniform(10, 12, count), rng.uniform(-1, 1, count)
    near = ra + rng.normal(0, MAS, count), dec + rng.normal(0, MAS, count)
    error = np.ones(count)
    left, well = table_of(ra, dec, error), table_of(*near, error)
    error[bad] = 0.1 / MAS
    right = table_of(*near, error)
    expected = matched(left, well, find="all", n_sigma=5)
    tracemalloc.start()
    found = matched(left, right, find="all", n_sigma=5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    place = right["star"].to_pylist().index(bad)
    its = found.right == place
    others = found.kept(~its)
    assert as_list(others) == [pair for pair in as_list(expected) if pair[1] != place]
    assert np.array_equal(others.sigma, expected.sigma[expected.right != place])
    positions = [tuple(table[name].to_numpy() for name in POSITION) for table in (left, right.slice(place, 1))]
    errors = np.stack([np.full(count, MAS)] * 2 + [np.zeros(count)]), np.array([[0.1], [0.1], [0.0]])
    sigma = reference.normalised_separations(*positions, *errors)[:, 0]
    assert found.left[its].tolist() == np.flatnonzero(sigma <= 5).tolist()
    assert its.sum() > 1000
    assert peak < 50e6  # all rows with all rows within 0.5 deg would take gigabytes


def test_errors_of_all_sizes_are_brute_force():
    rng = np.random.default_rng(8)
    ra, dec = rng.uniform(40, 41, (2, 300))
    error, its_error = 10 ** rng.uniform(0, 5.5, (2, 300))
    left, right = table_of(ra, dec, error), table_of(ra + 1e-5, dec, its_error)
    positions = [tuple(table[name].to_numpy() for name in POSITION) for table in (left, right)]
    errors = [np.stack([table["e_ra"].to_numpy() * MAS] * 2 + [np.zeros(300)]) for table in (left, right)]
    sigma = reference.normalised_separations(*positions, *errors)
    separation = reference.separations(*positions)
    index = [table["_healpix_29"].to_numpy() for table in (left, right)]
    for find, neighbours in (("all", 1), ("nearest", 1), ("nearest", 3), ("mutual", 1)):
        expected = reference.crossmatch(separation, sigma <= 3, *index, find, neighbours=neighbours)
        assert as_list(matched(left, right, find=find, neighbours=neighbours, n_sigma=3)) == expected
