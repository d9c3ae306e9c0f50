"""VOTables of every serialisation, and those that must not be followed."""

import pickle
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from astropy.io.votable import from_table, writeto
from astropy.table import Column, MaskedColumn, Table

from sciplat.errors import InputError
from sciplat.ingest.sources import open_sources

N = 300


def rows_of(path, chunk=4000):
    found = open_sources(path, chunk=chunk)
    tables = [table for part in found.parts for table in pickle.loads(pickle.dumps(part)).read()]
    return found, pa.concat_tables([found.schema.empty_table(), *tables])


def wide():
    table = Table({"id": np.arange(N), "name": [f"a<{k}&é" for k in range(N)]})
    table["ra"] = Column(np.linspace(0, 360, N), unit="deg", description="right\n ascension", meta={"ucd": "pos.eq.ra"})
    table["count"] = MaskedColumn(np.arange(N, dtype=np.int16), mask=np.arange(N) % 2 == 0)
    table["flux"] = np.arange(3 * N, dtype=np.float32).reshape(N, 3)
    table["good"] = np.arange(N) % 2 == 0
    return table


@pytest.mark.parametrize("form", ["tabledata", "binary", "binary2"])
def test_every_serialisation_gives_the_same_rows(tmp_path, form):
    file = from_table(wide())
    file.get_first_table().fields[2].ucd = "pos.eq.ra"
    file.get_first_table().fields[3].values.null = -1
    writeto(file, str(tmp_path / "x.vot"), tabledata_format=form)
    found, table = rows_of(tmp_path / "x.vot")
    assert (len(found.parts) > 3) is (form == "tabledata")
    assert [part.first for part in found.parts] == sorted({part.first for part in found.parts})
    assert table["id"].to_pylist() == list(range(N))
    assert table["name"].to_pylist() == [f"a<{k}&é" for k in range(N)]
    assert table["ra"].to_pylist() == np.linspace(0, 360, N).tolist()
    assert table["count"].to_pylist() == [k if k % 2 else None for k in range(N)]
    assert table["flux"].to_pylist() == [[3 * k, 3 * k + 1, 3 * k + 2] for k in range(N)]
    assert table["good"].to_pylist() == [k % 2 == 0 for k in range(N)]
    about = {b"unit": b"deg", b"ucd": b"pos.eq.ra", b"description": b"right ascension"}
    assert found.schema.field("ra").metadata == about
    assert [str(field.type) for field in found.schema] == [
        "int64", "string", "double", "int16", "fixed_size_list<item: float>[3]", "bool"
    ]  # fmt: skip


FIELDS = '<FIELD name="a" datatype="int"><VALUES null="-1"/></FIELD><FIELD name="v" datatype="double" arraysize="*"/>'
ROW = "<TR><TD>{}</TD><TD>{}</TD></TR>"


def document(rows="", fields=FIELDS, before="", head='<?xml version="1.0"?>', form="TABLEDATA", after=""):
    return (
        f'{head}<VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE>{before}'
        f"<TABLE>{fields}<DATA><{form}>{rows}</{form}></DATA></TABLE>{after}</RESOURCE></VOTABLE>"
    )


def write(tmp_path, text, encoding="utf-8"):
    (tmp_path / "x.vot").write_bytes(text.encode(encoding))
    return tmp_path / "x.vot"


def test_missing_values_lists_of_any_length_and_several_tables(tmp_path):
    rows = ROW.format(-1, "1 2.5") + "\n<!-- a comment -->" + ROW.format("", "") + ROW.format("7", "NaN 1")
    path = write(tmp_path, document(rows, after="<TABLE><FIELD name='z' datatype='int'/></TABLE>"))
    assert rows_of(path)[1].to_pydict() == {"a": [None, None, 7], "v": [[1.0, 2.5], [], [None, 1.0]]}
    assert rows_of(write(tmp_path, document()))[1].num_rows == 0
    assert rows_of(write(tmp_path, document(form="BINARY2")))[1].num_rows == 0


def test_prefixes_and_other_encodings(tmp_path):
    text = document(ROW.format(1, 2)).replace("<", "<v:").replace("<v:/", "</v:").replace("<v:?", "<?")
    assert rows_of(write(tmp_path, text))[1].to_pydict() == {"a": [1], "v": [[2.0]]}
    names = '<FIELD name="é" datatype="unicodeChar" arraysize="*"/>'
    text = document("<TR><TD>ü</TD></TR>", names, head='<?xml version="1.0" encoding="ISO-8859-1"?>')
    assert rows_of(write(tmp_path, text, "latin-1"))[1].to_pydict() == {"é": ["ü"]}


BOMB = "<!DOCTYPE VOTABLE [<!ENTITY a 'ha'>" + "".join(
    f"<!ENTITY {b} '{f'&{a};' * 10}'>" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
) + "]>"  # fmt: skip
HOSTILE = {
    "an entity bomb": document(ROW.format("&i;", 1), head=BOMB),
    "a local file as an entity": document(ROW.format("&e;", 1), head='<!DOCTYPE V [<!ENTITY e SYSTEM "secret">]>'),
    "a foreign DTD": document(head='<!DOCTYPE VOTABLE SYSTEM "http://127.0.0.1:9/x.dtd">'),
    "a stream from a local file": document('<STREAM href="file://{}/secret"/>', form="BINARY"),
    "a stream from the web": document('<STREAM href="http://127.0.0.1:9/x"/>', form="BINARY2"),
    "a stream with a prefix": document('<STREAM xmlns:x="y" x:HREF="secret"/>', form="BINARY2"),
    "a stream of the second table": document(
        after="<TABLE><DATA><BINARY><STREAM href='secret'/></BINARY></DATA></TABLE>"
    ),
    "a packed stream": document('<STREAM encoding="gzip">AAAA</STREAM>', form="BINARY"),
    "FITS": document('<STREAM href="secret"/>', form="FITS"),
    "FITS within": document("<STREAM>AAAA</STREAM>", form="FITS"),
    "PARQUET": document("<STREAM>AAAA</STREAM>", form="PARQUET"),
    "depth": document(before="<RESOURCE>" * 40, after="</RESOURCE>" * 40),
    "a cell of any size": document(fields='<FIELD name="a" datatype="double" arraysize="99999999999"/>'),
    "a text of any size": document(fields='<FIELD name="a" datatype="char" arraysize="9999999x9999"/>'),
    "columns without end": document(fields="<FIELD name='a' datatype='int'/>" * 10_001),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_reaches_out_or_grows_is_refused(tmp_path, text):
    (tmp_path / "secret").write_bytes(bytes(100))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"x\.vot holds what we do not follow"):
        open_sources(write(tmp_path, text.replace("{}", str(tmp_path))), chunk=1000)
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_a_number_of_rows_that_is_only_claimed_costs_nothing(tmp_path):
    text = document(ROW.format(1, 2)).replace("<TABLE>", '<TABLE nrows="9999999999">')
    assert rows_of(write(tmp_path, text))[1].num_rows == 1


@pytest.mark.parametrize(
    "text",
    [
        document("<TR><TD>1</TD></TR>"),
        document("<TR>" + "<TD>1</TD>" * 3 + "</TR>"),
        document(fields='<FIELD name="a" datatype="doubleComplex"/>'),
        document(fields='<FIELD name="a" datatype="string"/>'),
        document(fields='<FIELD name="a" datatype="int" arraysize="x"/>'),
        document(fields=FIELDS.replace('"v"', '"a"')),
        document(fields=""),
        document()[:-20],
        document().replace("VOTABLE", "HTML"),
        "just text",
    ],
)
def test_what_is_no_votable_that_a_catalog_can_hold(tmp_path, text):
    with pytest.raises(InputError, match=r"x\.vot"):
        open_sources(write(tmp_path, text), chunk=1000)


@pytest.mark.parametrize("value", ["one", "1e400000000000"])
def test_a_value_that_is_no_number(tmp_path, value):
    (part,) = open_sources(write(tmp_path, document(ROW.format(value, 2))), chunk=1000).parts
    with pytest.raises(InputError, match=r"x\.vot cannot be read"):
        list(part.read())


def test_the_answer_of_a_service_that_failed_is_shown(tmp_path):
    before = '<INFO name="QUERY_STATUS" value="ERROR">no column "dce"</INFO>'
    with pytest.raises(InputError, match="a service that failed") as refused:
        open_sources(write(tmp_path, document(before=before)), chunk=1000)
    assert refused.value.found == 'no column "dce"'


@pytest.mark.parametrize("where", ["before", "after"])
def test_an_answer_that_is_cut_off_is_refused(tmp_path, where):
    text = document(ROW.format(1, 2), **{where: '<INFO name="QUERY_STATUS" value="OVERFLOW"/>'})
    with pytest.raises(InputError, match="an answer that is cut off") as refused:
        open_sources(write(tmp_path, text), chunk=1000)
    assert "MAXREC" in refused.value.hint
    text = document(ROW.format(1, 2), before='<INFO name="QUERY_STATUS" value="OK"/>')
    assert rows_of(write(tmp_path, text))[1].num_rows == 1


def test_utf_16_is_refused(tmp_path):
    with pytest.raises(InputError, match="no VOTable that we read"):
        open_sources(write(tmp_path, document(), "utf-16"), chunk=1000)
