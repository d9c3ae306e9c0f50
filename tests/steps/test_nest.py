import numpy as np
import pyarrow as pa

from sciplat.steps.nest import nest


def table(ids, positions=None, **columns):
    index = np.zeros(len(ids), np.int64) if positions is None else np.array(positions)
    return pa.table({"_healpix_29": index, "id": pa.array(ids, pa.int64()), **columns})


def test_rows_of_a_key_become_a_list_in_their_order():
    rows = table([5, 5, 2, 9, 9, 9], [1, 1, 3, 7, 7, 7], mjd=[3.0, 1.0, 7.0, 1.0, 2.0, 3.0], band=list("grgrgr"))
    nested = nest(rows, "id", ["id"], ["mjd", "band"], "points")
    assert nested["id"].to_pylist() == [5, 2, 9]
    assert nested["points"].to_pylist()[0] == [{"mjd": 3.0, "band": "g"}, {"mjd": 1.0, "band": "r"}]
    assert [len(points) for points in nested["points"].to_pylist()] == [2, 1, 3]


def test_keys_that_alternate_at_one_position_are_told_apart():
    nested = nest(table([2, 1, 2, 1], x=[1, 2, 3, 4]), "id", ["id"], ["x"], "p")
    assert nested["id"].to_pylist() == [1, 2]
    assert nested["p"].to_pylist() == [[{"x": 2}, {"x": 4}], [{"x": 1}, {"x": 3}]]


def test_a_key_at_two_positions_gives_two_rows_wherever_cells_end():
    rows = table([7, 7, 7], [4, 4, 5], x=[1, 2, 3])
    whole = nest(rows, "id", ["_healpix_29", "id"], ["x"], "p")
    assert whole["p"].to_pylist() == [[{"x": 1}, {"x": 2}], [{"x": 3}]]
    parts = [nest(part, "id", ["_healpix_29", "id"], ["x"], "p") for part in (rows.slice(0, 2), rows.slice(2))]
    assert pa.concat_tables(parts).combine_chunks().equals(whole.combine_chunks())


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
    rows = pa.table({"_healpix_29": [1, 1, 1, 1], "id": ["a", None, "a", None], "x": [1, 2, 3, 4]})
    nested = nest(rows, "id", ["id"], ["x"], "p")
    assert nested["id"].to_pylist() == ["a", None]
    assert nested["p"].to_pylist() == [[{"x": 1}, {"x": 3}], [{"x": 2}, {"x": 4}]]
