"""The plan node of forced photometry: a catalog's sources measured on the images that may hold them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.errors import ArgumentError
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.io.storage import Storage
from sciplat.lazy.fingerprint import Record
from sciplat.lazy.image_cost import ImageCost
from sciplat.lazy.node import Node, row_bytes, with_columns_there
from sciplat.sky.align import common_cells
from sciplat.sky.cell import Cell
from sciplat.sky.coverage import Coverage, Ranges
from sciplat.steps.photometry import Apertures, photometry_schema
from sciplat.tasks.photometry import CatalogColumns, PhotometryTask
from sciplat.tasks.quote import Cost, rates

_PLACE_BYTES = 40  # of a source that is looked for on an image
_ROWS_HELD = 2.5  # times: measured, as they were put together, and sorted


@dataclass(frozen=True)
class Photometry:
    """Measure every source of a catalog on every image that holds it.

    Parameters
    ----------
    catalog : Node
        The sources.
    storage : Storage
        Of the image store.
    images : pyarrow.Table
        The rows of the images table to be measured.
    order : int
        Of the image store's cells: no task is coarser.
    apertures : Apertures
    keep : tuple of str
        Columns of the catalog that follow the measured ones.
    origin : dict
        Which images these are, as JSON.
    """

    catalog: Node
    storage: Storage
    images: pa.Table = field(repr=False)
    order: int
    apertures: Apertures
    keep: tuple[str, ...]
    origin: Record = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        frame = self.catalog.properties["frame"]
        if frame != "icrs":
            raise ArgumentError(
                "photometry takes its sources from a catalog in ICRS", found=frame, hint="ingest ICRS positions"
            )

    @property
    def properties(self) -> dict[str, Any]:
        """A catalog of measurements, split as the sources' catalog is."""
        kept = {name: self.catalog.properties[name] for name in ("frame", "epoch", "rows_per_cell")}
        kept = with_columns_there(kept, self.schema.names)
        return {**kept, "position": ["ra", "dec"], "id": "source_id", "kind": "measurements"}

    @cached_property
    def _columns(self) -> CatalogColumns:
        ra, dec = self.catalog.properties["position"]
        return CatalogColumns(self._identity, ra, dec, tuple(self._kept))

    @property
    def _identity(self) -> str:
        # positions at order 29 are 0.4 mas apart: they tell the sources of a catalog without names from each other
        return self.catalog.properties["id"] or HEALPIX_COLUMN

    @property
    def _kept(self) -> list[tuple[str, str]]:
        """The kept columns with their new names: a suffix only on collision."""
        measured = set(photometry_schema(self._field(self._identity), self.apertures, []).names)
        return [(name, f"{name}_catalog" if name in measured else name) for name in self.keep]

    def _field(self, name: str) -> pa.Field:
        return self.catalog.schema.field(name)

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of `definitions.md`, then the kept ones."""
        kept = [self._field(old).with_name(new) for old, new in self._kept]
        return photometry_schema(self._field(self._identity), self.apertures, kept)

    @cached_property
    def _exposures(self) -> ImageCost:
        return ImageCost(self.images)

    @cached_property
    def _slim(self) -> pa.Table:
        """The images without what is of use to the plan only."""
        return self.images.drop_columns(["cells", "corners"]).combine_chunks()

    @cached_property
    def cells(self) -> Sequence[Cell]:
        """The parts of the catalog's cells that touch an image."""
        coverage = Coverage.from_ranges(self._exposures.ranges[0])
        return [cell for cell, _ in common_cells(list(self.catalog.cells), coverage, self.order)]

    def task(self, cell: Cell, cover: Coverage | None = None) -> PhotometryTask:
        """Return the measuring of one cell's sources on the images that may hold them."""
        near = self._slim.take(pa.array(self._exposures.near(cell)))
        sources = self.catalog.task(cell, cover)
        return PhotometryTask(sources, self.storage, near, self.apertures, self._columns, self.schema)

    def cost(self, cell: Cell) -> Cost:
        """Return the cost of the sources, of the chunks that they are expected on, and of measuring."""
        rate, sources = rates(), self.catalog.cost(cell)
        images = self._exposures.reading(self.catalog, cell, self.apertures)
        size = images.rows * row_bytes(self.schema)
        seconds = rate.window * images.windows + rate.pixel * images.pixels
        seconds += rate.place * sources.rows * images.images
        seconds += rate.measure * images.rows * len(self.apertures.radii)
        held = sources.size + _PLACE_BYTES * sources.rows
        return Cost(
            read=sources.read + images.read,
            requests=sources.requests + images.requests,
            rows=images.rows,
            places=images.places,
            size=size,
            memory=max(sources.memory, held + images.memory + _ROWS_HELD * size),
            seconds=sources.seconds + seconds,
        )

    def describe(self) -> Record:
        """Return the images, the catalog and what is measured."""
        lengths = [[length.value, length.unit] for length in (*self.apertures.radii, *(self.apertures.annulus or ()))]
        count = len(self.apertures.radii)
        return {
            "op": "photometry",
            "images": self.origin,
            "catalog": self.catalog.describe(),
            "radii": lengths[:count],
            "annulus": lengths[count:] or None,
            "background": self.apertures.background,
            "keep": list(self.keep),
        }

    def rows_in(self, ranges: Ranges) -> NDArray[np.float64]:
        """Return the expected rows: every source in a range once for each image that may hold it."""
        return self._exposures.rows(self.catalog, ranges)

    def images_near(self, cell: Cell) -> pa.Table:
        """Return the rows of the images that may hold a source of the cell."""
        return self.images.take(pa.array(self._exposures.near(cell)))
