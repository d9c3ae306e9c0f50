"""VOTables: a slice is a range of rows in the XML.

What passes the gate is not given to astropy as it is: some rows, under a header that we write, are a document of their
own. So memory is bounded, and nothing of the document's other parts is ever followed.
"""

import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pyarrow as pa

from sciplat.errors import InputError
from sciplat.ingest.readers.astropy_table import arrow_of_column
from sciplat.ingest.readers.columns import plain_schema
from sciplat.ingest.readers.reader import Opened, about, go_to, is_packed, open_bytes
from sciplat.ingest.readers.votable_gate import Contents, Field, inspect

_SMALLEST, _LARGEST = 1 << 10, 1 << 21  # bytes of XML that astropy parses at once
_LARGEST_BINARY = 1 << 28  # bytes of base64 text, which is parsed as a whole
_TYPES = {
    "boolean": pa.bool_(), "bit": pa.bool_(), "unsignedByte": pa.uint8(), "short": pa.int16(), "int": pa.int32(),
    "long": pa.int64(), "float": pa.float32(), "double": pa.float64(),
}  # fmt: skip
_TEXT = ("char", "unicodeChar")


@dataclass(frozen=True)
class TableRows:
    """Rows of a VOTable, in blocks that begin and end at `cuts`; `head` and `tail` make a document of a block."""

    path: str
    head: bytes
    tail: bytes
    schema: pa.Schema
    cuts: tuple[int, ...]
    first: int
    size: int

    @property
    def label(self) -> str:
        """Which bytes."""
        return f"bytes {self.cuts[0]} to {self.cuts[-1] - 1}"

    def read(self, schema: pa.Schema, chunk: int) -> Iterator[pa.Table]:
        """Yield the rows in order."""
        del schema, chunk
        with open_bytes(Path(self.path)) as file:
            go_to(file, self.cuts[0])
            for start, end in itertools.pairwise(self.cuts):
                block = file.read(end - start)
                if len(block) < end - start:
                    raise EOFError("the file ends within its rows")
                columns = _decode(self.head + block + self.tail)
                arrays = [
                    arrow_of_column(column, self.path, field.type).cast(field.type)
                    for column, field in zip(columns, self.schema, strict=True)
                ]
                yield pa.table(arrays, schema=self.schema)


def open_votable(path: Path, chunk: int) -> Opened:
    """Read through a VOTable and find its first table."""
    contents = inspect(path, min(max(chunk // 2, _SMALLEST), _LARGEST))
    schema = pa.schema([_arrow_field(path, each) for each in contents.fields])
    plain = plain_schema(schema, str(path))
    head, tail = _document(contents)
    cuts = contents.cuts
    if contents.form.startswith("BINARY") and cuts and cuts[-1][0] - cuts[0][0] > _LARGEST_BINARY:
        raise InputError(
            f"{path} holds a table in {contents.form} of more than {_LARGEST_BINARY >> 20} MiB",
            hint="save it as FITS, Parquet or TABLEDATA, which are read in parts",
        )
    slices: list[TableRows] = []
    start = 0
    for number in range(1, len(cuts)):
        size = cuts[number][0] - cuts[start][0]
        is_last = number == len(cuts) - 1
        if is_last or (not is_packed(path) and cuts[number + 1][0] - cuts[start][0] > chunk):
            offsets = tuple(offset for offset, _ in cuts[start : number + 1])
            slices.append(TableRows(str(path), head, tail, schema, offsets, cuts[start][1], size))
            start = number
    return Opened(plain, tuple(slices))


def _arrow_field(path: Path, field: Field) -> pa.Field:
    known = field.attributes
    name = known.get("name") or known.get("ID", "")
    datatype, lengths = known.get("datatype", ""), known.get("arraysize", "1").strip()
    metadata = about(unit=known.get("unit"), ucd=known.get("ucd"), description=field.description)
    if datatype in _TEXT and "x" not in lengths:
        return pa.field(name, pa.string(), metadata=metadata)
    if datatype not in _TYPES:
        raise InputError(
            f"the column {name!r} of {path} has a type that no catalog can hold",
            found=f"{datatype} of arraysize {lengths}",
            hint="remove it",
        )
    kind = _TYPES[datatype]
    if "*" in lengths:
        kind = pa.list_(kind)
    elif "arraysize" in known and lengths != "1":
        count = 1
        for length in lengths.split("x"):
            count *= int(length)
        kind = pa.list_(kind, count)
    return pa.field(name, kind, metadata=metadata)


def _document(contents: Contents) -> tuple[bytes, bytes]:
    """Return what stands before and after rows in a document that holds only these."""
    lines = [_field_element(number, field) for number, field in enumerate(contents.fields)]
    encoding = re.sub(r"[^A-Za-z0-9._-]", "", contents.encoding)
    form = contents.form or "TABLEDATA"
    stream, end = ("", "") if form == "TABLEDATA" else ('<STREAM encoding="base64">', "</STREAM>")
    head = (
        f'<?xml version="1.0" encoding="{encoding}"?><VOTABLE version="1.4" '
        f'xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE><TABLE>{"".join(lines)}<DATA><{form}>{stream}'
    )
    tail = f"{end}</{form}></DATA></TABLE></RESOURCE></VOTABLE>"
    return head.encode(encoding, "xmlcharrefreplace"), tail.encode(encoding)


def _field_element(number: int, field: Field) -> str:
    kept = {key: field.attributes[key] for key in ("datatype", "arraysize") if key in field.attributes}
    attributes = "".join(f" {key}={quoteattr(value)}" for key, value in kept.items())
    null = "" if field.null is None else f"<VALUES null={quoteattr(field.null)}/>"
    return f'<FIELD ID="c{number}" name="c{number}"{attributes}>{null}</FIELD>'


def _decode(document: bytes) -> list[Any]:
    from astropy.io import votable

    table = votable.parse(io.BytesIO(document), verify="ignore").get_first_table().to_table()
    return [table[name] for name in table.colnames]
