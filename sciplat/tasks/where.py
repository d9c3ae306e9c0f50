"""The tasks that compute expressions on rows: to keep those where one is true, and to put the values beside them."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sciplat.sky.cell import Cell
from sciplat.steps.evaluate import evaluate
from sciplat.steps.expression import Expression
from sciplat.tasks.task import Task, without_tally


@dataclass(frozen=True)
class WhereTask:
    """Keep the rows of another task for which an expression is true: neither false nor null."""

    inner: Task
    expression: Expression

    @property
    def cell(self) -> Cell:
        """The other task's cell."""
        return self.inner.cell

    def run(self) -> pa.Table:
        """Run the other task and keep the rows."""
        table, _ = without_tally(self.inner.run())  # of all rows
        kept = evaluate(self.expression, table)
        everything = kept.null_count == 0 and pc.all(kept, min_count=0).as_py()
        return table if everything else table.filter(kept)  # a copy would be made for nothing


@dataclass(frozen=True)
class WithColumnsTask:
    """Compute columns from those of another task, which all see its columns as they were."""

    inner: Task
    computed: tuple[tuple[pa.Field, Expression], ...]

    @property
    def cell(self) -> Cell:
        """The other task's cell."""
        return self.inner.cell

    def run(self) -> pa.Table:
        """Run the other task and set the columns."""
        table = self.inner.run()
        result = table
        for field, expression in self.computed:
            place = result.schema.get_field_index(field.name)
            values = evaluate(expression, table)
            result = result.append_column(field, values) if place < 0 else result.set_column(place, field, values)
        return result
