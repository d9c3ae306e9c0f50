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
from sciplat.lazy.explain import Cost
from sciplat.lazy.node import Node, row_bytes
from sciplat.sky.align import common_cells, common_ranges
from sciplat.sky.cell import Cell, cell_ranges
from sciplat.sky.coverage import Coverage, Ranges
from sciplat.steps.photometry import Apertures, photometry_schema
from sciplat.tasks.photometry import CatalogColumns, PhotometryTask

_PIXEL_BYTES = 12  # science and variance float32, mask uint32


def image_ranges(images: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ranges of order-29 cells that images may touch, shape (n, 2), and the row that each belongs to."""
    coverages = [Coverage.from_uniq(cells).ranges for cells in images["cells"].to_pylist()]
    owner = np.repeat(np.arange(len(coverages)), [len(part) for part in coverages])
    return np.concatenate([np.empty((0, 2), np.int64), *coverages]), owner


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
    """

    catalog: Node
    storage: Storage
    images: pa.Table = field(repr=False)
    order: int
    apertures: Apertures
    keep: tuple[str, ...]

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
    def _ranges(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The ranges of all images, sorted by their start, and the image that each belongs to."""
        ranges, owner = image_ranges(self.images)
        order = np.argsort(ranges[:, 0], kind="stable")
        return ranges[order], owner[order]

    @cached_property
    def cells(self) -> Sequence[Cell]:
        """The parts of the catalog's cells that touch an image."""
        coverage = Coverage.from_ranges(self._ranges[0])
        return [cell for cell, _ in common_cells(list(self.catalog.cells), coverage, self.order)]

    def task(self, cell: Cell) -> PhotometryTask:
        """Return the measuring of one cell's sources on the images that may hold them."""
        near = self._images_near(cell).drop_columns(["cells", "corners"])  # of use to the plan only
        return PhotometryTask(self.catalog.task(cell), self.storage, near, self.apertures, self._columns, self.schema)

    def cost(self, cell: Cell) -> Cost:
        """Return the cost: images are read as far as they overlap the cell."""
        sources = self.catalog.cost(cell)
        read, pixels = sources.read, 0
        for image in self._images_near(cell).select(["cells", "stored_bytes", "ny", "nx"]).to_pylist():
            coverage = Coverage.from_uniq(image["cells"])
            read += image["stored_bytes"] * coverage.length_in(cell) / coverage.length
            pixels = max(pixels, image["ny"] * image["nx"])
        rows = self.rows_in(cell_ranges([cell]))
        # rows are held twice while they are put together and sorted
        return Cost(read, rows, sources.memory + pixels * _PIXEL_BYTES + 2 * rows * row_bytes(self.schema))

    def rows_in(self, ranges: Ranges) -> float:
        """Return the expected rows: every source in the ranges once for each image that may hold it."""
        return self.catalog.rows_in(common_ranges(self._ranges[0], Coverage.from_ranges(ranges).ranges))

    def _images_near(self, cell: Cell) -> pa.Table:
        """Return the rows of the images that may hold a source of the cell."""
        ranges, owner = self._ranges
        longest = int((ranges[:, 1] - ranges[:, 0]).max())
        first, last = np.searchsorted(ranges[:, 0], [cell.start - longest, cell.stop])
        near = slice(int(first), int(last))
        chosen = np.unique(owner[near][ranges[near, 1] > cell.start])
        return self.images.take(pa.array(chosen))
