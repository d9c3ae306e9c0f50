import pyarrow as pa
import pytest

from sciplat.errors import ArgumentError
from sciplat.steps.nest import nest


def table(ids, **columns):
    return pa.table({"id": pa.array(ids, pa.int64()), **columns})


def test_rows_of_a_key_become_a_list_in_their_order():
    rows = table([5, 5, 2, 9, 9, 9], mjd=[3.0, 1.0, 7.0, 1.0, 2.0, 3.0], band=list("grgrgr"))
    nested = nest(rows, "id", ["id"], ["mjd", "band"], "points")
    assert nested["id"].to_pylist() == [5, 2, 9]
    assert nested["points"].to_pylist()[0] == [{"mjd": 3.0, "band": "g"}, {"mjd": 1.0, "band": "r"}]
    assert [len(points) for points in nested["points"].to_pylist()] == [2, 1, 3]


def test_chunks_and_slices_make_no_difference():
    rows = table([1, 1, 2, 2, 3], flux=[1.0, None, 3.0, 4.0, 5.0])
    chunked = pa.concat_tables([rows.slice(0, 1), rows.slice(1, 2), rows.slice(3)])
    assert nest(chunked, "id", ["id"], ["flux"], "p").equals(nest(rows, "id", ["id"], ["flux"], "p"))
    assert nest(rows.slice(2), "id", ["id"], ["flux"], "p")["p"].to_pylist() == [
        [{"flux": 3.0}, {"flux": 4.0}],
        [{"flux": 5.0}],
    ]


def test_text_keys_nulls_and_nothing():
    assert nest(table([], flux=pa.array([], pa.float64())), "id", ["id"], ["flux"], "p").num_rows == 0
    rows = pa.table({"id": ["a", "a", "b"], "x": [1, 2, 3]})
    assert nest(rows, "id", ["id"], ["x"], "p")["id"].to_pylist() == ["a", "b"]


def test_scattered_rows_of_one_key_are_refused():
    with pytest.raises(ArgumentError, match="'id'"):
        nest(table([1, 2, 1], x=[1, 2, 3]), "id", ["id"], ["x"], "p")
