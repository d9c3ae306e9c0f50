"""Posteriors against the closed formula and a slow iteration, and calibrated on simulated skies."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciplat.kernels.errors import largest_error, normalised_separations
from sciplat.sky.cell import cell_area, healpix_29
from sciplat.steps.pairs import Points, pairs_within
from sciplat.steps.probability import density_order, probabilities

ARCSEC = 1 / 3600
N_SIGMA = 5
SPREAD = 0.7  # errors are up to twice or half the typical one
WIDER = 1.1  # the right rows cover more sky than the left ones, in each direction
BINS = [(0.15, 0.25), (0.45, 0.55), (0.75, 0.85)]
SKY = 4 * np.pi * np.degrees(1) ** 2  # square degrees
FRACTIONS = [0.3, 0.6, 0.9]


def simulated(seed, rows, fraction, confusion):
    """Return a sky: two sides (ra, dec, covariances) and the true left row of each right row, -1 for a field source.

    `confusion` is the density of right rows times sigma^2, the mean variance of a separation along an axis. The left
    rows are as dense as the right ones, on a square across RA = 0 at a declination of 60 degrees.
    """
    rng = np.random.default_rng(seed)
    mean_square = ARCSEC**2 * (1 + 0.7**2) * np.sinh(2 * SPREAD) / (2 * SPREAD)
    side = np.sqrt(rows * mean_square / confusion)
    place, has = square(rng, rows, side), rng.random(rows) < fraction
    field = int((rows - has.sum()) * WIDER**2)
    left_cov, right_cov = ellipses(rng, rows, ARCSEC), ellipses(rng, has.sum() + field, 0.7 * ARCSEC)
    right = np.concatenate([place[:, has], square(rng, field, WIDER * side)], axis=1)
    left, right = scattered(rng, place, left_cov), scattered(rng, right, right_cov)
    true = np.concatenate([np.flatnonzero(has), np.full(field, -1)])
    return (*left, left_cov), (*right, right_cov), true, side


def square(rng, rows, side):
    """Return positions in a square, with the area of a plane: its cells are not distorted much."""
    low, high = np.sin(np.radians([60 - side / 2, 60 + side / 2]))
    return np.stack([rng.uniform(-side, side, rows), np.degrees(np.arcsin(rng.uniform(low, high, rows)))])


def ellipses(rng, rows, scale):
    east, north = scale * np.exp(rng.uniform(-SPREAD, SPREAD, (2, rows)))
    return np.stack([east**2, rng.uniform(-0.9, 0.9, rows) * east * north, north**2], axis=1)


def scattered(rng, place, cov):
    """Return positions with errors of these covariances."""
    xx, xy, yy = cov.T
    first, second = rng.normal(size=(2, len(cov)))
    east, north = np.sqrt(xx) * first, xy / np.sqrt(xx) * first + np.sqrt(yy - xy**2 / xx) * second
    return (place[0] + east / np.cos(np.radians(place[1]))) % 360, place[1] + north


def candidates(left, right):
    """Return index and order of the rows of both sides, and the pairs within 5 sigma with their densities."""
    index, order = zip(*(sorted_rows(ra, dec) for ra, dec, _ in (left, right)), strict=True)
    (left_ra, left_dec, left_cov), (right_ra, right_dec, right_cov) = (
        [values[rows] for values in side] for side, rows in ((left, order[0]), (right, order[1]))
    )
    reach = N_SIGMA * np.hypot(largest_error(left_cov), largest_error(right_cov).max()) * (1 + 1e-9)
    points = Points(index[0], left_ra, left_dec, np.arange(len(left_ra)))
    others = Points(index[1], right_ra, right_dec, np.arange(len(right_ra)))
    pairs = pairs_within(points, others, reach)
    sigma, density = np.empty(len(pairs)), np.empty(len(pairs))
    sides = (left_ra, left_dec, left_cov, right_ra, right_dec, right_cov)
    normalised_separations(pairs.left, pairs.right, *sides, sigma, density)
    near = sigma <= N_SIGMA
    return index, order, pairs.left[near], pairs.right[near], density[near]


def sorted_rows(ra, dec):
    index = healpix_29(ra, dec)
    order = np.argsort(index, kind="stable")
    return index[order], order


class Sky:
    """A simulated sky with its candidates, and which of them are true."""

    def __init__(self, seed, rows, fraction, confusion):
        left, right, true, side = simulated(seed, rows, fraction, confusion)
        self.index, (mine, its), self.i, j, self.density = candidates(left, right)
        self.true = true[its[j]] == mine[self.i]
        self.order = density_order(rows, side**2)
        self.nu = rows / side**2
        _, cell, counts = np.unique(self.index[0] >> 2 * (29 - self.order), return_inverse=True, return_counts=True)
        self.inside = (counts > 0.8 * self.nu * cell_area(self.order))[cell]  # the square covers the row's cell

    def probabilities(self):
        return probabilities(self.i, self.density, *self.index, self.order)

    def with_fraction(self, fraction):
        """Return the posteriors under a given prior."""
        weight = fraction * self.density / self.nu
        return weight / (1 - fraction + np.bincount(self.i, weight, minlength=len(self.index[0])))[self.i]


# fewer rows are needed where more of them are confused
ROWS = {1e-3: 100_000, 0.03: 20_000, 0.3: 50_000}


@pytest.fixture(scope="module", params=ROWS)
def skies(request):
    return {fraction: Sky(11, ROWS[request.param], fraction, request.param) for fraction in FRACTIONS}


def true_fractions(skies, posterior):
    """Return, for each bin, the mean posterior, the fraction of true pairs and the number of pairs."""
    matches = np.concatenate([posterior(fraction, sky)[sky.inside[sky.i]] for fraction, sky in skies.items()])
    true = np.concatenate([sky.true[sky.inside[sky.i]] for sky in skies.values()])
    within = [(low <= matches) & (matches < high) for low, high in BINS]
    return [(matches[chosen].mean(), true[chosen].mean(), chosen.sum()) for chosen in within]


def test_posteriors_are_the_fractions_of_true_pairs(skies):
    for (low, high), (mean, true, pairs) in zip(
        BINS, true_fractions(skies, lambda _, sky: sky.probabilities()[0]), strict=True
    ):
        assert pairs > 500
        assert low <= true <= high
        assert true == pytest.approx(mean, abs=0.02 + 1.5 * (true * (1 - true) / pairs) ** 0.5)


def test_the_fraction_with_a_counterpart_is_found(skies):
    for fraction, sky in skies.items():
        _, none = sky.probabilities()
        assert 1 - none[sky.inside].mean() == pytest.approx(fraction, abs=0.02)


def test_a_wrong_prior_is_not_calibrated(skies):
    wrong = true_fractions(skies, lambda _, sky: sky.with_fraction(0.999))
    assert not all(low <= true <= high for (low, high), (_, true, _) in zip(BINS, wrong, strict=True))
    right = true_fractions(skies, lambda fraction, sky: sky.with_fraction(fraction))
    assert all(low <= true <= high for (low, high), (_, true, _) in zip(BINS, right, strict=True))


def test_where_the_catalogs_end_posteriors_stay_calibrated():
    sky = Sky(12, 30_000, 0.6, 0.03)
    edge = ~sky.inside
    match, _ = sky.probabilities()
    chosen = (match >= 0.75) & (match < 0.85) & edge[sky.i]
    assert chosen.sum() > 1000
    assert 0.75 <= sky.true[chosen].mean() <= 0.85


def slow_probabilities(pairs_left, density, left_index, right_index, order):
    """Return posteriors by Bayes factor and prior, row by row; the prior by the paper's own iteration."""
    cells, right_cells = left_index >> 2 * (29 - order), right_index >> 2 * (29 - order)
    match, none = np.zeros(len(density)), np.ones(len(left_index))
    for cell in set(cells.tolist()):
        parts = Counter((right_index[right_cells == cell] >> 2 * (29 - order - 3)).tolist())
        rows = max(sum(parts.values()), 1)
        others = sum(n * (n - 1) for n in parts.values()) / rows
        nu = max(others / cell_area(order + 3), rows / cell_area(order))
        sky_rows = nu * SKY
        bayes = {row: SKY * density[pairs_left == row] for row in np.flatnonzero(cells == cell)}
        c = 0.5
        for _ in range(20_000):
            prior = c / sky_rows
            given_all = [1 - 1 / (1 + (prior * factors).sum() / (1 - c)) for factors in bayes.values()]
            c = (sum(given_all) + 1) / (len(bayes) + 2)
        for row, factors in bayes.items():
            odds = c / sky_rows * factors / (1 - c)
            match[pairs_left == row], none[row] = odds / (1 + odds.sum()), 1 / (1 + odds.sum())
    return match, none


def small_sky(seed, rows=25, pairs=40, order=3):
    rng = np.random.default_rng(seed)
    left, right = (np.sort(rng.integers(0, 3 << 2 * (29 - order), rows)) for _ in range(2))
    return np.sort(rng.integers(0, rows, pairs)), 10 ** rng.uniform(-3, 3, pairs), left, right, order


@pytest.mark.parametrize("seed", range(2))
def test_they_are_those_of_bayes_factors_and_the_slow_iteration(seed):
    for one, other in zip(probabilities(*small_sky(seed)), slow_probabilities(*small_sky(seed)), strict=True):
        assert one == pytest.approx(other, rel=1e-7)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.floats(0, 1e15)), max_size=40),
    st.lists(st.integers(0, 2), min_size=21, max_size=21),
)
def test_the_prior_agrees_with_the_posteriors_it_gives(pairs, cells):
    i = np.array([row for row, _ in sorted(pairs)], np.int64)
    density = np.array([value for _, value in sorted(pairs)])
    cells = np.sort(np.array(cells))
    match, none = probabilities(i, density, cells << 52, np.array([5]), 3)
    total = np.bincount(i, match, minlength=21)
    assert total + none == pytest.approx(np.ones(21), rel=1e-12)
    for cell in set(cells.tolist()):
        mine = cells == cell
        alone = mine & (total == 0)
        assert (none[alone] == 1).all()
        c = (total[mine].sum() + 1) / (mine.sum() + 2)
        ratio = np.bincount(i, density, minlength=21)[mine] * cell_area(3)
        assert none[mine] == pytest.approx((1 - c) / (1 - c + c * ratio), rel=1e-6, abs=1e-12)


def test_certain_pairs_and_lonely_rows():
    rows = np.arange(1000) << 40
    match, none = probabilities(np.arange(700), np.full(700, 1e12), rows, rows, 3)
    assert match == pytest.approx(np.ones(700), abs=1e-9)
    assert none[:700] == pytest.approx(np.zeros(700), abs=1e-9)
    assert (none[700:] == 1).all()


def test_few_rows_never_make_certain():
    one = np.zeros(1, np.int64)
    match, none = probabilities(one, np.array([1 / cell_area(5)]), one, one, 5)
    assert match[0] == pytest.approx(0.5)  # a counterpart is as near as chance would have it
    assert none[0] == pytest.approx(0.5)


def test_without_pairs_or_rows():
    nothing, rows = np.zeros(0, np.int64), np.arange(4) << 50
    assert [len(each) for each in probabilities(nothing, np.zeros(0), nothing, nothing, 4)] == [0, 0]
    assert (probabilities(nothing, np.zeros(0), rows, rows, 4)[1] == 1).all()
    match, none = probabilities(np.array([1]), np.array([1e9]), rows, nothing, 4)  # its right row is across the border
    assert match[0] > 0.999
    assert none[[0, 2, 3]].tolist() == [1, 1, 1]


def test_other_cells_change_no_bit():
    i, density, left, right, order = small_sky(7, rows=3000, pairs=9000)
    match, none = probabilities(i, density, left, right, order)
    for cell in range(3):
        mine = left >> 52 == cell
        rows, pairs = np.flatnonzero(mine), mine[i]
        its = right[right >> 52 == cell]
        alone = probabilities(i[pairs] - rows[0], density[pairs], left[mine], its, order)
        assert (alone[0] == match[pairs]).all()
        assert (alone[1] == none[mine]).all()


def test_cells_of_the_prior_hold_a_thousand_rows():
    sky = 41_252.96
    for rows in (1e6, 1e8, 2e9):
        order = density_order(rows, sky)
        assert rows / (12 * 4**order) >= 1000 > rows / (12 * 4 ** (order + 1))
    assert density_order(100, sky) == 3
    assert density_order(1e9, 1) == 12
    assert density_order(0, 1) == 3
