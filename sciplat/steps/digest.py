"""A digest of a table's content: its columns and values, not how they lie in memory."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_WINDOW = 1 << 20  # rows that are looked at together


def table_digest(table: pa.Table) -> str:
    """Return the sha256 of a table's schema and values.

    It does not depend on how the columns are cut into chunks, nor on what lies under nulls. Floats count by their
    bits: 0.0 is not -0.0.
    """
    digest = hashlib.sha256(table.schema.serialize())
    for column in table.columns:
        for start in range(0, table.num_rows, _WINDOW):
            chunks = column.slice(start, _WINDOW).chunks
            _add(digest, chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks))
    return digest.hexdigest()


def _add(digest: Any, values: pa.Array) -> None:
    """Add how many values there are, which of them are null, then the others."""
    if pa.types.is_string_view(values.type) or pa.types.is_binary_view(values.type):  # Arrow does not take them apart
        values = values.cast(pa.large_string() if pa.types.is_string_view(values.type) else pa.large_binary())
    kind = values.type
    digest.update(len(values).to_bytes(8, "little"))
    digest.update(np.packbits(values.is_valid().to_numpy(zero_copy_only=False)))
    values = values.drop_null()
    if isinstance(values, pa.ExtensionArray):
        _add(digest, values.storage)
    elif pa.types.is_dictionary(kind):
        _add(digest, values.dictionary_decode())
    elif pa.types.is_map(kind):
        _add(digest, values.cast(pa.list_(pa.struct([kind.key_field, kind.item_field]))))
    elif pa.types.is_struct(kind):
        for field in values.flatten():
            _add(digest, field)
    elif pa.types.is_nested(kind):  # lists of all sorts
        digest.update(pc.list_value_length(values).to_numpy())
        _add(digest, values.flatten())
    elif pa.types.is_boolean(kind) or pa.types.is_null(kind):
        digest.update(np.packbits(values.to_numpy(zero_copy_only=False).astype(bool)))
    elif pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_fixed_size_binary(kind):
        width = kind.bit_width // 8
        digest.update(values.buffers()[1][values.offset * width : (values.offset + len(values)) * width])
    else:
        _add_texts(digest, values)


def _add_texts(digest: Any, values: pa.Array) -> None:
    """Add texts or bytes: their lengths, then all of them."""
    wide = values.cast(pa.large_binary())
    _, places, content = wide.buffers()
    ends = np.frombuffer(places, np.int64)[wide.offset : wide.offset + len(wide) + 1]
    digest.update(np.diff(ends))
    if len(wide) and content is not None:
        digest.update(content[int(ends[0]) : int(ends[-1])])
