"""The heap of a FITS binary table, where columns of lists keep their values (FITS standard 4.0, section 7.3.5).

A row holds the length of each list and where it lies. For some rows the lists are gathered into a small heap, and the
rows changed to point into that.
"""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from sciplat.errors import InputError
from sciplat.ingest.fits_file import Hdu
from sciplat.ingest.readers.reader import go_to, is_packed

LISTS = {"L": "?", "B": "u1", "I": "i2", "J": "i4", "K": "i8", "E": "f4", "D": "f8", "A": "S1"}
WIDTHS = {"L": 1, "X": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}
_LARGEST_PACKED = 1 << 28  # bytes of a heap that is held, since a packed file cannot be read in any order


@dataclass(frozen=True)
class Heap:
    """Where a table's lists are.

    Parameters
    ----------
    start, size : int
        Bytes in the (unpacked) file.
    columns : tuple of (int, str, int)
        Of each column of lists: offset in the row, "P" or "Q", and bytes of one value.
    packed : bool
        Whether the file is compressed as a whole.
    """

    start: int
    size: int
    columns: tuple[tuple[int, str, int], ...]
    packed: bool

    def opened(self, file: BinaryIO) -> "OpenHeap":
        """Return the heap in an open file."""
        if not self.packed:
            return OpenHeap(self, file, 0)
        go_to(file, self.start)
        held = io.BytesIO(file.read(self.size))
        file.seek(0)
        return OpenHeap(self, held, self.start)


@dataclass(frozen=True)
class OpenHeap:
    """The heap in a file, which begins at `base` of the table's file."""

    heap: Heap
    file: BinaryIO
    base: int

    def gathered(self, rows: bytes, width: int) -> tuple[bytes, bytes]:
        """Return rows that point into a heap of their own, and this heap."""
        table = np.frombuffer(rows, np.uint8).reshape(-1, width).copy()
        lists: list[bytes] = []
        end = 0
        for at, code, item in self.heap.columns:
            size = 8 if code == "P" else 16
            pointers = np.ascontiguousarray(table[:, at : at + size]).view(">i4" if code == "P" else ">i8")
            moved = pointers.copy()
            for row, (count, offset) in enumerate(pointers.tolist()):
                lists.append(self._list(offset, count * item))
                moved[row, 1] = end
                end += len(lists[-1])
            table[:, at : at + size] = _bytes_of(moved)
        return table.tobytes(), b"".join(lists)

    def _list(self, offset: int, length: int) -> bytes:
        if length < 0 or offset < 0 or (length and offset + length > self.heap.size):
            raise ValueError(f"a list lies at byte {offset} of a heap of {self.heap.size} bytes")
        self.file.seek(self.heap.start + offset - self.base)
        return self.file.read(length)


def _bytes_of(pointers: NDArray[np.integer]) -> NDArray[np.uint8]:
    return pointers.view(np.uint8).reshape(len(pointers), -1)


def heap_of(path: Path, hdu: Hdu) -> Heap | None:
    """Return where the lists of a table are; None for one without."""
    header = hdu.header
    if header["XTENSION"].strip() != "BINTABLE":
        return None
    columns, at = [], 0
    for number in range(1, int(header["TFIELDS"]) + 1):
        form = re.match(r"\s*(\d*)([A-Z])([A-Z]?)", str(header[f"TFORM{number}"]))
        if form is None or form[2] not in WIDTHS:
            raise InputError(f"{path} is broken", found=f"TFORM{number} = {header[f'TFORM{number}']!r}")
        count = int(form[1] or 1)
        if form[2] in "PQ" and count:
            columns.append((at, form[2], WIDTHS.get(form[3], 1)))
        at += -(-count // 8) if form[2] == "X" else count * WIDTHS[form[2]]
    if at != header["NAXIS1"]:
        raise InputError(f"{path} is broken", found=f"columns of {at} bytes in rows of {header['NAXIS1']}")
    if not columns:
        return None
    rows = int(header["NAXIS1"]) * int(header["NAXIS2"])
    gap = int(header.get("THEAP", rows))
    size = rows + int(header["PCOUNT"]) - gap
    if gap < rows or size < 0:
        raise InputError(f"{path} is broken", found=f"a heap at byte {gap} of the data")
    if is_packed(path) and size > _LARGEST_PACKED:
        raise InputError(
            f"{path} holds lists of {size >> 20} MiB and is compressed", hint="unpack it first: gunzip FILE"
        )
    return Heap(hdu.offset + gap, size, tuple(columns), is_packed(path))
