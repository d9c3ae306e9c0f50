"""What a column says of itself, in words: its unit, and names in messages."""

from collections.abc import Sequence

import pyarrow as pa

_MANY_NAMES = 30


def unit_of(column: pa.Field) -> str:
    """Return the unit that a column's metadata states, empty if it states none."""
    return str((column.metadata or {}).get(b"unit", b"").decode(errors="replace")).strip()


def shown_names(names: Sequence[str]) -> str:
    """Return names of columns for a message: the first thirty, and how many more there are."""
    more = len(names) - _MANY_NAMES
    return ", ".join(names[:_MANY_NAMES]) + (f" and {more} more" if more > 0 else "")
