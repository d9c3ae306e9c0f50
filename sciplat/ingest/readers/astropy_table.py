"""Columns of astropy as Arrow arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sciplat.errors import InputError
from sciplat.ingest.readers.reader import about, one_line

_WIDEST_FLOAT = 8  # bytes


def arrow_of_astropy(table: Any, name: str) -> pa.Table:
    """Return an astropy Table or QTable: null where it is masked, units and descriptions kept.

    Raises
    ------
    InputError
        A column is of a kind that a catalog cannot hold.
    """
    from astropy.table import Column, Table

    plain = Table(table, copy=False)  # quantities become columns with a unit
    fields, arrays = [], []
    for label in plain.colnames:
        column = plain[label]
        if not isinstance(column, Column):
            raise InputError(
                f"the column {label!r} of {name} is no plain column",
                found=type(column).__name__,
                hint="columns of numbers or text instead, such as .ra.deg and .dec.deg",
            )
        try:
            arrays.append(arrow_of_column(column, name))
        except (pa.ArrowException, TypeError) as error:
            raise InputError(
                f"the column {label!r} of {name} has values that no catalog can hold",
                found=f"{column.dtype}: {one_line(error)}",
                hint="convert it to numbers or text, or remove it",
            ) from None
        known = about(unit=column.unit, ucd=column.meta.get("ucd"), description=column.description)
        fields.append(pa.field(label, arrays[-1].type, metadata=known))
    return pa.table(arrays, schema=pa.schema(fields))


def arrow_of_column(column: Any, source: str, kind: pa.DataType | None = None) -> pa.Array:
    """Return a column: native byte order, text for bytes, lists for arrays, null where it is masked.

    Parameters
    ----------
    column : astropy.table.Column
    source : str
        For messages.
    kind : pyarrow.DataType, optional
        Of a column of objects, whose rows may be lists of any length; otherwise the values tell.
    """
    if column.dtype.kind == "c":
        raise InputError(f"the column {column.name!r} of {source} holds complex numbers", hint="remove it")
    if column.dtype.kind == "f" and column.dtype.itemsize > _WIDEST_FLOAT:
        raise InputError(
            f"the column {column.name!r} of {source} holds numbers of {8 * column.dtype.itemsize} bits",
            hint="convert it: .astype(float)",
        )
    if column.dtype.kind == "O":
        return pa.array(_objects(column, kind), kind)
    if column.ndim > 1:
        flat = arrow_of_column(column.reshape(-1), source)
        return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(column.shape[1:])))
    mask = np.asarray(getattr(column, "mask", False)) & np.ones(len(column), bool)
    values = np.asarray(getattr(column, "filled", lambda: column)() if column.dtype.kind in "SU" else column)
    if column.dtype.kind == "S":
        text = pc.ascii_rtrim(_decoded(pa.array(values, pa.binary())), " ")
    elif column.dtype.kind == "U":
        text = pa.array(values.tolist(), pa.string())
    else:
        return pa.array(values.astype(values.dtype.newbyteorder("=")), mask=mask)
    return pc.if_else(pa.array(mask), None, text) if mask.any() else text


def _decoded(array: pa.Array) -> pa.Array:
    """Return bytes as text: FITS allows ASCII only, but files have UTF-8, and where this is broken, Latin-1."""
    try:
        return array.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([None if value is None else _text(value) for value in array.to_pylist()], pa.string())


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _objects(column: Any, kind: pa.DataType | None) -> Sequence[object]:
    masked = np.ma.getmaskarray(column) if isinstance(column, np.ma.MaskedArray) else np.zeros(len(column), bool)
    values = np.ma.getdata(column)
    plain = _joined if kind == pa.string() else _plain
    return [None if hidden else plain(value) for value, hidden in zip(values, masked.reshape(-1), strict=True)]


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _joined(value: object) -> object:
    """Return text of any length, which FITS keeps letter by letter."""
    if not isinstance(value, np.ndarray):
        return value
    return _text(value.tobytes().partition(b"\0")[0]) if value.dtype.kind in "Su" else "".join(value.tolist())
