"""Foreign tables of every kind, and every way in which one can be broken."""

import gzip
import json
import os
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sciplat.errors import ArgumentError, InputError, InputNotFound
from sciplat.ingest.position import is_degrees
from sciplat.ingest.sources import is_same_unit, local_path, open_sources

ROWS = {"id": [1, 2, 3], "ra": [10.5, 20.5, 30.5], "dec": [-1.5, 0.5, 1.5]}
TEXT = b"id,ra,dec\n1,10.5,-1.5\n2,20.5,0.5\n3,30.5,1.5\n"


CHUNK = 1 << 20


def read_sources(sources, chunk=CHUNK):
    """Return all rows; what is read must be what was promised."""
    found = open_sources(sources, chunk=chunk)
    json.dumps(found.records)
    assert len({part.key for part in found.parts}) == len(found.parts)
    tables = []
    for part in found.parts:
        for table in pickle.loads(pickle.dumps(part)).read():
            assert table.schema.equals(found.schema, check_metadata=True)
            assert table.nbytes <= chunk or table.num_rows == 1
            assert table.num_rows > 0
            tables.append(table)
    return pa.concat_tables([found.schema.empty_table(), *tables])


def write(path, content):
    path.write_bytes(content)
    return path


def written(table, path):
    table.write(path)
    return path


def parquet(path, **columns):
    pq.write_table(pa.table(ROWS | columns), path)
    return path


def votable(path):
    Table(ROWS).write(path, format="votable", tabledata_format="tabledata")
    return path


def arrow(path, kind, table=None):
    table = pa.table(ROWS) if table is None else table
    with kind(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
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
        write(tmp_path / "g.tsv.zst", pa.compress(TEXT.replace(b",", b"\t"), "zstd", asbytes=True)),
        written(Table(ROWS), tmp_path / "h.ecsv"),
        write(tmp_path / "i.ecsv.gz", gzip.compress((tmp_path / "h.ecsv").read_bytes())),
        votable(tmp_path / "j.vot"),
        write(tmp_path / "k.xml.gz", gzip.compress((tmp_path / "j.vot").read_bytes())),
        arrow(tmp_path / "l.arrow", pa.ipc.new_file),
        arrow(tmp_path / "m.ipc", pa.ipc.new_stream),
    ]


def test_every_format_gives_the_same_rows(same):
    for path in same:
        assert read_sources(path).to_pydict() == ROWS, path.name


def test_files_folders_patterns_tables_and_generators(same, tmp_path):
    folder = tmp_path
    write(folder / "._a.parquet", b"what macOS leaves on foreign disks")
    write(folder / "notes.txt", b"")
    (folder / ".hidden.csv").write_bytes(TEXT)
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


def replaced(path, old, new):
    content = path.read_bytes()
    assert old in content
    return write(path, content.replace(old, new))


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
    "csv web page": lambda d: write(d / "x.csv", b"\n<!DOCTYPE html><html><body>404, not found</body></html>"),
    "csv latin": lambda d: write(d / "x.csv", b"name,dec\nG\xf6del,1\n"),
    "csv zstd cut": lambda d: write(d / "x.csv.zst", pa.compress(TEXT * 1000, "zstd", asbytes=True)[:-9]),
    "csv quote": lambda d: write(d / "x.csv", b'a,b\n1,"x\n2,y\n'),
    "csv line break": lambda d: write(d / "x.csv", b'a,b\n1,"x\ny"\n'),
    "csv header with a line break": lambda d: write(d / "x.csv", b'id,"r\na",dec\n1,2,3\n'),
    "csv cr": lambda d: write(d / "x.csv", b"a,b\r1,2\r"),
    "ecsv without header": lambda d: write(d / "x.ecsv", b"a b\n1 2\n"),
    "ecsv type": lambda d: written(Table({"a": [1j]}), d / "x.ecsv"),
    "ecsv value": lambda d: (replaced(written(Table(ROWS), d / "x.ecsv"), b"20.5", b"twenty"), d / "x.ecsv")[1],
    "arrow cut": lambda d: cut(arrow(d / "x.arrow", pa.ipc.new_file), -30),
    "arrow stream cut": lambda d: cut(arrow(d / "x.arrow", pa.ipc.new_stream), -90),
    "arrow empty": lambda d: write(d / "x.feather", b""),
    "feather of old": lambda d: write(d / "x.feather", b"FEA1" + bytes(100)),
    "votable web page": lambda d: write(d / "x.vot", b"<!DOCTYPE html><html></html>"),
    "votable cut": lambda d: cut(votable(d / "x.vot"), -100),
    "votable empty": lambda d: write(d / "x.vot", b""),
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
    for suffix in ("parquet", "csv", "fits", "tsv.gz", "ecsv", "vot", "arrow", "csv.zst", "fits.gz"):
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


@pytest.mark.parametrize("source", [5, None, [5], ROWS, pd.Series([1.0]), b"x.csv"], ids=type)
def test_what_is_no_source(source):
    with pytest.raises(ArgumentError, match="sources are files") as refused:
        open_sources(source, chunk=CHUNK)
    assert refused.value.found in {"int", "float", "NoneType", "dict", "Series", "bytes"}


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


def test_types_are_promoted_over_files():
    kinds = [pa.int32(), pa.int64(), pa.float32(), pa.null(), pa.float64()]
    tables = [pa.table({"x": pa.array([None], kind)}) for kind in kinds]
    assert open_sources(tables[:2], chunk=CHUNK).schema.field("x").type == pa.int64()
    assert open_sources(tables, chunk=CHUNK).schema.field("x").type == pa.float64()
    assert open_sources(tables[3:4], chunk=CHUNK).schema.field("x").type == pa.null()
    words = pa.array(["a", None, "a"])
    kinds = [words.dictionary_encode(), words.cast(pa.large_string()), words.cast(pa.string_view()), words]
    assert read_sources([pa.table({"x": array}) for array in kinds])["x"].to_pylist() == words.to_pylist() * 4


def test_text_takes_the_types_that_others_state(tmp_path):
    text = write(tmp_path / "x.csv", b"id,x\n007,1\n")
    other = pa.table({"id": ["a"], "x": pa.array([0.5], pa.float32())})
    assert read_sources([text, other]).to_pydict() == {"id": ["007", "a"], "x": [1.0, 0.5]}
    words = write(tmp_path / "y.csv", b"id,x\n8a,2.5\n")
    assert read_sources([text, words]).to_pydict() == {"id": ["007", "8a"], "x": [1.0, 2.5]}
    with pytest.raises(InputError, match="types that do not fit"):
        read_sources([words, pa.table({"id": [1], "x": [1.0]})])
    header = write(tmp_path / "z.csv", b"id,x\n")
    assert read_sources([header, pa.table({"id": [[1, 2]], "x": [None]})])["id"].to_pylist() == [[1, 2]]


def test_a_whole_number_that_a_float_cannot_hold_is_an_error_that_names_its_source():
    tables = [pa.table({"x": [0.5]}), pa.table({"x": [2**53 + 1]})]
    with pytest.raises(InputError, match="the column 'x' of table 2 in memory has values that do not fit"):
        read_sources(tables)


def test_units_may_be_written_in_several_ways():
    tables = [pa.table([[1.0]], pa.schema([pa.field("v", pa.float64(), metadata={"unit": unit})]))
              for unit in ("km/s", "", "km s-1")]  # fmt: skip
    assert read_sources(tables).schema.field("v").metadata == {b"unit": b"km/s"}
    other = pa.table([[1.0]], pa.schema([pa.field("v", pa.float64(), metadata={"unit": "m/s"})]))
    with pytest.raises(InputError, match="table 4 in memory has another unit than table 1 in memory"):
        read_sources([*tables, other])


def test_only_what_describes_a_column_is_kept_of_the_metadata_and_no_earlier_index():
    about = {"unit": "deg", "ucd": "pos.eq.ra", "description": "J2000", "PARQUET:field_id": "1"}
    fields = [pa.field("_healpix_29", pa.int64()), pa.field("ra", pa.float64(), nullable=False, metadata=about)]
    found = open_sources(pa.table([[1], [2.0]], pa.schema(fields, {"pandas": "{}"})), chunk=CHUNK)
    assert found.schema.names == ["ra"]
    assert found.schema.field("ra").metadata == {b"unit": b"deg", b"ucd": b"pos.eq.ra", b"description": b"J2000"}
    assert found.schema.metadata is None


def test_records_tell_one_input_from_another(tmp_path):
    path = write(tmp_path / "x.csv", TEXT)
    first = open_sources([path, pa.table(ROWS)], chunk=CHUNK).records
    chunked = pa.concat_tables([pa.table(ROWS).slice(k, 1) for k in range(3)])
    assert open_sources([path, chunked], chunk=100).records == first
    assert set(first[0]) == {"path", "size", "mtime_ns"}
    assert (first[1]["table"], first[1]["rows"]) == (2, 3)
    os.utime(path, ns=(1, 1))
    changed = open_sources([path, pa.table(ROWS | {"id": [1, 2, 4]})], chunk=CHUNK).records
    assert first[0] != changed[0]
    assert first[1] != changed[1]


def test_keys_are_the_same_every_time_and_differ(same):
    keys = [[part.key for part in open_sources(same, chunk=40).parts] for _ in range(2)]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == len(keys[0])


def test_a_file_that_goes_away_is_named(same):
    for path in same:
        found = open_sources(path, chunk=CHUNK)
        found.check_unchanged()
        path.unlink()
        with pytest.raises(InputNotFound, match=path.name):
            list(found.parts[0].read())
        with pytest.raises(InputNotFound, match=path.name):
            found.check_unchanged()


def test_a_file_that_changes_before_it_is_read(same):
    for path in same:
        found = open_sources([path, pa.table(ROWS)], chunk=CHUNK)
        part = pickle.loads(pickle.dumps(found.parts[0]))
        os.utime(path, ns=(1, 1))
        for read in (lambda part=part: list(part.read()), found.check_unchanged):
            with pytest.raises(InputError, match=f"{path.name} changed while it was read"):
                read()


def test_a_file_given_twice_is_refused_under_any_name(tmp_path):
    path = write(tmp_path / "x.csv", TEXT)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "y.csv").symlink_to(path)
    for twice in ([path, path], [tmp_path, str(path)], [path, tmp_path / "links"], [path, f"file://{path}"]):
        with pytest.raises(InputError, match=r"[xy]\.csv is given twice") as refused:
            open_sources(twice, chunk=CHUNK)
        assert "x.csv" in refused.value.found


def test_file_urls_are_local_paths(tmp_path):
    path = write(tmp_path / "a b.csv", TEXT)
    assert read_sources(path.as_uri()).to_pydict() == ROWS
    assert local_path(f"file://localhost{tmp_path}/x") == tmp_path / "x"
    with pytest.raises(InputNotFound, match="not a local file"):
        local_path("file://elsewhere/x.csv")


def test_units_that_mean_degrees_are_the_same_unit():
    for unit in ("Deg", "Degrees", "'deg'", "°", "DEG", "degree"):
        assert is_same_unit(unit, "deg")
        assert is_degrees(unit)
    assert not is_same_unit("mW", "MW")
    assert not is_degrees("rad")
    assert not is_degrees("")


def test_a_recursive_pattern_reads_folders_of_a_partitioned_table(tmp_path):
    for year in (2020, 2021):
        (tmp_path / f"year={year}").mkdir()
        parquet(tmp_path / f"year={year}" / "x.parquet", year=[1, 1, 1])
    table = read_sources(tmp_path / "**" / "*.parquet")
    assert table.num_rows == 6
    assert set(table["year"].to_pylist()) == {1}


NUMBERS = st.one_of(st.none(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
COLUMNS = st.lists(st.tuples(NUMBERS, st.text("ab \"',é", max_size=8)), min_size=1, max_size=60)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=COLUMNS, chunk=st.integers(1, 3000), groups=st.integers(1, 20))
def test_the_rows_do_not_depend_on_the_chunk(tmp_path, rows, chunk, groups):
    numbers = [None if number is None else float(number) for number, _ in rows]
    table = pa.table({"x": pa.array(numbers, pa.float64()), "t": [f"t{text}." for _, text in rows]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=groups)
    with (tmp_path / "b.csv").open("w") as file:
        file.write("x,t\n")
        file.writelines(f'{"" if x is None else repr(x)},"t{t.replace(chr(34), chr(34) * 2)}."\n'
                        for x, (_, t) in zip(numbers, rows, strict=True))  # fmt: skip
    plain = Table({"x": MaskedColumn([x or 0.0 for x in numbers], mask=[x is None for x in numbers]),
                   "t": table["t"].to_pylist()})  # fmt: skip
    plain.write(tmp_path / "c.vot", format="votable", tabledata_format="tabledata", overwrite=True)
    arrow(tmp_path / "d.arrow", pa.ipc.new_file, table)
    for name in ("a.parquet", "b.csv", "c.vot", "d.arrow"):
        found = read_sources([tmp_path / name, table], chunk)
        assert found.to_pydict() == {key: values * 2 for key, values in table.to_pydict().items()}, name
