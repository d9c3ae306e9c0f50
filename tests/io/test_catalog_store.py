import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciplat.errors import ColumnError, SciplatError, StoreCorrupt, StoreExists
from sciplat.io import catalog_store
from sciplat.io.catalog_store import open_catalog_store, read_cell
from sciplat.io.catalog_writer import CatalogWriter, encode_parquet
from sciplat.io.publish import file_entry
from sciplat.io.storage import LocalStorage, open_storage
from sciplat.io.verify import verify_files
from sciplat.lazy.node import Scan
from sciplat.sky.cell import Cell, healpix_29, split_cells
from sciplat.sky.frame import unit_vectors
from sciplat.sky.surroundings import surroundings

PROPERTIES = {"position": ["ra", "dec"], "id": "source_id", "kind": "sources", "frame": "icrs", "rows_per_cell": 300}


def table(n=2000, seed=0):
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    index = healpix_29(ra, dec)
    order = np.argsort(index)
    return pa.table(
        {
            "_healpix_29": index[order],
            "source_id": np.arange(n),
            "ra": ra[order],
            "dec": dec[order],
            "mag": pa.array(rng.normal(size=n), mask=rng.uniform(size=n) < 0.1),
            "band": pa.array(rng.choice(["g", "r"], n)),
        }
    )


def write(storage, rows, *, replace=False, rows_per_cell=300):
    writer = CatalogWriter.begin(storage, PROPERTIES, replace=replace)
    parts = split_cells(rows["_healpix_29"].to_numpy(), rows_per_cell)
    reports = [writer.cells.write(c, rows.slice(a, b - a), rows_per_cell) for c, a, b in parts]
    return writer.publish(rows.schema, reports)


@pytest.fixture
def store(tmp_path):
    return write(LocalStorage(tmp_path / "cat"), table())


def read_all(store):
    return pa.concat_tables([read_cell(store.storage, entry.file) for entry in store.entries])


def test_what_is_written_is_read(store):
    opened = open_catalog_store(store.storage)
    assert read_all(opened).equals(table())
    assert opened.schema.equals(table().schema)
    assert opened.position == ("ra", "dec")
    assert all(entry.file.rows <= 300 for entry in opened.entries)
    assert verify_files(opened.storage, opened.manifest) == []


def test_equal_rows_are_equal_bytes(tmp_path):
    one, two = (write(LocalStorage(tmp_path / name), table()) for name in ("a", "b"))
    assert one.manifest.digest == two.manifest.digest
    assert write(LocalStorage(tmp_path / "c"), table(seed=1)).manifest.digest != one.manifest.digest


def test_columns_come_in_the_order_asked_for(store):
    rows = read_cell(store.storage, store.entries[0].file, ["mag", "ra"])
    assert rows.schema.names == ["mag", "ra"]
    with pytest.raises(ColumnError, match="'magnitude'"):
        read_cell(store.storage, store.entries[0].file, ["magnitude"])


@given(st.lists(st.integers(0, 12 * 4**4 - 1), min_size=1, max_size=5, unique=True))
def test_ranges_choose_exactly_their_rows(tmp_path_factory, cells):
    storage = LocalStorage(tmp_path_factory.getbasetemp() / "ranges")
    store = open_catalog_store(storage) if storage.names("versions") else write(storage, table(), rows_per_cell=10**6)
    ranges = np.array([(Cell(4, c).start, Cell(4, c).stop) for c in sorted(cells)], dtype=np.int64)
    found = pa.concat_tables([read_cell(storage, entry.file, None, ranges) for entry in store.entries])
    index = table()["_healpix_29"].to_numpy()
    wanted = np.isin(index >> 50, cells)
    assert found["source_id"].to_pylist() == np.flatnonzero(wanted).tolist()


def groups_read(monkeypatch, storage, entry, **asked):
    """Return the row groups of a file that are read, and the rows."""
    opened, reader = set(), catalog_store.pq.ParquetFile.read_row_groups
    with monkeypatch.context() as patch:
        patch.setattr(
            catalog_store.pq.ParquetFile,
            "read_row_groups",
            lambda self, groups, **kw: (opened.update(groups), reader(self, groups, **kw))[1],
        )
        return opened, read_cell(storage, entry, **asked)


@pytest.fixture
def in_groups(tmp_path):
    """Return a storage and its file of five row groups of ten rows with columns that tell them apart."""
    values = np.repeat(np.arange(5), 10)
    columns = {
        "_healpix_29": np.arange(50),
        "number": pa.array(values),
        "real": pa.array([*(values[:40] + 0.5), *[None] * 10]),
        "holes": pa.array(np.where(np.arange(50) % 10 == 3, np.nan, values)),
        "nan": pa.array([*[np.nan] * 20, *values[20:].astype(float)]),
        "text": pa.array([f"{'abcde'[value]}{'x' * 3}" for value in values]),
        "truth": pa.array(values > 2),
        "lists": pa.array([[value] for value in values]),
    }
    sink = pa.BufferOutputStream()
    catalog_store.pq.write_table(pa.table(columns), sink, row_group_size=10)
    data = sink.getvalue().to_pybytes()
    storage = LocalStorage(tmp_path)
    storage.write("f.parquet", data)
    return storage, file_entry("f.parquet", data, rows=50, footer=int.from_bytes(data[-8:-4], "little"))


def test_row_groups_outside_are_not_read(monkeypatch, in_groups):
    opened, rows = groups_read(monkeypatch, *in_groups, ranges=np.array([[5, 6], [29, 31]]))
    assert (opened, rows["number"].to_pylist()) == ({0, 2, 3}, [0, 2, 3])
    opened, rows = groups_read(monkeypatch, *in_groups, ranges=np.array([[50, 60]]))
    assert (opened, rows.num_rows) == (set(), 0)


@pytest.fixture(params=["local", "memory"])
def gaps(request, tmp_path):
    """Return a storage and its file of five row groups of ten rows whose indices are even."""
    sink = pa.BufferOutputStream()
    columns = {"_healpix_29": np.arange(0, 100, 2), "number": np.arange(50), "name": [f"star {n}" for n in range(50)]}
    catalog_store.pq.write_table(pa.table(columns), sink, row_group_size=10)
    data = sink.getvalue().to_pybytes()
    storage = LocalStorage(tmp_path) if request.param == "local" else open_storage(f"memory://{tmp_path.name}")
    storage.write("f.parquet", data)
    return storage, file_entry("f.parquet", data, rows=50, footer=int.from_bytes(data[-8:-4], "little"))


@pytest.mark.parametrize("small", [1 << 24, 1000, 0])
@pytest.mark.parametrize(
    ("ranges", "squares", "groups", "numbers"),
    [
        ([[5, 6], [24, 27], [59, 83]], None, {1, 3, 4}, [12, 13, *range(30, 42)]),
        ([[5, 6], [61, 62]], None, set(), []),
        ([[0, 100]], None, {0, 1, 2, 3, 4}, list(range(50))),
        ([[0, 100]], [[0, 2, 4, 0, 2], [1, 0, 9, 0, 9]], {0}, [2, 3]),  # 4 to 7, and none on the other face
        ([[5, 100]], [[0, 2, 4, 0, 2], [0, 8, 16, 0, 1]], {0, 3, 4}, [3, 32, 34, 40, 42]),
    ],
)
def test_of_row_groups_without_rows_inside_only_the_index_is_read(
    monkeypatch, gaps, ranges, squares, groups, numbers, small
):
    read, reader = [], catalog_store.pq.ParquetFile.read_row_groups
    monkeypatch.setattr("sciplat.io.parquet._SMALL", small)
    monkeypatch.setattr(
        catalog_store.pq.ParquetFile,
        "read_row_groups",
        lambda self, chosen, columns, **kw: (
            read.extend((name, group) for name in columns for group in chosen),
            reader(self, chosen, columns=columns, **kw),
        )[1],
    )
    squares = None if squares is None else np.array(squares)
    for columns in (["name", "_healpix_29", "number"], ["number", "name"]):
        read.clear()
        rows = read_cell(*gaps, columns, np.array(ranges), squares=squares)
        assert (rows.schema.names, rows["number"].to_pylist()) == (columns, numbers)
        assert rows["name"].to_pylist() == [f"star {number}" for number in numbers]
        assert {group for name, group in read if name != "_healpix_29"} == groups


def test_a_part_of_a_neighbouring_cell_holds_what_is_near(tmp_path):
    """Rows on a grid of an arcsecond across the border of two cells: only those within reach are read."""
    rows = np.arange(-20, 20) / 3600
    ra, dec = (each.ravel() for each in np.meshgrid(45 + rows, rows))  # four cells of order 0 meet here
    index = healpix_29(ra, dec)
    order = np.argsort(index)
    columns = {"_healpix_29": index, "source_id": np.arange(len(ra)), "ra": ra, "dec": dec}
    writer = CatalogWriter.begin(LocalStorage(tmp_path), PROPERTIES)
    table = pa.table(columns).take(pa.array(order))
    reports = [writer.cells.write(Cell(0, base), table.filter(pa.array(index[order] >> 58 == base)), 10**6)
               for base in (0, 4, 5, 8)]  # fmt: skip
    scan, cell = Scan(writer.publish(table.schema, reports), tuple(columns)), Cell(0, 5)
    around = surroundings(cell, 2 / 3600)
    north = index >> 58 == cell.index
    left, right = (unit_vectors(ra[chosen], dec[chosen]) for chosen in (north, ~north))
    near = (np.linalg.norm(left[:, None] - right, axis=-1) < np.radians(2 / 3600)).any(axis=0)
    read = [scan.task(Cell(0, base), around).run()["source_id"].to_pylist() for base in (0, 4, 8)]
    found = {number for part in read for number in part}
    assert set(np.flatnonzero(~north)[near]) <= found
    assert near.sum() <= len(found) < 3 * near.sum()
    assert scan.task(cell, around).run().num_rows == north.sum()


@pytest.mark.parametrize(
    ("bounds", "groups"),
    [
        ({"number": (2, 3)}, {2, 3}),
        ({"number": (None, 0)}, {0}),
        ({"number": (1.5, None)}, {2, 3, 4}),
        ({"number": (9, None)}, set()),
        ({"number": (3, 1)}, set()),
        ({"number": (None, None)}, {0, 1, 2, 3, 4}),
        ({"number": (1, 3), "real": (3.5, None)}, {3}),
        ({"real": (None, 1.5)}, {0, 1}),
        ({"real": (None, 100)}, {0, 1, 2, 3}),
        ({"holes": (4, 4)}, {4}),
        ({"nan": (3, 3)}, {0, 1, 3}),
        ({"number": (np.nan, None)}, {0, 1, 2, 3, 4}),
        ({"number": (np.int64(2), np.float32(2))}, {2}),
        ({"text": ("bb", "d")}, {1, 2}),
        ({"text": ("bxxxy", None)}, {1, 2, 3, 4}),
        ({"text": (None, "bxxx")}, {0, 1}),
        ({"number": ("a", "b")}, {0, 1, 2, 3, 4}),
        ({"text": (1, 2)}, {0, 1, 2, 3, 4}),
        ({"truth": (True, None)}, {3, 4}),
        ({"lists": (3, 3)}, {0, 1, 2, 3, 4}),
        ({"not there": (3, 3)}, {0, 1, 2, 3, 4}),
    ],
)
def test_only_row_groups_within_the_bounds_are_read(monkeypatch, in_groups, bounds, groups):
    opened, rows = groups_read(monkeypatch, *in_groups, bounds=bounds)
    assert opened == groups
    assert sorted(set(rows["number"].to_pylist())) == sorted(groups)


def test_bounds_and_ranges_meet(monkeypatch, in_groups):
    ranges = np.array([[15, 35]])
    opened, rows = groups_read(monkeypatch, *in_groups, columns=["real"], ranges=ranges, bounds={"number": (3, 9)})
    assert (opened, rows["real"].to_pylist()) == ({3}, [3.5] * 5)
    opened, rows = groups_read(monkeypatch, *in_groups, ranges=ranges, bounds={"number": (4, 9)})
    assert (opened, rows.num_rows, rows.schema.names[:2]) == (set(), 0, ["_healpix_29", "number"])


def test_a_large_read_gives_what_a_small_one_gives(monkeypatch, store):
    entry, index = store.entries[3], read_cell(store.storage, store.entries[3].file)["_healpix_29"].to_numpy()
    ranges = np.array([[index[5], index[-5]]])
    asked = [{}, {"ranges": ranges}, {"ranges": ranges, "columns": ["mag", "_healpix_29", "band"]}, {"columns": ["ra"]}]
    small = [read_cell(store.storage, entry.file, **each) for each in asked]
    monkeypatch.setattr("sciplat.io.parquet._SMALL", 0)
    large = [read_cell(store.storage, entry.file, **each) for each in asked]
    assert all(one.equals(other, check_metadata=True) for one, other in zip(small, large, strict=True))
    assert small[1].num_rows == len(index) - 10


def test_a_new_version_leaves_the_old_one(store):
    newer = write(store.storage, table(seed=1), replace=True)
    assert (newer.manifest.number, newer.manifest.parent) == (2, 1)
    assert read_all(open_catalog_store(store.storage)).equals(table(seed=1))
    assert read_all(open_catalog_store(store.storage, 1)).equals(table())


def test_a_store_is_not_written_over(store):
    with pytest.raises(StoreExists):
        write(store.storage, table())


def test_an_abandoned_write_leaves_nothing(tmp_path, store):
    for storage in (LocalStorage(tmp_path / "new"), store.storage):
        writer = CatalogWriter.begin(storage, PROPERTIES, replace=True)
        before = sorted(tmp_path.rglob("*"))
        writer.cells.write(Cell(0, 0), table(), 10**6)
        writer.abandon()
        assert sorted(tmp_path.rglob("*")) == before


def test_the_pointer_is_repaired_after_a_crash(store):
    old = store.storage.read("collection.properties")
    newer = write(store.storage, table(seed=1), replace=True)
    store.storage.write("collection.properties", old)
    open_catalog_store(store.storage)
    assert newer.manifest.folder.encode() in store.storage.read("collection.properties")


def test_the_pointer_never_goes_back(store):
    """A slow reader or writer of version 1 comes back after version 2 has been published."""
    newer = write(store.storage, table(seed=1), replace=True)
    catalog_store.point_to_newest(store.storage)
    assert newer.manifest.folder.encode() in store.storage.read("collection.properties")
    store.storage.write("collection.properties", b"hats_primary_table_url=v9-later\n")
    open_catalog_store(store.storage)
    assert b"v9-later" in store.storage.read("collection.properties")


def test_the_table_of_an_image_store_is_not_replaced_by_sources(tmp_path):
    storage = LocalStorage(tmp_path / "images")
    writer = CatalogWriter.begin(storage, PROPERTIES | {"kind": "images"})
    writer.publish(table().schema, [writer.cells.write(Cell(0, 0), table(), 10**6)])
    with pytest.raises(StoreExists, match="image store"):
        write(storage, table(), replace=True)


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    """Every flip is either found or changes nothing; the interpreter survives all of them."""
    storage, rows = LocalStorage(tmp_path), table(500)
    data, footer = encode_parquet(rows)
    entry = file_entry("f.parquet", data, rows=500, footer=footer)
    rng = np.random.default_rng(3)
    inside = rng.integers(0, 8 * len(data), 300)
    in_footer = 8 * (len(data) - 8 - footer) + rng.integers(0, 8 * (footer + 8), 150)
    found = 0
    for bit in np.concatenate([inside, in_footer]):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        storage.write("f.parquet", bytes(changed))
        try:
            assert read_cell(storage, entry).equals(rows)
        except StoreCorrupt:
            found += 1
    assert found > 400


def test_cuts_are_noticed(tmp_path):
    storage, rows = LocalStorage(tmp_path), table(500)
    data, footer = encode_parquet(rows)
    entry = file_entry("f.parquet", data, rows=500, footer=footer)
    for length in [0, 1, 8, footer, len(data) // 2, len(data) - 1]:
        storage.write("f.parquet", data[:length])
        with pytest.raises(StoreCorrupt, match=r"f\.parquet"):
            read_cell(storage, entry)
    storage.remove("f.parquet")
    with pytest.raises(SciplatError, match=r"f\.parquet"):
        read_cell(storage, entry)
