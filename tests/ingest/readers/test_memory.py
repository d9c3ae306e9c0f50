"""Tables of pyarrow, pandas and astropy in memory."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.table import Column, MaskedColumn, QTable, Table

from sciplat.errors import InputError
from sciplat.ingest.sources import open_sources


def rows_of(source, chunk=1 << 20):
    found = open_sources(source, chunk=chunk)
    return found, pa.concat_tables(table for part in found.parts for table in part.read())


def test_a_part_travels_without_the_rest_of_its_table():
    parts = open_sources(pa.table({"x": np.arange(100_000)}), chunk=8000).parts
    assert len(parts) > 50
    assert [part.first for part in parts] == [next(part.read())["x"][0].as_py() for part in parts]
    assert all(len(pickle.dumps(part)) < 20_000 for part in parts)
    assert pickle.loads(pickle.dumps(parts[7])) == parts[7]
    assert len(set(parts)) == len(parts)


def test_a_frame_loses_an_index_without_a_name_only():
    frame = pd.DataFrame({"ra": [1.0, None], "name": ["a", None]}, index=[5, 7])
    assert rows_of(frame)[1].to_pydict() == {"ra": [1.0, None], "name": ["a", None]}
    frame.index.name = "id"
    assert rows_of(frame)[1].to_pydict() == {"ra": [1.0, None], "name": ["a", None], "id": [5, 7]}
    frame = frame.set_index(pd.MultiIndex.from_tuples([(1, 2), (3, 4)], names=[None, "key"]))
    assert rows_of(frame)[1]["key"].to_pylist() == [2, 4]
    assert rows_of(frame)[1].num_columns == 3
    named = pd.DataFrame({"x": pd.Categorical(["a", "b"])}, index=pd.RangeIndex(2, name="row"))
    assert rows_of([named])[1].to_pydict() == {"x": ["a", "b"], "row": [0, 1]}


@pytest.mark.parametrize(
    "frame", [pd.DataFrame([[1, 2]], columns=["a", "a"]), pd.DataFrame({"x": [1, "a", object()]}),
              pd.DataFrame({"x": [1 + 2j]})],
)  # fmt: skip
def test_a_frame_that_no_catalog_can_hold(frame):
    with pytest.raises(InputError, match="table 1 in memory"):
        open_sources(frame, chunk=1000)


def test_an_astropy_table_keeps_units_descriptions_and_masks():
    table = Table({"id": MaskedColumn([1, 2], mask=[False, True]), "name": ["a", "b"]})
    table["ra"] = Column(np.array([1, np.nan], ">f4"), unit="deg", description="of the centre", meta={"ucd": "pos"})
    table["word"] = MaskedColumn([b"x ", b"long"], mask=[True, False])
    table["flux"] = MaskedColumn([[1, 2], [3, 4]], mask=[[False, True], [False, False]])
    found, rows = rows_of(table)
    assert rows.drop_columns(["ra"]).to_pydict() == {
        "id": [1, None], "name": ["a", "b"], "word": [None, "long"], "flux": [[1, None], [3, 4]]
    }  # fmt: skip
    assert np.isnan(rows["ra"][1].as_py())
    assert rows["ra"].type == pa.float32()
    assert found.schema.field("ra").metadata == {b"unit": b"deg", b"description": b"of the centre", b"ucd": b"pos"}
    found, rows = rows_of(QTable({"d": [1, 2] * units.pc}))
    assert rows.to_pydict() == {"d": [1, 2]}
    assert found.schema.field("d").metadata == {b"unit": b"pc"}


def test_columns_of_coordinates_are_refused_with_advice():
    table = Table({"place": SkyCoord([1, 2], [3, 4], unit="deg")})
    with pytest.raises(InputError, match="'place' of table 1 in memory is no plain column") as refused:
        open_sources(table, chunk=1000)
    assert refused.value.found == "SkyCoord"


@pytest.mark.parametrize("kind", [pa.month_day_nano_interval(), pa.run_end_encoded(pa.int32(), pa.float64())], ids=str)
def test_a_type_that_no_file_holds_is_named(kind):
    with pytest.raises(InputError, match="'x' of table 1 in memory has a type") as refused:
        open_sources(pa.table({"x": pa.nulls(2, kind) if "run" not in str(kind) else
                               pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array([1.0]))}), chunk=9)
    assert refused.value.found == str(kind)


def test_columns_of_pandas_keep_what_they_mean():
    frame = pd.DataFrame({
        "kind": pd.Categorical(["a", None]), "count": pd.array([1, None], "Int64"),
        "text": pd.array(["a", None], "string"), "time": pd.to_datetime(["2020-01-01", "2021-01-01"], utc=True),
    })  # fmt: skip
    found, rows = rows_of(frame)
    assert rows.drop_columns(["time"]).to_pydict() == {"kind": ["a", None], "count": [1, None], "text": ["a", None]}
    assert found.schema.field("time").type.tz == "UTC"


class _Code(pa.ExtensionType):
    """A type of others, whose numbers are codes."""

    def __init__(self):
        super().__init__(pa.int64(), "others.code")

    def __arrow_ext_serialize__(self):
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, _storage, _serialized):
        return cls()


@pytest.mark.parametrize("known", [True, False])
def test_types_of_others_are_refused_by_name(tmp_path, known):
    with pytest.raises(InputError, match="'when' of table 1 in memory has a type") as refused:
        open_sources(pd.DataFrame({"when": pd.period_range("2020-01", periods=2, freq="M")}), chunk=1000)
    assert "period" in refused.value.found
    name = {"ARROW:extension:name": "others.code", "ARROW:extension:metadata": ""}
    plain = pa.field("x", pa.int64(), metadata=name)
    nested = pa.field("x", pa.struct([plain]))
    for number, (field, values) in enumerate(((plain, [1, 2]), (nested, [{"x": 1}]))):
        schema = pa.schema([field])
        pq.write_table(pa.table([pa.array(values, field.type)], schema=schema), tmp_path / f"{number}.parquet")
        if known:
            pa.register_extension_type(_Code())
        try:
            with pytest.raises(InputError, match=r"'x' of .*parquet has a type"):
                open_sources(tmp_path / f"{number}.parquet", chunk=1000)
        finally:
            if known:
                pa.unregister_extension_type("others.code")


@pytest.mark.parametrize(
    "values",
    [pd.Series([1, "x"], dtype=object), pd.arrays.SparseArray([1.0, 0.0]), np.array([1j, 2]),
     np.array([1, 2], np.longdouble)],
    ids=["objects", "sparse", "complex", "longdouble"],
)  # fmt: skip
@pytest.mark.parametrize("kind", [pd.DataFrame, Table])
def test_a_column_that_no_catalog_holds_is_named_and_no_file_is_blamed(values, kind):
    if kind is Table:
        values = np.asarray(values) if not isinstance(values, pd.arrays.SparseArray) else np.array([1, {}], object)
    with pytest.raises(InputError, match="the column 'odd' of table 1 in memory") as refused:
        open_sources(kind({"ra": [1.0, 2.0], "odd": values}), chunk=1000)
    assert refused.value.hint
    assert "complete" not in refused.value.hint


def test_dictionaries_and_views_become_plain_at_any_depth():
    nested = pa.array([["a"], None], pa.list_(pa.dictionary(pa.int32(), pa.string())))
    table = pa.table({"nested": nested, "view": pa.array(["a", None], pa.string_view()),
                      "bytes": pa.array([b"a", None], pa.binary_view())})  # fmt: skip
    found, rows = rows_of(table)
    assert found.schema.types == [pa.list_(pa.string()), pa.string(), pa.binary()]
    assert rows.to_pydict() == table.to_pydict()


def test_nothing_heavy_is_imported_to_read_a_pyarrow_table():
    code = (
        "import sys, pyarrow as pa; from sciplat.ingest.sources import open_sources;"
        "part, = open_sources(pa.table({'x': [1]}), chunk=9).parts; list(part.read());"
        "assert not {'astropy.table', 'astropy.io.votable', 'pyarrow.dataset', 'pyarrow.acero'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
