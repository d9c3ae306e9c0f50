"""Types of columns: which ones a catalog holds, how those of several sources become one, and tables cut to size."""

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from sciplat.errors import InputError
from sciplat.ingest.readers.reader import one_line
from sciplat.io.hats import HEALPIX_COLUMN

_VIEWS = {"string_view": pa.string(), "binary_view": pa.binary()}  # what some writers use; Arrow cannot sort them
_LISTS = (
    pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view,
    pa.types.is_large_list_view,
)  # fmt: skip
_KEPT = (b"unit", b"ucd", b"description")
_EXTENSION = b"ARROW:extension:name"  # of a type that this process may not know
_MEANT_AS_STORED = ("arrow.json", "arrow.uuid", "arrow.fixed_shape_tensor")  # others may store an offset or a code


def plain_schema(schema: pa.Schema, name: str) -> pa.Schema:
    """Return the columns of a source in types that Parquet holds and that can be sorted.

    The index of an earlier store is left out.

    Raises
    ------
    InputError
        Two columns have one name, or a type is none that a catalog holds.
    """
    if twice := [column for column, count in Counter(schema.names).items() if count > 1]:
        raise InputError(f"{name} has two columns called {twice[0]!r}", hint="rename one of them")
    return pa.schema([_plain_field(field, name) for field in schema if field.name != HEALPIX_COLUMN])


def _plain_field(field: pa.Field, name: str) -> pa.Field:
    try:
        _check_extensions(field)
        kind = plain_type(field.type)
        pq.write_metadata(pa.schema([(field.name, kind)]), pa.BufferOutputStream())
        pa.nulls(1, kind).take(pa.array([0]))
    except pa.ArrowException:
        raise InputError(
            f"the column {field.name!r} of {name} has a type that no catalog can hold",
            found=_named_type(field),
            hint="convert it to numbers, text or times, or remove it",
        ) from None
    metadata = field.metadata or {}
    return pa.field(field.name, kind, metadata={key: metadata[key] for key in _KEPT if metadata.get(key)})


def _named_type(field: pa.Field) -> str:
    return (field.metadata or {}).get(_EXTENSION, b"").decode(errors="replace") or str(field.type)


def _check_extensions(field: pa.Field) -> None:
    """Raise an ArrowException for a type of others, at any depth, whose stored values mean something else."""
    kind = field.type
    name = (field.metadata or {}).get(_EXTENSION, b"").decode(errors="replace")
    if isinstance(kind, pa.BaseExtensionType):
        name, kind = kind.extension_name, kind.storage_type
    if name and name not in _MEANT_AS_STORED:
        raise pa.ArrowNotImplementedError(name)
    if pa.types.is_dictionary(kind):
        _check_extensions(pa.field("", kind.value_type))
    for child in range(kind.num_fields):
        _check_extensions(kind.field(child))


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return a type without dictionaries, views and extensions, at any depth."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    if not any(is_kind(kind) for is_kind in _LISTS):
        return _VIEWS.get(str(kind), kind)
    items = kind.value_field.with_type(plain_type(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(items, kind.list_size)
    return pa.large_list(items) if str(kind).startswith("large_") else pa.list_(items)


def common_type(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """Return the type that holds the values of both, None if there is none."""
    schemas = [pa.schema([("x", kind)]) for kind in (first, second)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
    except pa.ArrowException:
        return None


def conformed(table: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    """Return the columns of a schema, in its types.

    Raises
    ------
    InputError
        A value of the source `name` does not fit its type.
    """
    columns = [_as_type(table[field.name], field, name) for field in schema]
    return pa.table(columns, schema=schema)


def _as_type(column: pa.ChunkedArray, field: pa.Field, name: str) -> pa.ChunkedArray:
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.type == field.type:
        return column
    try:
        return column.cast(field.type)
    except pa.ArrowException as error:
        raise InputError(
            f"the column {field.name!r} of {name} has values that do not fit its type {field.type}",
            found=one_line(error),
            hint=f"convert it to {field.type} first, or ingest sources of another type apart",
        ) from None


def pieces(table: pa.Table, chunk: int) -> Iterator[pa.Table]:
    """Cut a table into pieces of at most `chunk` bytes, or of a single row."""
    if table.num_rows == 0:
        return
    if table.nbytes <= chunk or table.num_rows == 1:
        yield table
        return
    half = table.num_rows // 2
    yield from pieces(table.slice(0, half), chunk)
    yield from pieces(table.slice(half), chunk)
