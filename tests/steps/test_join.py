import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciplat.steps.join import Joining, Near, join, key_kind, rows_per_key

KEYS = st.lists(st.one_of(st.none(), st.integers(-3, 3)), max_size=12)
ON = (("id", "key"),)


def left_table(keys, kind=None):
    return pa.table({"id": pa.array(keys, kind or pa.int64()), "row": pa.array(range(len(keys)), pa.int64())})


def right_table(keys, kind=None):
    return pa.table({"key": pa.array(keys, kind or pa.int64()), "other": pa.array(range(len(keys)), pa.int64())})


def joined(left, right, how="inner", on=ON, near=None):
    rows = join(left, right, Joining(on, how, (("other", "its"),), near))
    return list(zip(rows["row"].to_pylist(), rows["its"].to_pylist(), strict=True))


def brute_force(left, right, how):
    pairs = []
    for i, key in enumerate(left):
        found = [(i, j) for j, its in enumerate(right) if its == key and key is not None]
        pairs += found or ([(i, None)] if how == "left" else [])
    return pairs


@given(KEYS, KEYS, st.sampled_from(["inner", "left"]))
def test_all_pairs_of_equal_keys_in_order(left, right, how):
    assert joined(left_table(left), right_table(right), how) == brute_force(left, right, how)


@given(st.lists(st.sampled_from(["", "a", "b", "aé", None]), max_size=9), st.data())
def test_texts_match_whatever_their_type(left, data):
    right = data.draw(st.permutations([*left, "b", None]))
    kinds = st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
    tables = left_table(left, data.draw(kinds)), right_table(right, data.draw(kinds))
    assert joined(*tables, "left") == brute_force(left, right, "left")


@given(KEYS, KEYS, st.sampled_from([pa.int8(), pa.int32(), pa.int64()]), st.sampled_from([pa.int16(), pa.int64()]))
def test_integers_match_whatever_their_width(left, right, mine, its):
    assert joined(left_table(left, mine), right_table(right, its)) == brute_force(left, right, "inner")


@pytest.mark.parametrize("swapped", [False, True])
def test_unsigned_integers_match_signed_ones_of_the_same_value_only(swapped):
    signed, unsigned = [-1, 5, 2**63 - 1, None, -(2**63)], [2**64 - 1, 5, 2**63 - 1, None, 2**63]
    sides = [(signed, pa.int64()), (unsigned, pa.uint64())]
    left, right = reversed(sides) if swapped else sides
    assert joined(left_table(*left), right_table(*right)) == [(1, 1), (2, 2)]
    same = joined(left_table(unsigned, pa.uint64()), right_table(unsigned, pa.uint64()))
    assert same == [(k, k) for k in (0, 1, 2, 4)]


@given(KEYS, KEYS, st.data())
def test_several_keys_are_equal_together(left, right, data):
    names = st.sampled_from(["x", "y", None])
    more = [data.draw(st.lists(names, min_size=len(side), max_size=len(side))) for side in (left, right)]
    third = [[n % 2 for n in range(len(side))] for side in (left, right)]
    tables = [make(side) for make, side in ((left_table, left), (right_table, right))]
    tables = [t.append_column("band", pa.array(b, pa.string())) for t, b in zip(tables, more, strict=True)]
    tables = [t.append_column("odd", pa.array(o, pa.int8())) for t, o in zip(tables, third, strict=True)]
    keys = [
        [None if None in key else key for key in zip(side, names, odd, strict=True)]
        for side, names, odd in zip((left, right), more, third, strict=True)
    ]
    on = (*ON, ("band", "band"), ("odd", "odd"))
    assert joined(*tables, "left", on) == brute_force(*keys, "left")


def test_rows_farther_apart_than_the_reach_are_no_match():
    arcsec = 1 / 3600
    left = left_table([1, 2, 3, 4]).append_column("ra", pa.array([10.0, 0.0, 77.0, 0.0]))
    left = left.append_column("dec", pa.array([60.0, 0.0, 90.0, 0.0]))
    # half the shift in right ascension at 60 degrees; across RA = 0; at the pole; the far side of the sky
    right = right_table([1, 1, 2, 2, 3, 4]).append_column(
        "lon", pa.array([10 + 1.9 * arcsec, 10 + 2.1 * arcsec, 360 - 0.9 * arcsec, 1.1 * arcsec, 200.0, 180.0])
    )
    right = right.append_column("lat", pa.array([60.0, 60.0, 0.0, 0.0, 90 - 0.9 * arcsec, 0.0]))
    near = Near(("ra", "dec"), ("lon", "lat"), arcsec)
    assert joined(left, right, near=near) == [(0, 0), (1, 2), (2, 4)]
    assert joined(left, right, "left", near=near) == [(0, 0), (1, 2), (2, 4), (3, None)]
    coincident = Near(("ra", "dec"), ("ra", "dec"), 1e-12)
    again = left.rename_columns(["key", "other", "ra", "dec"])
    assert joined(left, again, near=coincident) == [(k, k) for k in range(4)]


def test_all_kinds_of_columns_come_along_with_their_units():
    curve = pa.field("curve", pa.list_(pa.struct([("mjd", pa.float64())])))
    flux = pa.field("flux", pa.float32(), nullable=False, metadata={"unit": "nJy"})
    right = pa.table([[7, 8], [1.0, 2.0], [[{"mjd": 1.0}], []]], schema=pa.schema([("key", pa.int64()), flux, curve]))
    right = pa.concat_tables([right.slice(1), right.slice(0, 1)])  # several chunks
    left = left_table([8, 9, 7]).append_column("names", pa.array([["a"], None, ["b", "c"]]))
    kept = (("curve", "curve"), ("flux", "flux_other"))
    rows = join(left, right, Joining(ON, "left", kept))
    assert rows["names"].to_pylist() == [["a"], None, ["b", "c"]]
    assert rows["curve"].to_pylist() == [[], None, [{"mjd": 1.0}]]
    assert rows["flux_other"].to_pylist() == [2.0, None, 1.0]
    assert rows.schema.field("flux_other") == pa.field("flux_other", pa.float32())
    assert rows.schema.field("flux_other").metadata == {b"unit": b"nJy"}
    assert not join(left, right, Joining(ON, "inner", kept)).schema.field("flux_other").nullable


def test_what_can_be_a_key():
    assert key_kind(pa.uint8()) == key_kind(pa.dictionary(pa.int8(), pa.int64())) == "integers"
    assert key_kind(pa.string_view()) == key_kind(pa.large_string()) == "texts"
    for kind in (pa.float64(), pa.bool_(), pa.date32(), pa.binary(), pa.null(), pa.list_(pa.int64())):
        assert key_kind(kind) is None


def test_rows_per_key_counts_no_nulls():
    assert rows_per_key(right_table([1, 1, 1, 2, None]), ["key"]) == 2
    assert rows_per_key(right_table([]), ["key"]) == 0
    assert rows_per_key(right_table([1, 1, 1, 2]), ["key", "other"]) == 1


def test_a_join_of_many_rows_is_that_of_sets():
    rng = np.random.default_rng(5)
    left, right = rng.integers(0, 3000, 5000), rng.integers(0, 3000, 4000)
    pairs = np.array(joined(left_table(left), right_table(right)))
    i, j = np.nonzero(left[:, np.newaxis] == right)
    assert (pairs == np.stack([i, j], axis=1)).all()
