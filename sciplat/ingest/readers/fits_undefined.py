"""Which values of a FITS table are undefined (FITS standard 4.0, sections 7.2 and 7.3).

TNULL names a value as it is stored, before TSCAL and TZERO; a logical value is undefined as a zero byte. So the stored
bytes tell, not what they are decoded to.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sciplat.ingest.readers.fits_heap import WIDTHS

_INTEGERS = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8"}


@dataclass(frozen=True)
class Undefined:
    """A column that may have undefined values.

    Parameters
    ----------
    number : int
        Of the column, from 0.
    start, width : int
        Its bytes in a row.
    kind : str
        Of one value, as numpy has it; "S" for the text of an ASCII table.
    value : int or bytes
        As which an undefined one is stored.
    filling : int
        The byte that can be decoded in its place; 0 where it can be decoded itself.
    """

    number: int
    start: int
    width: int
    kind: str
    value: int | bytes
    filling: int = 0

    def mask(self, rows: bytes, row_width: int) -> NDArray[np.bool_]:
        """Return where rows are undefined: for every row, or its values in their order."""
        table = np.frombuffer(rows, np.uint8).reshape(-1, row_width)
        stored = np.ascontiguousarray(table[:, self.start : self.start + self.width])
        if self.kind == "S":
            return np.asarray(np.char.strip(stored.view(f"S{self.width}").reshape(-1)) == self.value)
        return np.asarray(stored.view(self.kind) == self.value)

    def replaced(self, rows: bytes, row_width: int, mask: NDArray[np.bool_]) -> bytes:
        """Return rows without what astropy would not decode: text for no number, and logical values of zero bytes."""
        if self.filling == 0 or not mask.any():
            return rows
        table = np.frombuffer(rows, np.uint8).reshape(-1, row_width).copy()
        values = table[:, self.start : self.start + self.width]
        values[mask] = self.filling
        return table.tobytes()


def undefined_columns(header: Any) -> tuple[Undefined, ...]:
    """Return the columns of a table that may have undefined values, lists apart."""
    is_binary = header["XTENSION"].strip() == "BINTABLE"
    found = []
    at = 0
    for number in range(1, int(header["TFIELDS"]) + 1):
        null = header.get(f"TNULL{number}")
        form = re.match(r"\s*(\d*)([A-Z])(\d*)", str(header[f"TFORM{number}"]))
        if form is None:
            continue  # refused elsewhere
        code = form[2]
        if not is_binary:
            width = int(form[3] or 1)
            if null is not None and str(null).strip():
                text = str(null).strip().encode("ascii", "replace")
                found.append(Undefined(number - 1, int(header[f"TBCOL{number}"]) - 1, width, "S", text, ord(" ")))
            continue
        count = int(form[1] or 1)
        width = -(-count // 8) if code == "X" else count * WIDTHS.get(code, 0)
        if code == "L" and count:
            found.append(Undefined(number - 1, at, width, "u1", 0, ord("F")))
        elif code in _INTEGERS and count and isinstance(null, int):
            found.append(Undefined(number - 1, at, width, _INTEGERS[code], _stored(header, number, code, null)))
        at += width
    return tuple(found)


def _stored(header: Any, number: int, code: str, null: int) -> int:
    """Return the stored value that TNULL names.

    Of unsigned integers, which are stored with an offset, astropy writes as TNULL the value that it means, not the one
    that is stored. A negative one cannot be meant so, nor the largest stored one, which others write.
    """
    offset = 1 << (8 * int(_INTEGERS[code][-1]) - 1)
    is_unsigned = header.get(f"TZERO{number}", 0) == offset and header.get(f"TSCAL{number}", 1) == 1
    return null - offset if is_unsigned and code != "B" and 0 <= null < offset - 1 else null
