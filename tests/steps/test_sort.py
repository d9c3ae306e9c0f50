import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from sciplat.steps.sort import merged_rows, sorted_rows, stable_order

indices = st.lists(st.integers(0, 9), max_size=50).map(lambda found: np.array(found, dtype=np.int64))


@given(indices)
def test_the_order_is_the_stable_one(index):
    assert stable_order(index).tolist() == np.argsort(index, kind="stable").tolist()


def test_the_order_of_many_rows_with_few_ties():
    index = np.random.default_rng(4).integers(0, 10**5, 10**5)
    assert (stable_order(index) == np.argsort(index, kind="stable")).all()


@given(st.lists(indices, min_size=1, max_size=5))
def test_merging_sorted_parts_is_sorting_the_whole(parts):
    numbers = np.split(np.arange(sum(map(len, parts))), np.cumsum([len(part) for part in parts])[:-1])
    tables = [
        sorted_rows(pa.table({"row": number, "name": pa.array([f"n{n}" for n in number.tolist()], pa.string())}), part)
        for part, number in zip(parts, numbers, strict=True)
    ]
    whole = np.concatenate(parts)
    merged = merged_rows(tables)
    assert merged["_healpix_29"].to_pylist() == np.sort(whole).tolist()
    assert merged["row"].to_pylist() == np.argsort(whole, kind="stable").tolist()
    assert merged["name"].to_pylist() == [f"n{n}" for n in merged["row"].to_pylist()]
    assert all(column.num_chunks == 1 for column in merged.columns)
    assert merged.schema.equals(tables[0].schema, check_metadata=True)
