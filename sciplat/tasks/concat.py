"""The task that puts the rows of two others into one cell."""

from dataclasses import dataclass, field

import pyarrow as pa

from sciplat.errors import ArgumentError
from sciplat.sky.cell import Cell
from sciplat.steps.sort import merged_rows
from sciplat.tasks.task import Task


@dataclass(frozen=True)
class ConcatTask:
    """Run other tasks and sort their rows along the sky.

    Parameters
    ----------
    cell : Cell
    parts : tuple of Task
        Where rows share a position, those of the first part come first.
    schema : pyarrow.Schema
        Of the result.
    """

    cell: Cell
    parts: tuple[Task, ...]
    schema: pa.Schema = field(repr=False)

    def run(self) -> pa.Table:
        """Run the other tasks and bring their rows into order."""
        tables = [_fitted(part.run(), self.schema) for part in self.parts]
        return merged_rows([table for table in tables if table.num_rows] or tables[:1])


def _fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with the columns of a schema: wider types, and nulls where it has no such column.

    Raises
    ------
    ArgumentError
        If a value has no place in the wider type, as large integers among floats.
    """
    columns = []
    for wanted in schema:
        try:
            has = wanted.name in table.schema.names
            columns.append(table[wanted.name].cast(wanted.type) if has else pa.nulls(table.num_rows, wanted.type))
        except pa.ArrowInvalid as error:
            raise ArgumentError(
                f"values of {wanted.name!r} cannot be {wanted.type}, as they must be in both catalogs",
                found=str(error),
                hint="let the column have one type in both catalogs",
            ) from None
    return pa.Table.from_arrays(columns, schema=schema)
