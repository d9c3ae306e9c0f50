import math
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciplat.errors import ColumnError, StoreCorrupt
from sciplat.io.catalog_writer import encode_parquet
from sciplat.io.extremes import read_extremes
from sciplat.io.foreign import open_any_catalog
from sciplat.io.publish import file_entry
from sciplat.io.storage import LocalStorage, open_storage
from tests.io.test_foreign import WAYS, stars, write_hats


def stored(folder, table, **how):
    """Write a file with row groups of four rows; return its storage and its entry."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=4, **how)
    data = sink.getvalue().to_pybytes()
    storage = LocalStorage(folder)
    storage.write("f.parquet", data)
    return storage, file_entry("f.parquet", data, rows=table.num_rows, footer=int.from_bytes(data[-8:-4], "little"))


def reads(monkeypatch):
    """Return a list that gets the columns of every reading of row groups."""
    found, read = [], pq.ParquetFile.read_row_groups

    def reader(self, groups, columns, **how):
        found.append(columns)
        return read(self, groups, columns=columns, **how)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", reader)
    return found


def columns(values):
    """Return a table of the values, None among them, as three types."""
    finite = [None if value is None or not math.isfinite(value) else value for value in values]
    whole = [None if value is None else int(np.clip(value, -(2**60), 2**60)) for value in finite]
    index = pa.array(range(len(values)), pa.int64())
    kinds = {"double": pa.array(values, pa.float64()), "single": pa.array(values, pa.float32())}
    return pa.table({"_healpix_29": index, **kinds, "whole": pa.array(whole, pa.int64())})


odd = st.sampled_from([None, math.nan, math.inf, -math.inf])
numbers = st.one_of(st.floats(width=32), st.integers(-(2**24), 2**24).map(float), odd)


@given(st.lists(numbers, min_size=1, max_size=20), st.booleans())
def test_they_are_those_of_the_finite_values(tmp_path_factory, values, has_statistics):
    table = columns(values)
    storage, entry = stored(tmp_path_factory.getbasetemp() / "extremes", table, write_statistics=has_statistics)
    found = read_extremes(storage, entry, ["whole", "single", "double"])
    assert list(found) == ["whole", "single", "double"]
    for name, span in found.items():
        finite = [value for value in table[name].to_pylist() if value is not None and math.isfinite(value)]
        assert span == ((min(finite), max(finite)) if finite else pytest.approx((math.nan, math.nan), nan_ok=True))


@pytest.mark.parametrize("values", [[None] * 5, [math.nan] * 5, [math.inf, -math.inf], [math.nan, None, math.inf]])
def test_without_a_finite_value_there_are_none(tmp_path, values):
    storage, entry = stored(tmp_path, columns(values))
    assert all(map(math.isnan, read_extremes(storage, entry, ["double"])["double"]))


def test_only_columns_whose_statistics_do_not_tell_are_read(tmp_path, monkeypatch):
    plain, dark = np.arange(12.0), [*[math.nan] * 4, *range(8)]  # a group without numbers has no statistics
    names = {"plain": plain, "holes": [1.5, math.nan, None] * 4, "dark": dark, "nulls": [*[None] * 4, *range(8)]}
    names |= {"endless": [math.inf, *range(11)], "large": np.arange(12) + 2**62, "small": plain.astype(np.int8)}
    storage, entry = stored(tmp_path, pa.table({"_healpix_29": np.arange(12), **names}))
    found = reads(monkeypatch)
    assert read_extremes(storage, entry, ["plain", "holes", "nulls", "large", "small"]) == {
        "plain": (0, 11),
        "holes": (1.5, 1.5),
        "nulls": (0, 7),
        "large": (2.0**62, 2.0**62 + 11),
        "small": (0, 11),
    }
    assert found == []
    assert read_extremes(storage, entry, ["endless", "plain", "dark"]) == {
        "endless": (0, 10),
        "plain": (0, 11),
        "dark": (0, 7),
    }
    assert found == [["endless"], ["dark"]]


@pytest.mark.parametrize("put", [math.nan, math.inf])
def test_statistics_that_are_no_numbers_are_not_believed(tmp_path, monkeypatch, put):
    """Some writers let nan and infinity into them: here they take the place of a value that the data keeps."""
    largest = 1234.5678
    table = pa.table({"_healpix_29": np.arange(3), "mag": [largest, 1.25, 2.5]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data = sink.getvalue().to_pybytes()
    footer = int.from_bytes(data[-8:-4], "little")
    body, tail = data[: -8 - footer], data[-8 - footer :]
    assert struct.pack("<d", largest) in tail
    data = body + tail.replace(struct.pack("<d", largest), struct.pack("<d", put))
    storage = LocalStorage(tmp_path)
    storage.write("f.parquet", data)
    entry, found = file_entry("f.parquet", data, rows=3, footer=footer), reads(monkeypatch)
    assert read_extremes(storage, entry, ["mag"]) == {"mag": (1.25, largest)}
    assert found == [["mag"]]


def test_our_own_files_tell_all_by_their_statistics(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    table = pa.table({"_healpix_29": np.arange(500), "mag": rng.normal(size=500), "id": np.arange(500)})
    data, footer = encode_parquet(table, 60)
    LocalStorage(tmp_path).write("f.parquet", data)
    entry, found = file_entry("f.parquet", data, rows=500, footer=footer), reads(monkeypatch)
    mag = table["mag"].to_numpy()
    extremes = read_extremes(LocalStorage(tmp_path), entry, ["mag", "id"])
    assert (extremes, found) == ({"mag": (mag.min(), mag.max()), "id": (0, 499)}, [])


@pytest.mark.parametrize("way", WAYS)
def test_files_and_folders_of_other_writers(tmp_path, way):
    check_cells(write_hats(tmp_path / "stars", stars(), **WAYS[way]), stars())


def check_cells(folder, rows):
    """Compare the extremes of every cell with those of its rows."""
    store, index = open_any_catalog(open_storage(folder)), rows["_healpix_29"].to_numpy()
    for entry in store.entries:
        inside = rows.filter(pa.array((index >= entry.cell.start) & (index < entry.cell.stop)))
        for name, span in read_extremes(store.storage, entry.file, ["mag", "objid", "_healpix_29"]).items():
            values = inside[name].drop_null().to_numpy()
            assert span == pytest.approx((float(values.min()), float(values.max())), rel=1e-15)


def test_dictionaries_and_decimals_of_other_writers(tmp_path):
    def change(rows):
        rows = rows.set_column(1, "objid", rows["objid"].dictionary_encode())
        return rows.set_column(4, "mag", rows["mag"].cast(pa.decimal128(25, 20)))

    check_cells(write_hats(tmp_path / "stars", stars(100), change=change), stars(100))


@pytest.mark.parametrize("kind", ["ours", "another's"])
def test_what_is_wrong_is_said_as_by_a_reading(tmp_path, kind):
    table = pa.table({"_healpix_29": np.arange(8), "name": list("abcdefgh"), "truth": [True, False] * 4})
    storage, entry = stored(tmp_path, table)
    path = tmp_path / entry.path
    if kind == "another's":
        rows = stars(50).append_column("name", pa.array(["a"] * 50)).append_column("truth", pa.array([True] * 50))
        store = open_any_catalog(open_storage(write_hats(tmp_path / "stars", rows)))
        storage, entry = store.storage, store.entries[0].file
        path = tmp_path / "stars" / entry.path
    with pytest.raises(ColumnError, match="'magnitude'"):
        read_extremes(storage, entry, ["_healpix_29", "magnitude"])
    for name in ("name", "truth"):
        with pytest.raises(ColumnError, match=f"'{name}' holds no numbers"):
            read_extremes(storage, entry, [name])
    data = path.read_bytes()
    for damaged in (data[:-1], data[:20], b""):
        path.write_bytes(damaged)
        with pytest.raises(StoreCorrupt, match=r"\.parquet"):
            read_extremes(storage, entry, ["_healpix_29"])
    path.unlink()
    with pytest.raises(StoreCorrupt, match=r"\.parquet"):
        read_extremes(storage, entry, ["_healpix_29"])
