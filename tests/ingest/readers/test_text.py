"""Text tables: types of whole files, units of ECSV, and lines that are none."""

import gzip
import pickle
import re
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from astropy.table import Column, MaskedColumn, Table

from sciplat.config import settings
from sciplat.errors import InputError
from sciplat.ingest.sources import open_sources

CHUNK = 2000  # so that a block of text has about 1,000 bytes


def rows_of(path, chunk=CHUNK):
    found = open_sources(path, chunk=chunk)
    tables = [table for part in found.parts for table in pickle.loads(pickle.dumps(part)).read()]
    assert all(table.nbytes <= chunk for table in tables)
    return found, pa.concat_tables([found.schema.empty_table(), *tables])


def write(tmp_path, lines, name="x.csv", end="\n"):
    (tmp_path / name).write_text("".join(line + end for line in lines), newline="")
    return tmp_path / name


LATE = {  # values of the first 1,000 rows, the last value, and what becomes of both
    "float": ("1", "2.5", pa.float64(), [1.0, 2.5]),
    "text": ("007", "x", pa.string(), ["007", "x"]),
    "text after floats": ("1.50", "n/k", pa.string(), ["1.50", "n/k"]),
    "missing at first": ("", "3", pa.int64(), [None, 3]),
    "missing and text": ("NA", "x", pa.string(), ["NA", "x"]),
    "truth": ("true", "false", pa.bool_(), [True, False]),
    "truth and numbers": ("true", "1", pa.string(), ["true", "1"]),
    "zero and one": ("0", "1", pa.int64(), [0, 1]),
    "identifiers of 64 bits": ("1", "18446744073709551615", pa.uint64(), [1, 2**64 - 1]),
    "large numbers": ("1.5", "1e300", pa.float64(), [1.5, 1e300]),
    "infinity": ("1", "inf", pa.float64(), [1.0, np.inf]),
    "not a number": ("1.5", "nan", pa.float64(), [1.5, None]),
}


@pytest.mark.parametrize("chunk", [CHUNK, 1 << 24])
@pytest.mark.parametrize(("first", "last", "kind", "values"), LATE.values(), ids=LATE.keys())
def test_the_type_is_that_of_the_whole_file(tmp_path, first, last, kind, values, chunk):
    found, table = rows_of(write(tmp_path, ["id,x", *[f"{k},{first}" for k in range(1000)], f"1000,{last}"]), chunk)
    assert found.schema.field("x").type == kind
    assert table["x"].to_pylist() == [values[0]] * 1000 + [values[1]]
    assert table["id"].to_pylist() == list(range(1001))


@pytest.mark.parametrize("order", [1, -1])
def test_times_of_several_precisions(tmp_path, order):
    values = ["2020-01-01"] * 300 + ["2020-01-01 12:00:00"] * 300 + ["2020-01-01 12:00:00.25"]
    found, table = rows_of(write(tmp_path, ["t", *values[::order]]))
    assert found.schema.field("t").type == pa.timestamp("ns")
    assert str(table["t"].to_pylist()[0 if order == 1 else -1]) == "2020-01-01 00:00:00"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n\n"])
def test_parts_begin_at_lines_and_know_their_rows(tmp_path, end):
    found, table = rows_of(write(tmp_path, ["id,x", *[f"{k},{k / 8}" for k in range(2000)]], end=end))
    assert len(found.parts) > 5
    assert table["id"].to_pylist() == list(range(2000))
    assert [next(part.read())["id"][0].as_py() for part in found.parts] == [part.first for part in found.parts]
    assert sum(part.size for part in found.parts) == pytest.approx(table.nbytes, rel=0.1)
    assert all(part.size <= 2 * CHUNK for part in found.parts)


def test_a_packed_file_is_one_part_of_the_same_rows(tmp_path):
    path = write(tmp_path, ["id,x", *[f"{k},{k / 8}" for k in range(2000)]])
    (tmp_path / "y.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    (tmp_path / "z.csv.zst").write_bytes(pa.compress(path.read_bytes(), "zstd", asbytes=True))
    for packed in ("y.csv.gz", "z.csv.zst"):
        found, table = rows_of(tmp_path / packed)
        assert len(found.parts) == 1
        assert table.equals(rows_of(path)[1])


@pytest.mark.parametrize("line", ["1234", "1234,1,2"])
def test_a_ragged_line_is_named(tmp_path, line):
    lines = ["id,x", *[f"{k},{k / 8}" for k in range(2000)]]
    lines[1234] = line
    with pytest.raises(InputError, match=r"x\.csv has a line of [13] values where the header has 2") as refused:
        open_sources(write(tmp_path, lines), chunk=CHUNK)
    assert refused.value.found == f"line 1235: {line}"


@pytest.mark.parametrize("at", range(0, 120, 7))
def test_a_line_break_within_a_value_is_refused_wherever_blocks_end(tmp_path, at):
    lines = ["id,x", *[f'{k},"t{k}"' for k in range(120)]]
    lines[at + 1] = f'{at},"two\n{at},lines"'
    with pytest.raises(InputError, match="line break within a value") as refused:
        open_sources(write(tmp_path, lines), chunk=1)
    assert refused.value.found == f"line {at + 2}"


def test_quoted_values_and_strange_quotes(tmp_path):
    lines = ["name,note", *['"a, b","say ""hi"""', '5" tube,6"'] * 100]
    _, table = rows_of(write(tmp_path, lines))
    assert table.to_pylist() == [{"name": "a, b", "note": 'say "hi"'}, {"name": '5" tube', "note": '6"'}] * 100


def test_one_column_with_quotes_and_without_a_last_line_end(tmp_path):
    (tmp_path / "x.csv").write_bytes(b'\xef\xbb\xbfname\n"a"\nb')
    assert rows_of(tmp_path / "x.csv")[1].to_pydict() == {"name": ["a", "b"]}


def test_a_header_alone_gives_columns_without_type(tmp_path):
    for text in ("id,x\n", "id,x", "\n\nid,x\n\n\n"):
        (tmp_path / "x.csv").write_text(text)
        found, table = rows_of(tmp_path / "x.csv")
        assert found.schema == pa.schema([("id", pa.null()), ("x", pa.null())])
        assert table.num_rows == 0


def test_text_beyond_the_first_block_that_is_not_utf_8(tmp_path):
    path = write(tmp_path, ["id,name", *[f"{k},x" for k in range(1000)]])
    path.write_bytes(path.read_bytes() + b"1000,G\xf6del\n")
    with pytest.raises(InputError, match=r"x\.csv holds text that is not UTF-8") as refused:
        open_sources(path, chunk=CHUNK)
    assert "'name'" in refused.value.found


def test_a_file_that_changes_after_it_was_opened(tmp_path):
    path = write(tmp_path, ["id", *map(str, range(1000))])
    found = open_sources(path, chunk=CHUNK)
    path.write_bytes(path.read_bytes().replace(b"7", b"x"))
    with pytest.raises(InputError, match=r"x\.csv changed while it was read"):
        [table for part in found.parts for table in part.read()]


@pytest.mark.parametrize("delimiter", [" ", ","])
def test_ecsv_keeps_types_units_descriptions_and_missing_values(tmp_path, delimiter):
    n = 200
    table = Table({"id": MaskedColumn(np.arange(n, dtype=np.int16), mask=np.arange(n) % 2 == 1)})
    table["ra"] = Column(np.linspace(0, 1, n, dtype=np.float32), unit="deg", description="right ascension")
    table["name"] = MaskedColumn([f'a "{k}", b' for k in range(n)], mask=np.arange(n) % 3 == 0)
    table["nan"] = np.full(n, np.nan)
    table["good"] = np.arange(n) % 2 == 0
    table["pair"] = np.arange(2 * n).reshape(n, 2)
    table["list"] = np.array([np.arange(float(k % 3)) for k in range(n)], object)
    table["ra"].meta["ucd"] = "pos.eq.ra"
    table.write(tmp_path / "x.ecsv", delimiter=delimiter)
    found, rows = rows_of(tmp_path / "x.ecsv")
    assert len(found.parts) > 1
    kinds = ["int16", "float", "string", "double", "bool", "fixed_size_list<item: int64>[2]", "list<item: double>"]
    assert [str(field.type) for field in found.schema] == kinds
    about = {b"unit": b"deg", b"ucd": b"pos.eq.ra", b"description": b"right ascension"}
    assert found.schema.field("ra").metadata == about
    assert rows["id"].to_pylist() == [None if k % 2 else k for k in range(n)]
    assert rows["name"].to_pylist() == [f'a "{k}", b' if k % 3 else None for k in range(n)]
    assert np.isnan(rows["nan"].to_numpy()).all()
    assert rows["nan"].null_count == 0
    assert rows["good"].to_pylist() == [k % 2 == 0 for k in range(n)]
    assert rows["pair"].to_pylist() == [[2 * k, 2 * k + 1] for k in range(n)]
    assert rows["list"].to_pylist() == [list(range(k % 3)) for k in range(n)]


def test_aliases_in_the_header_of_ecsv_are_refused(tmp_path):
    bomb = ["# a0: &a0 [x, x]", *[f"# a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 9)]]
    lines = ["# %ECSV 1.0", "# ---", *bomb, "# datatype:", "# - {name: x, datatype: int64}", "x", "1"]
    with pytest.raises(InputError, match=r"x\.ecsv cannot be read") as refused:
        open_sources(write(tmp_path, lines, "x.ecsv"), chunk=CHUNK)
    assert "alias" in refused.value.found


@pytest.mark.parametrize("chunk", [CHUNK, 1 << 24])
@pytest.mark.parametrize(("number", "other"), [("9007199254740993", "0.5"), ("18446744073709551615", "-1")])
@pytest.mark.parametrize("at", [0, 700, 999])
def test_identifiers_that_one_odd_value_would_round_are_refused(tmp_path, chunk, number, other, at):
    lines = [f"{k},{number}" for k in range(1000)]
    lines[at] = f"{at},{other}"
    with pytest.raises(InputError, match="the column 'id' holds whole numbers that would lose digits") as refused:
        open_sources(write(tmp_path, ["k,id", "", *lines]), chunk=chunk)
    assert f"x.csv, line {3 if at else 4}: {number}" in refused.value.found
    assert f"x.csv, line {at + 3}: {other}" in refused.value.found


def test_large_numbers_that_a_float_holds_are_no_identifiers(tmp_path):
    values = ["100000000000000000000", "-9007199254740994", "0.5", "1e300", "nan"]
    found, table = rows_of(write(tmp_path, ["k,x", *[f"{k},{value}" for k, value in enumerate(values)]]))
    assert found.schema.field("x").type == pa.float64()
    assert table["x"].to_pylist()[:4] == [1e20, -9007199254740994.0, 0.5, 1e300]


def test_what_is_found_does_not_depend_on_the_threads(tmp_path, monkeypatch):
    path = write(tmp_path, ["id,x", *[f"{k},{k / 8 if k % 900 else k}" for k in range(5000)]])
    ragged = write(tmp_path, ["id,x", *[f"{k},1" if k % 1000 else f"{k}" for k in range(1, 5000)]], "y.csv")
    found = []
    for threads in ("1", "7"):
        monkeypatch.setenv("SCIPLAT_THREADS", threads)
        settings.cache_clear()
        with pytest.raises(InputError) as refused:
            open_sources(ragged, chunk=CHUNK)
        found.append((open_sources(path, chunk=CHUNK), refused.value.found))
    settings.cache_clear()
    assert found[0] == found[1]
    assert found[0][1] == "line 1001: 1000"


VIZIER = [
    "#RESOURCE=yCat_1239", "#Name: I/239/hip_main", "#Column\t_RAJ2000\t(F10.6)\tRight ascension\t[ucd=pos.eq.ra]", "",
    "_RAJ2000\tHIP\tVmag\tName", 'deg\t\tmag\t"h:m"', "----------\t------\t-----\t----",
    "000.003797\t     1\t 9.10\tab  ", "000.004636\t     2\t     \t c  ",
]  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_of_vizier_has_comments_units_and_dashes(tmp_path, end):
    found, table = rows_of(write(tmp_path, VIZIER, "x.tsv", end))
    assert table.to_pydict() == {
        "_RAJ2000": [0.003797, 0.004636], "HIP": [1, 2], "Vmag": [9.1, None], "Name": ["ab", "c"]
    }  # fmt: skip
    units = [(field.metadata or {}).get(b"unit") for field in found.schema]
    assert units == [b"deg", None, b"mag", b"h:m"]
    with pytest.raises(InputError, match="line of 1 values") as refused:
        open_sources(write(tmp_path, [*VIZIER, "5"], "x.tsv", end), chunk=CHUNK)
    assert refused.value.found == "line 10: 5"


def test_comments_before_the_names(tmp_path):
    for comments in (["# made by hand, on Monday"], ["#", "", "# a", "#b,c"]):
        assert rows_of(write(tmp_path, [*comments, "id,x", "1,2"]))[1].to_pydict() == {"id": [1], "x": [2]}
    assert rows_of(write(tmp_path, ["# made by hand", "# id,x", "1,2"]))[1].to_pydict() == {"id": [1], "x": [2]}
    for lines in (["# made by hand", "1,2"], ["# made by hand"]):
        with pytest.raises(InputError, match=r"x\.csv"):
            open_sources(write(tmp_path, lines), chunk=CHUNK)


@pytest.mark.parametrize(
    ("name", "delimiter", "found", "hint"),
    [("x.csv", ";", "';'", "commas"), ("x.csv", "\t", "tabs", ".tsv"), ("x.csv", "  ", "spaces", "commas"),
     ("x.csv", "|", "'|'", "commas"), ("x.tsv", ",", "commas", ".csv"), ("x.tsv.gz", ";", "';'", "commas")],
)  # fmt: skip
def test_a_foreign_delimiter_is_named(tmp_path, name, delimiter, found, hint):
    rows = ("ra", "dec"), ("1.5", "2,5" if ";" in delimiter else "2")
    path = write(tmp_path, [delimiter.join(row) for row in rows], name)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match=re.escape(f"seem to be separated by {found}")) as refused:
        open_sources(path, chunk=CHUNK)
    assert hint in refused.value.hint


@pytest.mark.parametrize("header", ['id,"r', 'id,"ra', '"id'])
def test_a_header_with_an_open_quote(tmp_path, header):
    with pytest.raises(InputError, match="header with a line break within a name, or a quote") as refused:
        open_sources(write(tmp_path, [header, 'a",dec', "1,2,3"]), chunk=CHUNK)
    assert refused.value.found == header


def test_a_line_without_end_costs_little_memory(tmp_path):
    for head in (b"", b"a,b\n"):
        with gzip.open(tmp_path / "x.csv.gz", "wb", 1) as file:
            file.write(head)
            for _ in range(50):
                file.write(b"0" * (1 << 22))
        tracemalloc.start()
        with pytest.raises(InputError, match=r"header without a line end|line of more than 64 MiB"):
            open_sources(tmp_path / "x.csv.gz", chunk=CHUNK)
        assert tracemalloc.get_traced_memory()[1] < 250 << 20
        tracemalloc.stop()


def test_ecsv_under_another_name_keeps_its_types(tmp_path):
    Table({"x": Column(np.array([1, 2], np.int16), unit="deg")}).write(tmp_path / "x.csv", format="ascii.ecsv")
    assert rows_of(tmp_path / "x.csv")[0].schema == pa.schema([pa.field("x", pa.int16(), metadata={"unit": "deg"})])


def test_an_object_in_the_header_of_ecsv_is_not_made(tmp_path):
    head = ["# %ECSV 1.0", "# ---", "# datatype:", "# - {name: x, datatype: int64}", "#"]
    head[-1] = "# meta: !!python/object/apply:os.getcwd []"
    with pytest.raises(InputError, match=r"x\.ecsv cannot be read"):
        open_sources(write(tmp_path, [*head, "x", "1"], "x.ecsv"), chunk=CHUNK)
    head[-1] = "# meta: !astropy.units.Unit {unit: deg}"
    assert rows_of(write(tmp_path, [*head, "x", "1"], "x.ecsv"))[1].to_pydict() == {"x": [1]}


@pytest.mark.parametrize(
    "change", [("x y", "x z"), ("int64", "blob"), ("delimiter: ','", "delimiter: ';'"), ("datatype:", "data:")]
)
def test_a_header_of_ecsv_that_does_not_fit(tmp_path, change):
    lines = ["# %ECSV 1.0", "# ---", "# delimiter: ','", "# datatype:", "# - {name: x, datatype: int64}", "x y", "1"]
    path = write(tmp_path, [line.replace(*change) for line in lines], "x.ecsv")
    with pytest.raises(InputError, match=r"x\.ecsv"):
        open_sources(path, chunk=CHUNK)
