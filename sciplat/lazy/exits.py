"""Ways out of Arrow into the libraries that people work with, and onto paper."""

import importlib
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sciplat.errors import ArgumentError, MissingDependency
from sciplat.io.catalog_store import CatalogStore, store_name
from sciplat.io.hats import HEALPIX_COLUMN, MAP_ORDER
from sciplat.sky.cell import Cell, cell_area
from sciplat.sky.column import unit_of
from sciplat.steps.aggregate import is_number, parse_measure
from sciplat.tasks.task import Task

if TYPE_CHECKING:
    import dask.dataframe as dd
    import pandas as pd
    from astropy.table import MaskedColumn, Table
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NULLABLE = ("boolean", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
_COUNT = "count()"
_INT64_MAX = 2**63 - 1
_PLOT_ORDER = 5  # pixels of 1.8 degrees
_PLOT_ORDERS = (7, 6, 5, 4)  # finer pixels are hardly larger than the dots of the picture
_ENOUGH_ROWS = 10  # in a pixel, so that the picture shows more than noise


class Planned(Protocol):
    """What can say which task makes each of its cells."""

    @property
    def cells(self) -> Sequence[Cell]:
        """Disjoint cells that hold all rows, in the order of the sky."""
        ...

    def task(self, cell: Cell) -> Task:
        """Return the task of a cell."""
        ...


class Exitable(Protocol):
    """What can be left: a catalog."""

    @property
    def node(self) -> Planned:
        """The plan."""
        ...

    @property
    def store(self) -> CatalogStore | None:
        """The version on storage, if this is one as it stands."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Of the rows."""
        ...

    @property
    def properties(self) -> dict[str, Any]:
        """Names of the position columns, and the frame."""
        ...

    def compute(self) -> pa.Table:
        """Run the plan and return its rows."""
        ...

    def sky_map(self, order: int, what: str) -> NDArray[Any]:
        """Run the plan and return a value for each HEALPix pixel, nested."""
        ...


class Exits:
    """The ways out of a catalog: part of `Catalog`."""

    def to_pandas(self: Exitable) -> "pd.DataFrame":
        """Run the plan and return a pandas DataFrame.

        Whole numbers and truth values are of numpy's types, or of pandas' nullable ones (Int64, boolean) in columns
        where some are missing.
        """
        table = self.compute()
        return _frame(table, {field.name for field in table.schema if table[field.name].null_count})

    def to_astropy(self: Exitable) -> "Table":
        """Run the plan and return an astropy Table with units and descriptions; missing values are masked."""
        return astropy_table(self.compute())

    def to_dask(self: Exitable) -> "dd.DataFrame":
        """Return a Dask DataFrame with one partition for each cell; nothing is read yet.

        Its index is `_healpix_29` with known divisions, so that Dask finds a part of the sky without looking at the
        others. Whole numbers and truth values are of pandas' nullable types (Int64, boolean), whether or not some are
        missing, which nobody knows before they are read; the index is int64.

        Raises
        ------
        MissingDependency
            If pandas is not installed.
        """
        import dask

        try:
            import dask.dataframe as dd
        except ImportError as error:
            raise MissingDependency(
                "Dask's data frames need pandas", found=str(error), hint="pip install 'sciplat[pandas]'"
            ) from None
        cells, empty = list(self.node.cells), _partition(self.schema.empty_table())
        if not cells:
            return dd.from_pandas(empty, npartitions=1)
        divisions = [*(cell.start for cell in cells), cells[-1].stop]
        tasks = [self.node.task(cell) for cell in cells]
        with dask.config.set({"dataframe.convert-string": False}):  # pandas has texts of its own now
            return dd.from_map(_run, tasks, meta=empty, divisions=divisions, label="sciplat", enforce_metadata=False)

    def to_lsdb(self: Exitable) -> Any:
        """Return an ``lsdb.Catalog``: a store's version that is open, read lazily, or the rows of a plan, computed now.

        Raises
        ------
        MissingDependency
            If lsdb is not installed.
        ArgumentError
            If a plan gives no row: lsdb has no empty catalogs.
        """
        try:
            lsdb: Any = importlib.import_module("lsdb")  # it declares no types
        except ImportError as error:
            raise MissingDependency("lsdb is not installed", found=str(error), hint="pip install lsdb") from None
        if self.store is not None:
            where = self.store.storage.child(self.store.manifest.folder or ".")
            return lsdb.open_catalog(where.url, storage_options=getattr(where, "options", None) or None)
        import pandas as pd

        rows = self.compute().drop_columns([HEALPIX_COLUMN])
        if not rows.num_rows:
            raise ArgumentError("lsdb has no empty catalogs, and this plan gives no row")
        ra, dec = self.properties["position"]
        # Arrow's types on both sides: missing values stay missing, and lists stay lists
        frame = rows.to_pandas(types_mapper=pd.ArrowDtype)
        return lsdb.from_dataframe(frame, ra_column=ra, dec_column=dec)

    def plot_sky(
        self: Exitable, order: int | None = None, *, what: str = _COUNT, ax: "Axes | None" = None
    ) -> "Figure":
        """Draw the catalog on the whole sky, in Mollweide's projection.

        Parameters
        ----------
        order : int, optional
            Of the HEALPix pixels; by default fine where there are many rows.
        what : str
            As for ``.sky_map(order, what)``; the number of rows is drawn as rows per square degree.
        ax : matplotlib.axes.Axes, optional
            With the projection "mollweide", to draw into.

        Returns
        -------
        matplotlib.figure.Figure
            Shown by a notebook; ``.savefig("sky.png")`` keeps it.

        Raises
        ------
        MissingDependency
            If matplotlib is not installed.
        ArgumentError
            If the order is no integer from 0 to 29, `what` is unknown, or `ax` are no such axes.
        """
        from sciplat.plot.sky_map import healpix_map

        if ax is not None and not hasattr(ax, "name"):  # the projection is looked at when it is drawn
            hint = 'figure.add_subplot(projection="mollweide")'
            raise ArgumentError("ax takes axes of matplotlib", found=repr(ax), hint=hint)
        draw = partial(healpix_map, frame=self.properties.get("frame") or "icrs", axes=ax)
        name = "" if self.store is None else f"{store_name(self.store.storage)}: "
        if what != _COUNT:
            values = self.sky_map(_PLOT_ORDER if order is None else order, what)
            title = "" if self.store is None else f"{name}{self.store.manifest.rows:,} rows"
            return draw(values, label=_labelled(what, self.schema), title=title)
        counts = _counts(self, order)
        title = f"{name}{int(counts.sum()):,} rows"
        counts = _readable(counts) if order is None else counts
        density = np.where(counts > 0, counts / cell_area(_order(counts)), np.nan)
        return draw(density, label="rows per square degree", title=title)


def _run(task: Task) -> "pd.DataFrame":
    return _partition(task.run())


def _partition(table: pa.Table) -> "pd.DataFrame":
    return _frame(table, set(table.schema.names) - {HEALPIX_COLUMN}).set_index(HEALPIX_COLUMN)


def _frame(table: pa.Table, nullable: set[str]) -> "pd.DataFrame":
    """Return a DataFrame with pandas' nullable types where they are asked for and one is needed.

    Missing integers would make floats of the others, which have 53 bits.
    """
    import pandas as pd

    kinds = {pa.type_for_alias(kind.lower()): pd.api.types.pandas_dtype(kind) for kind in _NULLABLE}
    chosen = [field.name for field in table.schema if field.name in nullable and field.type in kinds]
    frame: pd.DataFrame = table.drop_columns(chosen).to_pandas()
    if chosen:
        # a types_mapper knows no names: it would take the other columns too
        missing = table.select(chosen).to_pandas(types_mapper=kinds.get)
        frame = pd.concat([frame, missing], axis=1).loc[:, table.schema.names]
    return frame


def _labelled(what: str, schema: pa.Schema) -> str:
    """Return a function of a column with the column's unit, where it has that unit."""
    measure = parse_measure("the map", what, schema)
    if measure.function in ("count", "var"):
        return what
    unit = unit_of(schema.field(measure.column))
    return f"{what} ({unit})" if unit else what


def _counts(catalog: Exitable, order: int | None) -> NDArray[np.int64]:
    """Return the rows in each pixel; of a store its sky map tells."""
    wanted = MAP_ORDER if order is None else order
    is_coarse = type(wanted) is int and 0 <= wanted <= MAP_ORDER
    if catalog.store is None or not is_coarse or not catalog.store.manifest.number:
        return np.asarray(catalog.sky_map(wanted, _COUNT))  # which refuses what is no order
    return _coarser(catalog.store.sky_map, MAP_ORDER - wanted)


def _readable(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the counts in pixels that can be seen and hold enough rows to show more than noise."""
    for order in _PLOT_ORDERS:
        shown = _coarser(counts, MAP_ORDER - order)
        if counts.sum() >= _ENOUGH_ROWS * np.count_nonzero(shown):
            break
    return shown


def _coarser(counts: NDArray[np.int64], levels: int) -> NDArray[np.int64]:
    summed: NDArray[np.int64] = counts.reshape(-1, 4**levels).sum(axis=1)
    return summed


def _order(pixels: NDArray[Any]) -> int:
    return int(np.log2(len(pixels) // 12)) // 2


def astropy_table(table: pa.Table) -> "Table":
    """Return an astropy Table with units and descriptions; nulls are masked, dates and lists become objects."""
    from astropy.table import Table

    return Table([_astropy_column(table[field.name], field) for field in table.schema])


def _astropy_column(column: pa.ChunkedArray, field: pa.Field) -> "MaskedColumn":
    from astropy.table import MaskedColumn

    filler = None
    if pa.types.is_float16(field.type):
        column = column.cast(pa.float32())  # numpy's masked arrays fill with 1e20
    elif pa.types.is_integer(field.type):
        column, filler = _with_filler(column)
    if filler is not None:
        values = np.asarray(column.fill_null(pa.scalar(filler, column.type)))
    elif _has_filler(field.type):
        values = np.asarray(column.fill_null(pa.scalar(0).cast(column.type)))
    elif pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
        values = np.array(column.fill_null("").to_pylist(), dtype=str)
    else:
        values = np.empty(len(column), dtype=object)
        values[:] = column.to_pylist()
    return MaskedColumn(
        values,
        name=field.name,
        mask=np.asarray(column.is_null()),
        fill_value=filler,
        unit=unit_of(field) or None,
        description=(field.metadata or {}).get(b"description", b"").decode(errors="replace") or None,
    )


def _with_filler(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, int]:
    """Return integers and one that does not occur among them, in a wider type where all do.

    FITS has no mask: what is missing there is a number that stands for nothing else, and it has no int8.
    """
    if pa.types.is_int8(column.type):
        column = column.cast(pa.int16())
    limits = np.iinfo(column.type.to_pandas_dtype())
    least, most = int(limits.min), min(int(limits.max), _INT64_MAX)  # astropy takes no larger one
    span = pc.min_max(column).as_py()
    if span["min"] is None or span["min"] > least:
        return column, least
    if span["max"] < most:
        return column, most
    values = np.unique(np.asarray(column.drop_null()))
    gaps = np.flatnonzero(values[1:] != values[:-1] + 1)
    if len(gaps):
        return column, int(values[gaps[0]]) + 1
    wider = pa.int16() if limits.bits == 8 else pa.int32() if limits.bits == 16 else pa.int64()
    return _with_filler(column.cast(wider))


def _has_filler(kind: pa.DataType) -> bool:
    """Return whether numpy holds such values, with a 0 where one is missing."""
    return is_number(kind) or pa.types.is_timestamp(kind) or pa.types.is_duration(kind)
