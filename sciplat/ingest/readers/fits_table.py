"""Binary and ASCII tables of FITS: a slice is a range of rows.

astropy decodes the rows, but is never given a file: the bytes of some rows, under a header that describes just these,
are an HDU of their own. So memory is bounded, for gzipped files too, and nothing of a size that only a header claims
is allocated.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sciplat.errors import InputError
from sciplat.ingest.fits_file import Hdu, read_hdus
from sciplat.ingest.readers.astropy_table import arrow_of_column
from sciplat.ingest.readers.columns import plain_schema
from sciplat.ingest.readers.ecsv import parse_header
from sciplat.ingest.readers.fits_heap import LISTS, Heap, heap_of
from sciplat.ingest.readers.fits_undefined import Undefined, undefined_columns
from sciplat.ingest.readers.reader import Opened, about, go_to, is_packed, open_bytes

_DECODING = ("TTYPE", "TFORM", "TDIM", "TSCAL", "TZERO", "TBCOL")
_BEGIN, _FINISH = "--BEGIN-ASTROPY-SERIALIZED-COLUMNS--", "--END-ASTROPY-SERIALIZED-COLUMNS--"
_MOST = 1 << 22  # bytes of rows that astropy decodes at once


@dataclass(frozen=True)
class TableRows:
    """The rows `first` to before `end` of a table."""

    path: str
    cards: str
    width: int
    offset: int
    heap: Heap | None
    undefined: tuple[Undefined, ...]
    first: int
    end: int
    size: int

    @property
    def label(self) -> str:
        """Which rows."""
        return f"rows {self.first} to {self.end - 1}"

    def read(self, schema: pa.Schema, chunk: int) -> Iterator[pa.Table]:
        """Yield the rows in order."""
        count = max(1, min(chunk, _MOST) // self.width)
        with open_bytes(Path(self.path)) as file:
            lists = self.heap.opened(file) if self.heap else None
            go_to(file, self.offset + self.first * self.width)
            for start in range(self.first, self.end, count):
                if lists is not None:
                    file.seek(self.offset + start * self.width)
                yield self._decoded(file, min(count, self.end - start), lists, schema)

    def _decoded(self, file: BinaryIO, rows: int, lists: Any, schema: pa.Schema) -> pa.Table:
        raw = file.read(rows * self.width)
        if len(raw) < rows * self.width:
            raise EOFError("the file ends within a row")
        masks = {each.number: each.mask(raw, self.width) for each in self.undefined}
        for each in self.undefined:
            raw = each.replaced(raw, self.width, masks[each.number])
        raw, tail = (raw, b"") if lists is None else lists.gathered(raw, self.width)
        columns = [
            _masked(column, masks[number]) if number in masks else column
            for number, column in enumerate(_decode(self.cards, raw, rows, tail))
        ]
        arrays = {}
        for column in columns:
            kind = schema.field(column.name).type if column.name in schema.names else None
            array = arrow_of_column(column, self.path, kind)
            # FITS has no other way to say that a text is missing
            arrays[column.name] = pc.if_else(pc.equal(array, ""), None, array) if _is_text(array) else array
        return pa.table(arrays)


def _masked(column: Any, mask: NDArray[np.bool_]) -> Any:
    """Return a column that is masked where it is undefined too."""
    from astropy.table import MaskedColumn

    known = np.ma.getmaskarray(column) if isinstance(column, np.ma.MaskedArray) else False
    return MaskedColumn(np.ma.getdata(column), name=column.name, mask=known | mask.reshape(column.shape))


def _is_text(array: pa.Array) -> bool:
    return bool(pa.types.is_string(array.type))


def open_fits(path: Path, chunk: int) -> Opened:
    """Walk the headers of a FITS file and find its first table."""
    hdu = _first_table(path)
    header = hdu.header
    width, rows = int(header["NAXIS1"]), int(header["NAXIS2"])
    names = _unique_names(path, header)
    cards = _cards(hdu, names)
    heap, undefined = heap_of(path, hdu), undefined_columns(header)
    size = width + (heap.size // max(rows, 1) if heap else 0)
    step = max(1, rows if is_packed(path) else chunk // max(size, 1))
    slices = tuple(
        TableRows(str(path), cards, width, hdu.offset, heap, undefined, first, end, size * min(step, rows))
        for first, end in ((first, min(first + step, rows)) for first in range(0, rows if width else 0, step))
    )
    return Opened(plain_schema(_schema(path, hdu, names, cards), str(path)), slices)


def _first_table(path: Path) -> Hdu:
    # before anything of the size that a header claims is allocated: the file is whole
    hdus = read_hdus(path)
    tables = [hdu for hdu in hdus if str(hdu.header.get("XTENSION", "")).strip() in ("BINTABLE", "TABLE")]
    table = next((hdu for hdu in tables if not hdu.compressed), None)
    if table is None:
        raise InputError(f"{path} holds no table", found=f"{len(hdus)} HDUs without one", hint="sciplat ingest images")
    return table


def _unique_names(path: Path, header: Any) -> list[str]:
    names = [str(header.get(f"TTYPE{k}", f"col{k}")).strip() for k in range(1, int(header["TFIELDS"]) + 1)]
    plain_schema(pa.schema([(name, pa.null()) for name in names]), str(path))  # no name twice
    return names


def _cards(hdu: Hdu, names: list[str]) -> str:
    """Return the header that astropy decodes rows with: nothing that it would warn of."""
    from astropy.io import fits

    kept = fits.Header()
    for key in ("XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "PCOUNT", "GCOUNT", "TFIELDS"):
        kept[key] = hdu.header[key]
    for number, name in enumerate(names, 1):
        for key in _DECODING:
            if f"{key}{number}" in hdu.header:
                kept[f"{key}{number}"] = hdu.header[f"{key}{number}"]
        kept[f"TTYPE{number}"] = name
        # astropy takes lists of letters for ASCII, whatever they are; as bytes they are decoded here
        kept[f"TFORM{number}"] = re.sub(r"([PQ])A", r"\1B", kept[f"TFORM{number}"])
    return str(kept.tostring())


def _decode(cards: str, raw: bytes, rows: int, heap: bytes = b"") -> list[Any]:
    """Return the columns of some rows, given their bytes."""
    from astropy.io import fits
    from astropy.table import Table

    header = fits.Header.fromstring(cards)
    header["NAXIS2"], header["PCOUNT"] = rows, len(heap)
    kind = fits.BinTableHDU if header["XTENSION"].strip() == "BINTABLE" else fits.TableHDU
    data = raw + heap
    padded = data.ljust(-(-len(data) // 2880) * 2880, b"\0" if kind is fits.BinTableHDU else b" ")
    hdu = kind.fromstring(header.tostring().encode("ascii") + padded, uint=True, character_as_bytes=True)
    table = Table.read(hdu, format="fits")
    return [table[name] for name in table.colnames]


def _schema(path: Path, hdu: Hdu, names: list[str], cards: str) -> pa.Schema:
    """Return the types, which a table of no rows has too, and what the header says of the columns."""
    fields = []
    descriptions = _descriptions(path, hdu)
    # astropy cannot decode an ASCII table of no rows
    sample = (b"", 0) if hdu.header["XTENSION"].strip() == "BINTABLE" else (b" " * int(hdu.header["NAXIS1"]), 1)
    for number, column in enumerate(_decode(cards, *sample), 1):
        form = str(hdu.header[f"TFORM{number}"])
        code = form.lstrip("0123456789 ")[:2]
        if code[:1] in ("P", "Q") and hdu.header["XTENSION"].strip() == "BINTABLE":
            if code[1:] not in LISTS:
                raise InputError(f"the column {names[number - 1]!r} of {path} holds lists of {form}", hint="remove it")
            kind = pa.string() if code[1:] == "A" else pa.list_(pa.from_numpy_dtype(LISTS[code[1:]]))
        else:
            kind = arrow_of_column(column, str(path)).type
        known = about(
            unit=hdu.header.get(f"TUNIT{number}"),
            ucd=hdu.header.get(f"TUCD{number}"),
            description=hdu.header.get(f"TCOMM{number}") or descriptions.get(names[number - 1]),
        )
        fields.append(pa.field(names[number - 1], kind, metadata=known))
    return pa.schema(fields)


def _descriptions(path: Path, hdu: Hdu) -> dict[str, str]:
    """Return the descriptions that astropy keeps as YAML in COMMENT cards; lines that it broke end in a backslash."""
    with open_bytes(path) as file:
        go_to(file, hdu.start)
        raw = file.read(hdu.offset - hdu.start).decode("ascii", "replace")
    cards = [raw[at : at + 80] for at in range(0, len(raw), 80)]
    comments = [card[8:].rstrip() for card in cards if card.startswith("COMMENT ")]
    if not {_BEGIN, _FINISH} <= set(comments):
        return {}
    text = "\n".join(comments[comments.index(_BEGIN) + 1 : comments.index(_FINISH)]).replace("\\\n", "")
    columns = parse_header(text)["datatype"]
    return {str(column["name"]): column.get("description", "") for column in columns}
