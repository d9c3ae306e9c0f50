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
from sciplat.io.image_store import CHUNK
from sciplat.io.storage import Storage
from sciplat.lazy.fingerprint import Record
from sciplat.lazy.node import Node, row_bytes
from sciplat.sky.align import common_cells, common_ranges
from sciplat.sky.cell import Cell, cell_area, cell_ranges
from sciplat.sky.coverage import Coverage, Ranges
from sciplat.sky.frame import unit_vectors
from sciplat.steps.photometry import Apertures, photometry_schema
from sciplat.tasks.photometry import CatalogColumns, PhotometryTask
from sciplat.tasks.quote import Cost, rates

_COST_COLUMNS = ("cells", "corners", "stored_bytes", "ny", "nx", "has_variance", "has_mask")
_PLACE_BYTES = 40  # of a source that is looked for on an image
_ROWS_HELD = 2.5  # times: measured, as they were put together, and sorted


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

    def task(self, cell: Cell, cover: Coverage | None = None) -> PhotometryTask:
        """Return the measuring of one cell's sources on the images that may hold them."""
        near = self.images_near(cell).drop_columns(["cells", "corners"])  # of use to the plan only
        sources = self.catalog.task(cell, cover)
        return PhotometryTask(sources, self.storage, near, self.apertures, self._columns, self.schema)

    def cost(self, cell: Cell) -> Cost:
        """Return the cost: of every image the chunks are read that sources of the cell are expected on."""
        rate, sources = rates(), self.catalog.cost(cell)
        read, requests, seconds, largest = sources.read, sources.requests, sources.seconds, 0.0
        images = self.images_near(cell).select([*_COST_COLUMNS]).to_pylist()
        for image in images:
            inside = common_ranges(Coverage.from_uniq(image["cells"]).ranges, cell_ranges([cell]))
            chunks = -(-image["ny"] // CHUNK) * -(-image["nx"] // CHUNK)
            touched = _touched(chunks, self.catalog.rows_in(inside))
            planes = 1 + image["has_variance"] + image["has_mask"]
            pixels = image["ny"] * image["nx"] * touched / chunks
            read += image["stored_bytes"] * touched / chunks
            requests += planes * touched
            seconds += planes * (rate.window * (touched > 0) + rate.pixel * pixels) + rate.place * sources.rows
            largest = max(largest, self._window_pixels(image, cell) * _pixel_bytes(image))
        rows = self.rows_in(cell_ranges([cell]))
        size = rows * row_bytes(self.schema)
        seconds += rate.measure * rows * len(self.apertures.radii)
        held = sources.size + _PLACE_BYTES * sources.rows
        memory = max(sources.memory, held + largest + _ROWS_HELD * size)
        return Cost(read, requests, rows, size, memory, seconds)

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

    def _window_pixels(self, image: dict[str, Any], cell: Cell) -> float:
        """Return the most pixels of an image that sources of the cell may ask for."""
        (ra, dec), (ra_next, dec_next) = np.array(image["corners"][:4]).reshape(2, 2)
        side = np.degrees(np.linalg.norm(unit_vectors(ra, dec) - unit_vectors(ra_next, dec_next)))
        scale = side / max(image["nx"], 1)
        across = 2 * np.sqrt(cell_area(cell.order)) / scale  # no cell is longer
        across += 2 * (float(self.apertures.reach(np.array([scale]))[0]) + CHUNK)
        return float(min(across, image["nx"]) * min(across, image["ny"]))

    def rows_in(self, ranges: Ranges) -> float:
        """Return the expected rows: every source in the ranges once for each image that may hold it."""
        return self.catalog.rows_in(common_ranges(self._ranges[0], Coverage.from_ranges(ranges).ranges))

    def images_near(self, cell: Cell) -> pa.Table:
        """Return the rows of the images that may hold a source of the cell."""
        ranges, owner = self._ranges
        longest = int((ranges[:, 1] - ranges[:, 0]).max())
        first, last = np.searchsorted(ranges[:, 0], [cell.start - longest, cell.stop])
        near = slice(int(first), int(last))
        chosen = np.unique(owner[near][ranges[near, 1] > cell.start])
        return self.images.take(pa.array(chosen))


def _touched(chunks: int, sources: float) -> float:
    """Return the expected number of chunks that hold one or more of some sources."""
    return float(chunks * -np.expm1(-sources / chunks))


def _pixel_bytes(image: dict[str, Any]) -> int:
    """Return the bytes of a pixel of a window, held in parts and as a whole, and of the plane that is being decoded."""
    planes = 2 + bool(image["has_mask"])  # without a plane of the variance it is computed
    return 4 * (2 * planes + 2)
