"""Ways out of Arrow into the libraries that people work with."""

from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd
    from astropy.table import MaskedColumn, Table


class Computable(Protocol):
    """What can be run into a table."""

    def compute(self) -> pa.Table:
        """Run the plan and return its rows."""
        ...


class Exits:
    """The ways out of a catalog: part of `Catalog`."""

    def to_pandas(self: Computable) -> "pd.DataFrame":
        """Run the plan and return a pandas DataFrame."""
        frame: pd.DataFrame = self.compute().to_pandas()
        return frame

    def to_astropy(self: Computable) -> "Table":
        """Run the plan and return an astropy Table with units and descriptions; missing values are masked."""
        return _astropy_table(self.compute())


def _astropy_table(table: pa.Table) -> "Table":
    """Return an astropy Table with units and descriptions; nulls are masked, lists become objects."""
    from astropy.table import Table

    return Table([_astropy_column(table[field.name], field) for field in table.schema])


def _astropy_column(column: pa.ChunkedArray, field: pa.Field) -> "MaskedColumn":
    from astropy.table import MaskedColumn

    about = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    if pa.types.is_primitive(field.type):
        filler = pa.scalar(0).cast(field.type)
        values = np.asarray(column.fill_null(filler))
    else:
        values = np.empty(len(column), dtype=object)
        values[:] = column.to_pylist()
    return MaskedColumn(
        values,
        name=field.name,
        mask=np.asarray(column.is_null()),
        unit=about.get("unit"),
        description=about.get("description"),
    )
