from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from sciplat.steps.sample import _mixed, _sequence, sample

POSITION = ("ra", "dec")
NAMES = [f"SDSS J{n:06d}" for n in range(20_000)]


def table(names, **columns):
    rng = np.random.default_rng(1)
    count = len(names)
    return pa.table({"id": names, "ra": rng.uniform(0, 360, count), "dec": rng.uniform(-90, 90, count), **columns})


def chosen(rows, identity="id", fraction=0.3, seed=0):
    return set(sample(rows, identity, POSITION, fraction, seed)["row"].to_pylist())


def numbered(names):
    return table(names, row=np.arange(len(names)))


def test_the_sequence_is_that_of_splitmix64():
    """The first numbers of seed 1234567, as the authors' own code gives them."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert _sequence(np.arange(1, 6, dtype=np.uint64), 1234567).tolist() == known


def test_mixing_is_one_to_one_and_agrees_with_whole_numbers():
    def reference(state):
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> shift)) * factor % 2**64
        return state ^ (state >> 31)

    states = np.random.default_rng(2).integers(0, 2**64, 200, dtype=np.uint64)
    assert _mixed(states).tolist() == [reference(state) for state in states.tolist()]
    assert len(np.unique(_mixed(np.arange(10**5, dtype=np.uint64)))) == 10**5


@pytest.mark.parametrize(
    "names",
    [np.arange(20_000), np.arange(20_000) << 40, -np.arange(20_000), NAMES, [name[::-1] for name in NAMES]],
    ids=["numbers", "even numbers", "negative", "texts", "reversed"],
)
@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.9])
def test_about_the_fraction_is_kept_whatever_the_names(names, fraction):
    rows = numbered(names)
    scatter = np.sqrt(20_000 * fraction * (1 - fraction))
    by_seed = [chosen(rows, fraction=fraction, seed=seed) for seed in range(3)]
    assert all(abs(len(kept) - 20_000 * fraction) < 5 * scatter for kept in by_seed)
    # two seeds have nothing to do with each other
    assert abs(len(by_seed[0] & by_seed[1]) - 20_000 * fraction**2) < 5 * scatter
    assert abs(len(by_seed[1] & by_seed[2]) - 20_000 * fraction**2) < 5 * scatter


@pytest.mark.parametrize("identity", ["id", None])
def test_a_smaller_sample_is_a_part_of_a_larger_one(identity):
    samples = [chosen(numbered(NAMES), identity, fraction) for fraction in (1e-12, 0.001, 0.1, 0.11, 0.9, 1.0)]
    assert all(small <= large for small, large in pairwise(samples))
    assert [len(samples[0]), len(samples[-1])] == [0, 20_000]
    assert samples[2] < samples[3]


@pytest.mark.parametrize("identity", ["id", None])
def test_a_row_is_kept_whatever_stands_beside_it(identity):
    rows = numbered(NAMES)
    kept = chosen(rows, identity)
    parts = [rows.slice(0, 7), rows.slice(7, 12_000), rows.slice(12_007)]
    assert set.union(*(chosen(part, identity) for part in parts)) == kept
    assert chosen(pa.concat_tables(parts), identity) == kept
    mixed = rows.take(pa.array(np.random.default_rng(3).permutation(rows.num_rows)))
    assert chosen(mixed, identity) == kept


def test_the_type_of_the_names_makes_no_difference():
    integers, texts = (pa.int16(), pa.int64(), pa.uint64()), (pa.string(), pa.large_string())
    for values, types in ((range(9000), integers), (NAMES, texts)):
        first, *others = (chosen(numbered(pa.array(values, kind))) for kind in types)
        assert all(other == first for other in others)


def test_rows_of_one_name_stay_together_at_any_position():
    rows = numbered([name for name in NAMES[:500] for _ in range(4)])
    kept = chosen(rows)
    assert {row // 4 * 4 + k for row in kept for k in range(4)} == kept


def test_texts_that_differ_little_are_told_apart():
    texts = ["", "a", "aa", "b", "ab", "ba", "\0", "\0\0", "a\0", "ä", "a" * 40, "a" * 41]
    kept = [frozenset(chosen(numbered(texts), fraction=0.5, seed=seed)) for seed in range(64)]
    alike = {tuple(row in each for each in kept) for row in range(len(texts))}
    assert len(alike) == len(texts)


def test_where_the_name_is_null_the_position_decides():
    rows = numbered(pa.array([None, 5] * 1000))
    kept, by_position = chosen(rows), chosen(rows, None)
    assert {row for row in kept if row % 2 == 0} == {row for row in by_position if row % 2 == 0}
    assert {row % 2 for row in kept} in ({0}, {0, 1})
    assert len({row for row in kept if row % 2}) in (0, 1000)
    moved = rows.set_column(1, "ra", pa.array(rows["ra"].to_numpy() + 1e-9))
    assert chosen(moved, None) != by_position
    zero = pa.table({"ra": [0.0, -0.0], "dec": [-0.0, 0.0], "row": [0, 1]})
    assert all(len(chosen(zero, None, 0.5, seed)) != 1 for seed in range(20))


def test_nothing_gives_nothing():
    for names in (pa.array([], pa.string()), pa.array([], pa.int64())):
        assert sample(numbered(names), "id", POSITION, 0.5, 1).num_rows == 0
    assert chosen(numbered(pa.array([None, ""], pa.string())), fraction=1.0) == {0, 1}
