import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciplat.steps.digest import table_digest


def test_the_digest_is_that_of_the_content():
    table = pa.table({"x": pa.array(np.arange(1000), mask=np.arange(1000) % 3 == 0), "t": [str(k) for k in range(1000)],
                      "l": [[k] * (k % 3) for k in range(1000)], "b": [k % 7 == 0 for k in range(1000)]})  # fmt: skip
    cut = pa.concat_tables([table.slice(0, 13), table.slice(13, 1), table.slice(14)])
    under = pa.array(np.where(np.arange(1000) % 3, np.arange(1000), -5), mask=np.arange(1000) % 3 == 0)
    for same in (cut, pa.concat_tables([table, table]).slice(1000), table.set_column(0, "x", under)):
        assert table_digest(same) == table_digest(table)
    for other in (table.slice(1), table.rename_columns(["y", "t", "l", "b"]), table.take(list(range(999, -1, -1))),
                  table.set_column(0, "x", pa.array(np.arange(1000)))):  # fmt: skip
        assert table_digest(other) != table_digest(table)


STRUCT = pa.struct([("a", pa.int64()), ("t", pa.string())])
KINDS = [
    (pa.string(), st.text(max_size=3)),
    (pa.string_view(), st.text(max_size=14)),
    (pa.large_binary(), st.binary(max_size=3)),
    (pa.binary(2), st.binary(min_size=2, max_size=2)),
    (pa.bool_(), st.booleans()),
    (pa.int16(), st.integers(-9, 9)),
    (pa.float64(), st.floats(allow_nan=False)),
    (pa.decimal128(5, 1), st.decimals(-99, 99, places=1)),
    (pa.date32(), st.dates()),
    (pa.null(), st.none()),
    (pa.dictionary(pa.int8(), pa.string()), st.sampled_from("abc")),
    (pa.list_(pa.float32()), st.lists(st.none() | st.sampled_from([0.0, 1.5]), max_size=3)),
    (pa.list_(pa.int8(), 2), st.lists(st.none() | st.integers(0, 3), min_size=2, max_size=2)),
    (pa.map_(pa.string(), pa.int64()), st.lists(st.tuples(st.sampled_from("xy"), st.integers(0, 3)), max_size=2)),
    (STRUCT, st.fixed_dictionaries({"a": st.none() | st.integers(0, 3), "t": st.none() | st.text(max_size=2)})),
]


@pytest.mark.parametrize(("kind", "values"), KINDS, ids=lambda each: str(each) if isinstance(each, pa.DataType) else "")
def test_tables_have_one_digest_exactly_when_their_values_are_equal(kind, values):
    columns = st.lists(st.none() | values, max_size=6)

    @given(columns, columns, st.integers(0, 6))
    def check(one, other, cut):
        first, second = (pa.table({"x": pa.array(each, kind)}) for each in (one, other))
        equal = str(first.to_pydict()) == str(second.to_pydict())  # -0.0 is not 0.0
        assert (table_digest(first) == table_digest(second)) == equal
        shifted = pa.concat_tables([second, first]).combine_chunks().slice(len(other))
        for same in (pa.concat_tables([first.slice(0, cut), first.slice(cut)]), shifted):
            assert table_digest(same) == table_digest(first)

    check()


def test_what_lies_under_a_null_inside_of_a_structure_or_list_does_not_count():
    mask = np.array([False, True])
    plain, odd = (pa.array(np.array([1, hidden]), mask=mask) for hidden in (2, 3))
    assert plain.buffers()[1].to_pybytes() != odd.buffers()[1].to_pybytes()
    wraps = [
        lambda each: each,
        lambda each: pa.StructArray.from_arrays([each], names=["a"]),
        lambda each: pa.StructArray.from_arrays([np.frombuffer(each.buffers()[1], "i8")], ["a"], mask=pa.array(mask)),
        lambda each: pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), each),
    ]
    for wrap in wraps:
        assert table_digest(pa.table({"x": wrap(plain)})) == table_digest(pa.table({"x": wrap(odd)}))
