"""Catalogs of hostile tables: positions that are none, columns of every type, places where no store can be."""

import os
import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sciplat
from sciplat.errors import (
    ArgumentError,
    ColumnError,
    InputError,
    PositionError,
    StorageError,
    StoreExists,
    StoreNotFound,
)
from sciplat.io.verify import verify_files

N = 60
RNG = np.random.default_rng(3)
BASE = {"id": np.arange(N), "ra": RNG.uniform(0, 360, N), "dec": RNG.uniform(-90, 90, N)}


def table(**columns):
    return pa.table(BASE | columns)


def refuse(tmp_path, error, source, **options):
    """Ingest what must be refused; return the error. Nothing may be left."""
    with pytest.raises(error) as refused:
        sciplat.ingest_catalog(source, tmp_path / "store", **options)
    assert type(refused.value) is error
    assert not (tmp_path / "store").exists()
    return refused.value


def first_changed(name, value):
    return pa.array([value, *BASE[name][1:]], pa.float64())


BAD_POSITIONS = {
    "ra nan": {"ra": first_changed("ra", np.nan)},
    "ra infinite": {"ra": first_changed("ra", np.inf)},
    "ra null": {"ra": first_changed("ra", None)},
    "ra far off": {"ra": first_changed("ra", 1e5)},
    "dec nan": {"dec": first_changed("dec", np.nan)},
    "dec null": {"dec": first_changed("dec", None)},
    "dec beyond the pole": {"dec": first_changed("dec", 90.001)},
}


@pytest.mark.parametrize("change", BAD_POSITIONS.values(), ids=BAD_POSITIONS.keys())
def test_rows_without_position_are_refused_or_left_out(tmp_path, change):
    error = refuse(tmp_path, PositionError, table(**change))
    assert error.what == "table 1 in memory has rows without a position on the sphere"
    assert "in row 0, counted from 0; 1 such rows" in error.found
    assert "skip" in error.hint
    catalog = sciplat.ingest_catalog(table(**change), tmp_path / "store", bad="skip")
    assert sorted(catalog.compute()["id"].to_pylist()) == list(range(1, N))
    assert (catalog.report["rows"], catalog.report["skipped"]) == (N - 1, 1)


def test_a_table_of_nothing_but_bad_rows(tmp_path):
    refuse(tmp_path, PositionError, table(ra=np.full(N, np.nan)), bad="skip")


@pytest.mark.parametrize("bad", ["refuse", "skip"])
def test_a_table_without_rows(tmp_path, bad):
    assert "no row" in refuse(tmp_path, InputError, table().slice(0, 0), bad=bad).found
    (tmp_path / "t.csv").write_text("ra,dec\n")
    refuse(tmp_path, InputError, tmp_path / "t.csv", bad=bad)


@pytest.mark.parametrize("kind", [pa.int16(), pa.int64(), pa.float16(), pa.float32(), pa.float64()], ids=str)
def test_positions_of_any_number_type_can_be_searched(tmp_path, kind):
    rows = pa.table({"ra": pa.array([0, 90, 180, 270]).cast(kind), "dec": pa.array([-90, -45, 0, 90]).cast(kind)})
    catalog = sciplat.ingest_catalog(rows, tmp_path / "store")
    inside = catalog.within(sciplat.Cone("180 deg", "0 deg", "1 deg")).compute()
    assert inside["ra"].to_pylist() == [180]
    assert catalog.schema.field("ra").type == kind


@pytest.mark.parametrize(
    "ra",
    [
        pa.array(["10h40m"] * N),
        pa.array(["10.5"] * N),
        pa.array([True] * N),
        pa.array([1] * N, pa.timestamp("s")),
        pa.array([[1.0]] * N),
        pa.nulls(N),
    ],
    ids=lambda array: str(array.type),
)
def test_a_position_that_is_no_number(tmp_path, ra):
    error = refuse(tmp_path, PositionError, table(ra=ra))
    assert error.what == "the column 'ra' does not hold numbers"
    assert error.found == str(ra.type)


def test_a_position_in_another_unit(tmp_path):
    rows = table().set_column(1, pa.field("ra", pa.float64(), metadata={"unit": "rad"}), pa.array(BASE["ra"] / 60))
    error = refuse(tmp_path, PositionError, rows)
    assert (error.what, error.found) == ("the column 'ra' is not in degrees", "rad")


def test_columns_that_are_not_there(tmp_path):
    error = refuse(tmp_path, ColumnError, table().drop_columns(["dec"]))
    assert (error.what, error.found) == ("no column looks like dec", "id, ra")
    assert "--dec" in error.hint
    assert "'lon'" in refuse(tmp_path, ColumnError, table(), ra="lon", dec="dec").what
    error = refuse(tmp_path, ColumnError, pa.table({f"c{k}": [1.0] for k in range(500)}))
    assert error.found.endswith("c29 and 470 more")


@pytest.mark.parametrize(
    "options",
    [
        {"bad": "drop"}, {"frame": "ecliptic"}, {"frame": ""}, {"epoch": "banana"}, {"epoch": 2016.0},
        {"rows_per_cell": 0}, {"rows_per_cell": 2.5}, {"rows_per_cell": "5"},
    ],
    ids=str,
)  # fmt: skip
def test_arguments_without_sense(tmp_path, options):
    refuse(tmp_path, ArgumentError, table(), **options)


KEPT = {
    "nulls": pa.array([None, 1] * (N // 2)),
    "dictionary": pa.array(["a", "b"] * (N // 2)).dictionary_encode(),
    "large_string": pa.array(["a", None] * (N // 2), pa.large_string()),
    "timestamp": pa.array([0, 1] * (N // 2), pa.timestamp("ns", "UTC")),
    "list": pa.array([[1.0, 2.0], None] * (N // 2)),
    "struct": pa.array([{"a": 1.0, "b": [1]}, None] * (N // 2)),
    "fixed list": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2.0 * N)), 2),
    "map": pa.array([[("a", 1)]] * N, pa.map_(pa.string(), pa.int64())),
    "decimal": pa.array(["1.5"] * N).cast(pa.decimal128(10, 2)),
    "half": pa.array(np.ones(N, np.float16)),
    "binary": pa.array([b"\xff"] * N),
    "null": pa.nulls(N),
    "bool": pa.array([True, None] * (N // 2)),
    "duration": pa.array([1] * N, pa.duration("us")),
}


@pytest.mark.parametrize("values", KEPT.values(), ids=KEPT.keys())
def test_a_column_of_any_type_comes_back(tmp_path, values):
    catalog = sciplat.ingest_catalog(table(x=values), tmp_path / "store", rows_per_cell=7)
    rows = catalog.compute()
    assert rows.schema == catalog.schema
    plain = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    assert rows["x"].type == plain
    assert rows.sort_by("id")["x"].to_pylist() == values.to_pylist()


def test_text_views_become_text(tmp_path):
    catalog = sciplat.ingest_catalog(table(x=pa.array(["a"] * N, pa.string_view())), tmp_path / "store")
    assert catalog.compute()["x"].to_pylist() == ["a"] * N


@pytest.mark.parametrize(
    "values", [pa.array([(1, 2, 3)] * N, pa.month_day_nano_interval()),
               pa.RunEndEncodedArray.from_arrays(pa.array([N], pa.int32()), pa.array([1.0]))],
    ids=lambda array: str(array.type),
)  # fmt: skip
def test_a_column_that_no_file_can_hold(tmp_path, values):
    error = refuse(tmp_path, InputError, table(x=values))
    assert "'x'" in error.what
    assert error.found == str(values.type)


def test_dictionaries_of_several_files_and_an_index_that_is_there_already(tmp_path):
    names = [pa.array(["a", "b"] * (N // 2)).dictionary_encode(), pa.array(["c", "b"] * (N // 2)).dictionary_encode()]
    wrong = {"_healpix_29": np.zeros(N), "a.b": np.ones(N), "a": np.ones(N)}
    catalog = sciplat.ingest_catalog([table(name=name, **wrong) for name in names], tmp_path / "store")
    rows = catalog.select("name", "a").compute()
    assert rows.schema.names == ["_healpix_29", "id", "ra", "dec", "name", "a"]
    assert sorted(rows["name"].to_pylist()) == sorted(["a", "b", "c", "b"] * (N // 2))
    assert catalog.schema.field("_healpix_29").type == pa.int64()
    assert np.count_nonzero(rows["_healpix_29"]) == 2 * N


def test_a_store_that_exists_is_untouched(tmp_path):
    catalog = sciplat.ingest_catalog(table(), tmp_path / "store")
    with pytest.raises(StoreExists):
        sciplat.ingest_catalog(table(), tmp_path / "store")
    assert verify_files(catalog.store.storage, catalog.store.manifest) == []
    assert sciplat.open_catalog(tmp_path / "store").version == 1


@pytest.mark.parametrize("below", [".", "a/b"])
def test_the_url_is_a_file_or_below_one(tmp_path, below):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(StoreExists) as refused:
        sciplat.ingest_catalog(table(), tmp_path / "file" / below)
    assert refused.value.found == f"{tmp_path / 'file'} is a file"
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("url", ["", "a\0b", "gopher://x", "zip::file.zip"])
def test_a_url_without_sense(url):
    with pytest.raises(ArgumentError):
        sciplat.ingest_catalog(table(), url)


@pytest.fixture
def mounted(tmp_path):
    """Return a function that makes a small file system in memory."""
    made = []

    def mount(options):
        (tmp_path / "disk").mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(tmp_path / "disk")]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a small file system: only root may mount one, where the machine allows it")
        made.append(tmp_path / "disk")
        return tmp_path / "disk"

    yield mount
    for disk in made:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk):
    with (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))


def test_a_folder_that_cannot_be_written_to(mounted):
    disk = mounted("ro,size=1m")
    with pytest.raises(ArgumentError) as refused:
        sciplat.ingest_catalog(table(), disk / "a" / "store")
    assert refused.value.found == f"{disk} cannot be written to"


def test_a_full_disk(mounted, tmp_path):
    disk = mounted("size=4m")
    sciplat.ingest_catalog(table(), disk / "old")
    before = sorted(disk.rglob("*"))
    noise = pa.table({"ra": RNG.uniform(0, 360, 10**6), "dec": RNG.uniform(-90, 90, 10**6)})
    pq.write_table(noise, tmp_path / "noise.parquet")
    with pytest.raises(StorageError) as full:
        sciplat.ingest_catalog(tmp_path / "noise.parquet", disk / "store", rows_per_cell=50_000)
    assert str(disk / "store") in full.value.what
    assert "No space left on device" in full.value.found
    assert "bytes" in full.value.found
    assert sciplat.open_catalog(disk / "old").compute().num_rows == N
    with pytest.raises(StoreNotFound):
        sciplat.open_catalog(disk / "store")
    assert sciplat.ingest_catalog(table(), disk / "store", restart=True).compute().num_rows == N
    assert set(disk.rglob("*")) - set((disk / "store").rglob("*")) == {*before, disk / "store"}


def test_after_a_full_disk_the_same_command_goes_on(mounted, tmp_path):
    disk = mounted("size=20m")
    noise = pa.table({"ra": RNG.uniform(0, 360, 3 * 10**5), "dec": RNG.uniform(-90, 90, 3 * 10**5)})
    pq.write_table(noise, tmp_path / "noise.parquet")
    undisturbed = sciplat.ingest_catalog(tmp_path / "noise.parquet", tmp_path / "store", rows_per_cell=20_000)
    (disk / "filler").write_bytes(bytes(17_000_000))
    with pytest.raises(StorageError):
        sciplat.ingest_catalog(tmp_path / "noise.parquet", disk / "store", rows_per_cell=20_000)
    (disk / "filler").unlink()
    catalog = sciplat.ingest_catalog(tmp_path / "noise.parquet", disk / "store", rows_per_cell=20_000)
    assert catalog.store.manifest.digest == undisturbed.store.manifest.digest
    assert 0 < catalog.report["cells_of_this_run"] < catalog.report["cells"]


def test_a_failure_spares_what_it_did_not_make(mounted):
    disk = mounted("size=1m")
    (disk / ".git").mkdir()  # a hidden name is no obstacle, and not ours to remove
    with pytest.raises(PositionError):
        sciplat.ingest_catalog(table(ra=np.full(N, np.nan)), disk)
    assert [path.name for path in disk.iterdir()] == [".git"]


def test_a_disk_that_is_full_after_the_version_is_published(mounted, monkeypatch):
    """What has been published stays, although the pointer for other readers could not be written any more."""
    disk = mounted("size=8m")
    from sciplat.io import catalog_writer

    commit = catalog_writer.commit

    def commit_and_fill(storage, manifest):
        published = commit(storage, manifest)
        with pytest.raises(OSError, match="No space"):
            fill(disk)
        return published

    monkeypatch.setattr(catalog_writer, "commit", commit_and_fill)
    assert sciplat.ingest_catalog(table(), disk / "store").version == 1
    (disk / "filler").unlink()
    catalog = sciplat.open_catalog(disk / "store")
    assert verify_files(catalog.store.storage, catalog.store.manifest) == []
    assert catalog.compute().num_rows == N


def test_a_writer_killed_before_its_first_version_is_no_obstacle(tmp_path):
    (tmp_path / "store" / "v1-dead" / "dataset").mkdir(parents=True)
    (tmp_path / "store" / "versions").mkdir()
    (tmp_path / "store" / "versions" / ".1.json.abc").write_text("{")
    assert sciplat.ingest_catalog(table(), tmp_path / "store").compute().num_rows == N


def test_positions_of_too_many_digits_are_none(tmp_path):
    error = refuse(tmp_path, PositionError, pa.table({"ra": [2**60, 1], "dec": [1, 2]}))
    assert "in row 0" in error.found
