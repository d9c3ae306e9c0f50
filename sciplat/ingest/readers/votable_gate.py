"""The gate that a VOTable passes before its rows are parsed.

A VOTable may name other files, local ones too, and expand to any size. Here the whole document streams through a
parser that resolves nothing: what could reach out or grow is refused, the columns are noted, and where the rows are.

Format: IVOA Recommendation "VOTable Format Definition", version 1.4.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from sciplat.errors import InputError
from sciplat.ingest.readers.reader import open_bytes, printable

_DEEPEST = 32
_MOST_FIELDS = 10_000
_MOST_ELEMENTS = 1_000_000  # besides rows and cells
_MOST_VALUES = 1 << 20  # of one cell
_LONGEST = 1 << 26  # bytes of a row or a tag
_READ = 1 << 20
_ROW_PARTS = ("TR", "TD")


@dataclass
class Field:
    """A FIELD element: its attributes, the text for a missing value, and the description."""

    attributes: dict[str, str]
    null: str | None = None
    description: str = ""


@dataclass
class Contents:
    """What a VOTable holds: the first table's columns, and where its rows are.

    Parameters
    ----------
    encoding : str
    fields : list of Field
    form : str
        TABLEDATA, BINARY or BINARY2; empty without data.
    cuts : list of (int, int)
        Offsets in the (unpacked) file and numbers of rows: of TABLEDATA the starts of some rows, and the end of the
        last; of the others the start and end of the base64 text.
    """

    encoding: str = "utf-8"
    fields: list[Field] = field(default_factory=list)
    form: str = ""
    cuts: list[tuple[int, int]] = field(default_factory=list)


def inspect(path: Path, block: int) -> Contents:
    """Read through a VOTable once.

    Parameters
    ----------
    path : Path
    block : int
        About how many bytes of rows lie between two cuts.

    Raises
    ------
    InputError
        The document is not well formed or complete, or holds what is refused.
    """
    gate = _Gate(path, block)
    with open_bytes(path) as file:
        while data := file.read(_READ):
            gate.feed(data)
        gate.feed(b"", last=True)
    if gate.failure:
        raise InputError(f"{path} is the answer of a service that failed", found=printable(gate.failure[:200]))
    if gate.overflow:
        raise InputError(
            f"{path} is an answer that is cut off",
            found="QUERY_STATUS = OVERFLOW",
            hint="raise MAXREC, or ask for parts of the sky and ingest these together",
        )
    if not gate.contents.fields:
        raise InputError(f"{path} holds no table", hint="a VOTable with a TABLE of FIELDs")
    return gate.contents


class _Gate:
    def __init__(self, path: Path, block: int) -> None:
        self.contents = Contents()
        self.failure = ""
        self.overflow = False
        self._path = path
        self._block = block
        self._open: list[str] = []
        self._elements = self._tables = self._rows = self._cells = self._row_start = self._fed = 0
        self._text: list[str] | None = None
        self._parser = parser = expat.ParserCreate()
        parser.XmlDeclHandler = self._declaration
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.StartDoctypeDeclHandler = self._never("a document type")
        parser.EntityDeclHandler = self._never("an entity")
        parser.ExternalEntityRefHandler = self._never("a reference to another file")

    def feed(self, data: bytes, *, last: bool = False) -> None:
        if self._fed == 0 and (b"\0" in data[:4] or data[:2] in (b"\xfe\xff", b"\xff\xfe")):
            raise InputError(f"{self._path} is no VOTable that we read", found="UTF-16 or no text", hint="UTF-8")
        self._fed += len(data)
        try:
            self._parser.Parse(data, last)
        except expat.ExpatError as error:
            raise InputError(
                f"{self._path} is no complete XML", found=printable(str(error)), hint="fetch it once more"
            ) from None
        if self._fed - self._parser.CurrentByteIndex > _LONGEST:
            raise self._refused(f"a tag of more than {_LONGEST >> 20} MiB")

    def _refused(self, what: str) -> InputError:
        return InputError(
            f"{self._path} holds what we do not follow or trust in a VOTable",
            found=what,
            hint="save the table again, plainly, for example with TOPCAT as TABLEDATA or FITS",
        )

    def _never(self, what: str) -> Callable[..., int]:
        def refuse(*_: object) -> int:
            raise self._refused(what)

        return refuse

    def _declaration(self, _version: str, encoding: str | None, _standalone: int) -> None:
        self.contents.encoding = encoding or "utf-8"

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        name = tag.rpartition(":")[2]
        self._open.append(name)
        if len(self._open) > _DEEPEST:
            raise self._refused(f"elements {len(self._open)} deep")
        if name in _ROW_PARTS:
            self._start_of_row_part(name)
            return
        self._elements += 1
        if self._elements > _MOST_ELEMENTS:
            raise self._refused(f"more than {_MOST_ELEMENTS:,} elements")
        if self._elements == 1 and name != "VOTABLE":
            raise InputError(f"{self._path} is no VOTable", found=printable(f"<{tag[:40]}>"))
        self._check(name, attributes)
        if name == "TABLE":
            self._tables += 1
        elif name == "INFO" and attributes.get("name") == "QUERY_STATUS":
            self._status(attributes.get("value", ""))
        elif self._tables == 1 and "TABLE" in self._open:
            self._start_in_table(name, attributes)

    def _status(self, value: str) -> None:
        self.overflow = self.overflow or value == "OVERFLOW"
        if value == "ERROR":
            self.failure = "QUERY_STATUS = ERROR"
            self._gather()

    def _check(self, name: str, attributes: dict[str, str]) -> None:
        if name == "STREAM" and any(key.rpartition(":")[2].lower() == "href" for key in attributes):
            raise self._refused(f"a STREAM with href={attributes.get('href', '')[:60]!r}")
        if name == "STREAM" and attributes.get("encoding", "base64") != "base64":
            raise self._refused(f"a STREAM with encoding={attributes['encoding'][:20]!r}")
        if name in ("FITS", "PARQUET"):
            raise self._refused(f"a table serialised as {name}")
        if name == "FIELD":
            lengths = re.findall(r"\d+", attributes.get("arraysize", "1"))
            count = 1
            for length in lengths:
                count *= int(length[:12])
            if count > _MOST_VALUES:
                raise self._refused(f"a FIELD with arraysize={attributes['arraysize'][:40]!r}")

    def _start_in_table(self, name: str, attributes: dict[str, str]) -> None:
        contents, parent = self.contents, self._open[-2]
        if name == "FIELD" and parent == "TABLE":
            contents.fields.append(Field(dict(attributes)))
            if len(contents.fields) > _MOST_FIELDS:
                raise self._refused(f"more than {_MOST_FIELDS:,} FIELDs")
        elif name == "VALUES" and parent == "FIELD" and "null" in attributes:
            contents.fields[-1].null = attributes["null"]
        elif name == "DESCRIPTION" and parent == "FIELD":
            self._gather()
        elif name in ("TABLEDATA", "BINARY", "BINARY2"):
            contents.form = name
        elif name == "STREAM":
            self._parser.CharacterDataHandler = self._first_of_stream

    def _start_of_row_part(self, name: str) -> None:
        if self._tables != 1 or self.contents.form != "TABLEDATA":
            return
        if name == "TD":
            self._cells += 1
            return
        self._row_start = self._parser.CurrentByteIndex
        self._cells = 0
        cuts = self.contents.cuts
        if not cuts or self._row_start - cuts[-1][0] >= self._block:
            cuts.append((self._row_start, self._rows))

    def _gather(self) -> None:
        self._text = []
        self._parser.CharacterDataHandler = self._text.append

    def _first_of_stream(self, _: str) -> None:
        self.contents.cuts.append((self._parser.CurrentByteIndex, 0))
        self._parser.CharacterDataHandler = None

    def _end(self, _: Any) -> None:
        name = self._open.pop()
        if name in _ROW_PARTS:
            if name == "TR" and self._tables == 1:
                self._end_of_row()
        elif self._text is not None and name in ("DESCRIPTION", "INFO"):
            text, self._text = "".join(self._text), None
            self._parser.CharacterDataHandler = None
            if name == "INFO":
                self.failure = text.strip() or self.failure
            else:
                self.contents.fields[-1].description = text
        elif name in ("TABLEDATA", "STREAM") and self._tables == 1 and self.contents.cuts:
            self._parser.CharacterDataHandler = None
            self.contents.cuts.append((self._parser.CurrentByteIndex, self._rows))

    def _end_of_row(self) -> None:
        self._rows += 1
        if self._cells != len(self.contents.fields):
            raise InputError(
                f"{self._path} has a row of {self._cells} values where there are {len(self.contents.fields)} columns",
                found=f"row {self._rows}, line {self._parser.CurrentLineNumber}",
                hint="fetch the file once more",
            )
        if self._parser.CurrentByteIndex - self._row_start > _LONGEST:
            raise self._refused(f"a row of more than {_LONGEST >> 20} MiB")
