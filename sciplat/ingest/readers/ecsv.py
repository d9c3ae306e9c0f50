"""The header of an ECSV file: names, types, units and descriptions of its columns.

Format: Astropy Proposal for Enhancement 6, "Enhanced Character Separated Values table format".
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from sciplat.errors import InputError
from sciplat.ingest.readers.reader import about

_TYPES = {
    "bool": pa.bool_(), "int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(),
    "uint8": pa.uint8(), "uint16": pa.uint16(), "uint32": pa.uint32(), "uint64": pa.uint64(),
    "float16": pa.float16(), "float32": pa.float32(), "float64": pa.float64(), "string": pa.string(),
}  # fmt: skip


@dataclass(frozen=True)
class Declared:
    """The columns that a header declares; columns of lists are written as JSON."""

    schema: pa.Schema

    def text_types(self) -> dict[str, pa.DataType]:
        """Return the types as which the text of the columns is read."""
        return {field.name: _text_type(field.type) for field in self.schema}


class _Loader(yaml.SafeLoader):
    """Leaves objects out: they are what some columns once were, and never made here."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse what stands for an earlier value: a few lines could grow to any size."""
        if self.check_event(yaml.events.AliasEvent):
            raise ValueError("an alias in the YAML of the header")
        return super().compose_node(parent, index)


_Loader.add_multi_constructor("!", lambda *_: None)


def read_header(path: Path, comments: list[bytes]) -> tuple[Declared, str]:
    """Parse the comment lines at the start of a file.

    Returns
    -------
    declared : Declared
    delimiter : str

    Raises
    ------
    InputError
        They are no ECSV header, or declare a type that a catalog cannot hold.
    """
    lines = [line.decode().removeprefix("# ").rstrip("\r\n") for line in comments]
    if not lines or not lines[0].startswith("%ECSV"):
        raise InputError(f"{path} has no ECSV header", hint='its first line is "# %ECSV 1.0"; or name it .csv')
    header = parse_header("\n".join(lines[1:]))
    delimiter = str(header.get("delimiter", " "))
    if delimiter not in (" ", ","):
        raise InputError(f"{path} has an ECSV header with the delimiter {delimiter!r}", hint="a space or a comma")
    fields = [
        pa.field(
            str(column["name"]),
            _declared_type(path, column),
            metadata=about(
                unit=column.get("unit"),
                ucd=dict(column.get("meta") or {}).get("ucd"),
                description=column.get("description"),
            ),
        )
        for column in header["datatype"]
    ]
    return Declared(pa.schema(fields)), delimiter


def parse_header(text: str) -> dict[str, Any]:
    """Parse the YAML of a header, which FITS tables that astropy wrote have too."""
    header = yaml.load(text, _Loader)  # noqa: S506  # a safe loader
    if not isinstance(header, dict) or not isinstance(header.get("datatype"), list):
        raise ValueError("a header without datatype")  # noqa: TRY004  # of a file, not of an argument
    return header


def _declared_type(path: Path, column: dict[str, Any]) -> pa.DataType:
    text = str(column.get("subtype") or column["datatype"])
    if text == "json":  # objects of any kind: their text is kept
        return pa.string()
    kind, _, shape = text.partition("[")
    if kind not in _TYPES:
        raise InputError(
            f"the column {str(column['name'])!r} of {path} has a type that no catalog can hold",
            found=text,
            hint="remove it",
        )
    if not shape:
        return _TYPES[kind]
    lengths = json.loads(f"[{shape}")
    if lengths == [None]:
        return pa.list_(_TYPES[kind])
    count = 1
    for length in lengths:
        count *= int(length)
    return pa.list_(_TYPES[kind], count)


def _text_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.string()
    return pa.float32() if pa.types.is_float16(kind) else kind


def decoded(table: pa.Table, declared: Declared) -> pa.Table:
    """Return the rows with the columns' declared types: lists from their JSON."""
    columns = []
    for field in declared.schema:
        column = table[field.name]
        if _text_type(field.type) != pa.string() or field.type == pa.string():
            columns.append(column.cast(field.type))
        else:
            values = [None if text is None else _flat(json.loads(text)) for text in column.to_pylist()]
            columns.append(pa.chunked_array([pa.array(values, field.type)]))
    return pa.table(columns, schema=declared.schema)


def _flat(values: list[Any]) -> list[Any]:
    """Return the numbers of nested lists, the last axis fastest."""
    if values and isinstance(values[0], list):
        return [number for value in values for number in _flat(value)]
    return values
