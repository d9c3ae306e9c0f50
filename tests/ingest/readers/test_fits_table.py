"""Tables of FITS, row range by row range, against what astropy reads at once."""

import gzip
import pickle

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from sciplat.errors import InputError
from sciplat.ingest.sources import open_sources

N = 500
RNG = np.random.default_rng(2)


def rows_of(path, chunk):
    found = open_sources(path, chunk=chunk)
    tables = [table for part in found.parts for table in pickle.loads(pickle.dumps(part)).read()]
    assert all(table.nbytes <= chunk for table in tables)
    return found, pa.concat_tables(tables)


def lists():
    values = np.empty(N, object)
    values[:] = [RNG.normal(size=k % 4).astype(np.float32) for k in range(N)]
    words = np.empty(N, object)
    words[:] = ["x" * (k % 3) for k in range(N)]
    return [
        fits.Column("id", "K", array=np.arange(N)),
        fits.Column("flux", "PE()", array=values, unit="nJy"),
        fits.Column("bits", "11X", array=RNG.integers(0, 2, (N, 11)).astype(bool)),
        fits.Column("big", "QK()", array=np.array([np.arange(k % 5) for k in range(N)], object)),
        fits.Column("word", "PA()", array=words),
    ]


def scaled():
    return [
        fits.Column("u2", "I", array=np.arange(N, dtype=np.uint16), bzero=32768),
        fits.Column("scaled", "I", array=np.arange(N, dtype=np.int16)),
        fits.Column("cube", "6J", array=RNG.integers(0, 9, (N, 3, 2)).astype(np.int32), dim="(2,3)"),
        fits.Column("null", "J", array=np.where(np.arange(N) % 3, np.arange(N), -99), null=-99),
        fits.Column("words", "8A", array=np.array([["ab", "c"]] * N), dim="(4,2)"),
        fits.Column("good", "L", array=np.arange(N) % 2 == 0),
    ]


@pytest.mark.parametrize("columns", [lists, scaled])
@pytest.mark.parametrize("packed", [False, True])
def test_row_ranges_give_what_astropy_reads(tmp_path, columns, packed):
    path = tmp_path / ("x.fits.gz" if packed else "x.fits")
    fits.BinTableHDU.from_columns(columns()).writeto(path)
    if columns is scaled:
        fits.setval(path, "TSCAL2", value=0.5, ext=1)
        fits.setval(path, "TZERO2", value=3, ext=1)
    whole = Table.read(path)
    found, small = rows_of(path, 3000)
    _, large = rows_of(path, 1 << 22)
    assert small.equals(large)
    assert (len(found.parts) > 5) is not packed
    for name in whole.colnames:
        assert small[name].to_pylist() == [expected(name, value) for value in whole[name]], name


def expected(name, value):
    """Return what Arrow gives for a value of astropy's: flat lists, text, None."""
    if value is np.ma.masked:
        return None
    if name == "word":  # a list of letters
        return "".join(value) or None
    if np.ndim(value):
        values = np.ma.asarray(value).reshape(-1).tolist()
        return [each.decode() if isinstance(each, bytes) else each for each in values]
    return value


def test_the_number_of_the_first_row_and_the_size_of_a_part(tmp_path):
    fits.BinTableHDU.from_columns([fits.Column("x", "D", array=np.arange(N))]).writeto(tmp_path / "x.fits")
    parts = open_sources(tmp_path / "x.fits", chunk=800).parts
    assert [part.first for part in parts] == [0, 100, 200, 300, 400]
    assert [part.size for part in parts] == [800] * 5
    assert next(parts[3].read())["x"][0].as_py() == 300


def test_a_gzipped_file_without_the_name_of_one(tmp_path):
    fits.BinTableHDU.from_columns(lists()).writeto(tmp_path / "y.fits")
    (tmp_path / "x.fits").write_bytes(gzip.compress((tmp_path / "y.fits").read_bytes()))
    assert rows_of(tmp_path / "x.fits", 4000)[1].equals(rows_of(tmp_path / "y.fits", 4000)[1])


def test_an_ascii_table(tmp_path):
    columns = [fits.Column("id", "I10", array=np.arange(N)), fits.Column("x", "F12.4", array=np.arange(N) / 4),
               fits.Column("name", "A5", array=np.array([f"n{k % 7}" for k in range(N)]))]  # fmt: skip
    fits.TableHDU.from_columns(columns).writeto(tmp_path / "x.fits")
    _, table = rows_of(tmp_path / "x.fits", 2000)
    assert table["id"].to_pylist() == list(range(N))
    assert table["x"].to_pylist() == [k / 4 for k in range(N)]
    assert table["name"].to_pylist() == [f"n{k % 7}" for k in range(N)]


def binary(path, columns, **cards):
    hdu = fits.BinTableHDU.from_columns(columns)
    for key, value in cards.items():
        hdu.header[key] = value
    hdu.writeto(path)
    return rows_of(path, 1000)[1]


def test_tnull_is_of_the_stored_value(tmp_path):
    stored = np.array([1, -32768, 3], np.int16)
    cards = {"TSCAL1": 0.1, "TZERO1": 5, "TNULL1": -32768}
    table = binary(tmp_path / "x.fits", [fits.Column("x", "I", array=stored)], **cards)
    assert table["x"].to_pylist() == [pytest.approx(5.1), None, pytest.approx(5.3)]
    pairs = [fits.Column("x", "2J", array=np.array([[1, -9], [-9, 4]], np.int32))]
    assert binary(tmp_path / "y.fits", pairs, TNULL1=-9)["x"].to_pylist() == [[1, None], [None, 4]]


@pytest.mark.parametrize("null", [-(2**31), 2**31 - 1])
def test_tnull_of_unsigned_integers(tmp_path, null):
    values = np.array([1, null + 2**31, 3000000000], np.uint32)
    table = binary(tmp_path / "x.fits", [fits.Column("x", "J", bzero=2**31, array=values)], TNULL1=null)
    assert table["x"].to_pylist() == [1, None, 3000000000]
    assert table["x"].type == pa.uint32()


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint64, np.uint8, np.int16, np.int64])
def test_masked_integers_as_astropy_writes_them(tmp_path, kind):
    Table({"x": MaskedColumn([1, 2, 3], mask=[False, True, False], dtype=kind)}).write(tmp_path / "x.fits")
    assert rows_of(tmp_path / "x.fits", 1000)[1]["x"].to_pylist() == [1, None, 3]


def test_a_logical_value_of_zero_bytes_is_undefined(tmp_path):
    column = fits.Column("good", "L", array=np.array([True, False, True]))
    fits.BinTableHDU.from_columns([column]).writeto(tmp_path / "x.fits")
    changed(tmp_path / "x.fits", b"TFT" + bytes(100), b"T\0T" + bytes(100))
    assert rows_of(tmp_path / "x.fits", 1000)[1]["good"].to_pylist() == [True, None, True]


def test_tnull_of_an_ascii_table(tmp_path):
    columns = [fits.Column("id", "I5", array=np.array([1, 777, 3]), null="777"),
               fits.Column("x", "F8.2", array=np.array([1.5, 2.25, 3.5])),
               fits.Column("flag", "I4", array=np.array([7, 888, 9]))]  # fmt: skip
    hdu = fits.TableHDU.from_columns(columns)
    hdu.header["TNULL3"] = "***"
    hdu.writeto(tmp_path / "x.fits")
    changed(tmp_path / "x.fits", b" 888", b" ***")
    table = rows_of(tmp_path / "x.fits", 1000)[1]
    assert table.to_pydict() == {"id": [1, None, 3], "x": [1.5, 2.25, 3.5], "flag": [7, None, 9]}


@pytest.mark.parametrize("chunk", [20, 1000])
def test_text_that_is_no_utf_8_is_read_as_latin_1(tmp_path, chunk):
    names = np.array([b"plain", "G\xf6del".encode("latin-1"), "G\xf6del".encode(), b""])
    lists = np.array([np.frombuffer(name, "S1") for name in names], object)
    columns = [fits.Column("name", "8A", array=names), fits.Column("long", "PA()", array=lists)]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "x.fits")
    table = pa.concat_tables(
        table for part in open_sources(tmp_path / "x.fits", chunk=chunk).parts for table in part.read()
    )
    for name in ("name", "long"):
        assert table[name].to_pylist() == ["plain", "G\xf6del", "G\xf6del", None]


def test_units_ucds_and_descriptions(tmp_path):
    table = Table({"ra": [1.0], "id": MaskedColumn([1], description="what it is " * 20)})
    hdu = fits.table_to_hdu(table)
    for card in ("TUNIT1", "deg"), ("TUCD1", "pos.eq.ra"), ("TCOMM1", "J2000"):
        hdu.header[card[0]] = card[1]
    hdu.writeto(tmp_path / "x.fits")
    schema = open_sources(tmp_path / "x.fits", chunk=100).schema
    assert schema.field("ra").metadata == {b"unit": b"deg", b"ucd": b"pos.eq.ra", b"description": b"J2000"}
    table.write(tmp_path / "y.fits")
    schema = open_sources(tmp_path / "y.fits", chunk=100).schema
    assert schema.field("id").metadata == {b"description": ("what it is " * 20).strip().encode()}


def test_a_table_without_rows(tmp_path):
    Table({"x": np.array([], np.int16)}).write(tmp_path / "y.fits")
    found = open_sources(tmp_path / "y.fits", chunk=100)
    assert found.schema.field("x").type == pa.int16()
    assert found.parts == ()


def changed(path, old, new):
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    return path


@pytest.mark.parametrize(
    "card",
    [
        (b"TFORM1  = 'K       '", b"TFORM1  = '9K      '"),
        (b"TFORM1  = 'K       '", b"TFORM1  = '8Y      '"),
        (b"TTYPE1  = 'id      '", b"TTYPE1  = 'flux    '"),
        (b"TFORM2  = 'PE(3)   '", b"TFORM2  = 'PC(3)   '"),
    ],
)
def test_a_header_that_does_not_describe_the_rows(tmp_path, card):
    fits.BinTableHDU.from_columns(lists()).writeto(tmp_path / "x.fits")
    with pytest.raises(InputError, match=r"x\.fits"):
        open_sources(changed(tmp_path / "x.fits", *card), chunk=1000)


def test_a_list_that_lies_outside_the_heap(tmp_path):
    column = fits.Column("flux", "PE()", array=np.array([np.ones(3), np.ones(2)], object))
    fits.BinTableHDU.from_columns([column]).writeto(tmp_path / "x.fits")
    changed(tmp_path / "x.fits", b"\0\0\0\2\0\0\0\x0c", b"\x7f\0\0\2\0\0\0\x0c")
    (part,) = open_sources(tmp_path / "x.fits", chunk=1000).parts
    with pytest.raises(InputError, match=r"x\.fits cannot be read") as refused:
        list(part.read())
    assert "heap" in refused.value.found
