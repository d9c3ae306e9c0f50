"""Foreign tables of every kind, and every way in which one can be broken."""

import gzip

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table

from sciplat.errors import ArgumentError, InputError, InputNotFound
from sciplat.ingest.sources import read_sources

ROWS = {"id": [1, 2, 3], "ra": [10.5, 20.5, 30.5], "dec": [-1.5, 0.5, 1.5]}
TEXT = b"id,ra,dec\n1,10.5,-1.5\n2,20.5,0.5\n3,30.5,1.5\n"


def write(path, content):
    path.write_bytes(content)
    return path


def written(table, path):
    table.write(path)
    return path


def parquet(path, **columns):
    pq.write_table(pa.table(ROWS | columns), path)
    return path


@pytest.fixture
def same(tmp_path):
    """The same rows in every format, one file each."""
    return [
        parquet(tmp_path / "a.parquet"),
        write(tmp_path / "b.csv", TEXT),
        write(tmp_path / "c.CSV.gz", gzip.compress(TEXT)),
        write(tmp_path / "d.tsv", TEXT.replace(b",", b"\t")),
        written(Table(ROWS), tmp_path / "e.fits"),
        written(Table(ROWS), tmp_path / "f.fits.gz"),
    ]


def test_every_format_gives_the_same_rows(same):
    for path in same:
        assert read_sources(path).to_pydict() == ROWS, path.name


def test_files_folders_patterns_tables_and_generators(same, tmp_path):
    folder = tmp_path
    write(folder / "._a.parquet", b"what macOS leaves on foreign disks")
    write(folder / "notes.txt", b"")
    assert read_sources(folder).num_rows == 3 * len(same)
    assert read_sources(str(folder)).num_rows == 3 * len(same)
    assert read_sources(f"{folder}/*.csv").num_rows == 3
    assert read_sources(iter(same)).num_rows == 3 * len(same)
    assert read_sources((same[0], str(same[1]), pa.table(ROWS))).num_rows == 9


def test_columns_in_another_order_and_narrower_types_fit():
    other = pa.table({"dec": pa.array([1.0], pa.float32()), "id": pa.array([4], pa.int16()), "ra": [2]})
    table = read_sources([pa.table(ROWS), other])
    assert table.to_pydict() == {"id": [1, 2, 3, 4], "ra": [10.5, 20.5, 30.5, 2.0], "dec": [-1.5, 0.5, 1.5, 1.0]}


def test_a_fits_table_keeps_values_units_and_descriptions(tmp_path):
    table = Table(ROWS)
    table["name"] = Column([b"a ", b"", b"c"])
    table["flux"] = Column(np.arange(6, dtype=">f4").reshape(3, 2), unit="nJy", description="two bands")
    table["count"] = MaskedColumn([1, 2, 3], mask=[False, True, False], dtype=np.uint16)
    table["good"] = [True, False, True]
    table["odd"] = Column([1.0, np.nan, 3.0])
    table.write(tmp_path / "t.fits")
    fits.setval(tmp_path / "t.fits", "TUNIT8", value="furlong", ext=1)  # kept, and nothing is warned of
    found = read_sources(tmp_path / "t.fits")
    assert found["name"].to_pylist() == ["a", None, "c"]  # FITS has no other way to say that a text is missing
    assert found["flux"].to_pylist() == [[0, 1], [2, 3], [4, 5]]
    assert found["count"].to_pylist() == [1, None, 3]
    assert found["good"].to_pylist() == [True, False, True]
    assert found["odd"].to_pylist() == [1.0, None, 3.0]
    assert found.schema.field("flux").metadata == {b"unit": b"nJy", b"description": b"two bands"}
    assert found.schema.field("odd").metadata == {b"unit": b"furlong"}


def test_a_fits_file_stands_for_its_first_table(tmp_path):
    lists = fits.Column("lists", "PD()", array=np.array([np.array([1.0, 2.0]), np.array([3.0])], object))
    first = fits.BinTableHDU.from_columns([fits.Column("ra", "D", array=[1.0, 2.0]), lists])
    second = fits.BinTableHDU.from_columns([fits.Column("x", "D", array=[1.0])])
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.ones((3, 3))), first, second]).writeto(tmp_path / "t.fits")
    assert read_sources(tmp_path / "t.fits").to_pydict() == {"ra": [1.0, 2.0], "lists": [[1.0, 2.0], [3.0]]}


def cut(path, end):
    return write(path, path.read_bytes()[:end])


BROKEN = {
    "parquet cut": lambda d: cut(parquet(d / "x.parquet"), -50),
    "parquet empty": lambda d: write(d / "x.parquet", b""),
    "csv empty": lambda d: write(d / "x.csv", b""),
    "csv ragged": lambda d: write(d / "x.csv", b"ra,dec\n1,2\n3\n"),
    "csv zeros": lambda d: write(d / "x.csv", b"\0" * 5000),
    "csv gzip cut": lambda d: write(d / "x.csv.gz", gzip.compress(TEXT * 1000)[:-40]),
    "csv no gzip": lambda d: write(d / "x.csv.gz", TEXT),
    "two columns of one name": lambda d: write(d / "x.csv", b"ra,ra,dec\n1,2,3\n"),
    "fits empty": lambda d: write(d / "x.fits", b""),
    "fits cut in the data": lambda d: cut(written(Table(ROWS), d / "x.fits"), -2880),
    "fits cut in a header": lambda d: cut(written(Table(ROWS), d / "x.fits"), 4000),
    "fits gzip cut": lambda d: cut(written(Table(ROWS), d / "x.fits.gz"), -50),
    "fits of huge claims": lambda d: write(
        d / "x.fits",
        written(Table(ROWS), d / "y.fits")
        .read_bytes()
        .replace(b"NAXIS2  =                    3", b"NAXIS2  =           2000000000"),
    ),
    "fits image": lambda d: (fits.PrimaryHDU(np.ones((3, 3))).writeto(d / "x.fits"), d / "x.fits")[1],
    "fits complex": lambda d: written(Table({"c": [1j]}), d / "x.fits"),
    "unknown kind": lambda d: write(d / "x.txt", TEXT),
}


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_table_is_one_clear_error(tmp_path, make):
    path = make(tmp_path)
    with pytest.raises(InputError) as refused:
        read_sources(path)
    assert str(path) in refused.value.what
    assert refused.value.hint
    assert "\n" not in refused.value.found
    assert refused.value.found.isprintable()


@pytest.mark.parametrize("seed", range(3))
def test_bytes_that_are_no_table(tmp_path, seed):
    noise = np.random.default_rng(seed).bytes(6000)
    for suffix in ("parquet", "csv", "fits", "tsv.gz"):
        with pytest.raises(InputError) as refused:
            read_sources(write(tmp_path / f"x.{suffix}", noise))
        assert refused.value.found.isprintable()


@pytest.mark.parametrize("make", ["empty folder", "nothing", "pattern", "url", "empty list"])
def test_nothing_to_read(tmp_path, make):
    (tmp_path / "folder.parquet").mkdir()
    source = {"empty folder": tmp_path, "nothing": tmp_path / "x.csv", "pattern": f"{tmp_path}/*.parquet",
              "url": "https://example.org/x.parquet", "empty list": []}[make]  # fmt: skip
    with pytest.raises(InputNotFound) as missing:
        read_sources(source)
    assert missing.value.hint


@pytest.mark.parametrize("source", [5, None, [5], ROWS, pd.DataFrame(ROWS), Table(ROWS), b"x.csv"], ids=type)
def test_what_is_no_source(source):
    with pytest.raises(ArgumentError, match="sources are files") as refused:
        read_sources(source)
    assert refused.value.found in {"int", "NoneType", "dict", "DataFrame", "Table", "bytes"}


def test_tables_that_do_not_fit_together(tmp_path):
    base = pa.table(ROWS)
    radian = base.set_column(1, pa.field("ra", pa.float64(), metadata={"unit": "rad"}), base["ra"])
    degree = base.set_column(1, pa.field("ra", pa.float64(), metadata={"unit": "deg"}), base["ra"])
    with pytest.raises(InputError, match=r"x\.parquet has other columns than table 1 in memory") as refused:
        read_sources([base, parquet(tmp_path / "x.parquet", mag=[1, 2, 3])])
    assert refused.value.found == "mag"
    with pytest.raises(InputError, match="types that do not fit"):
        read_sources([base, base.set_column(0, "id", pa.array(["a", "b", "c"]))])
    with pytest.raises(InputError, match="another unit"):
        read_sources([degree, radian])
    assert read_sources([degree, base]).num_rows == 6
