"""What measuring on images takes, for many images at once: which chunks are read, and how large a window may be."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.io.image_store import CHUNK
from sciplat.lazy.node import Node
from sciplat.sky.align import meeting_pairs
from sciplat.sky.cell import MAX_ORDER, Cell, cell_area
from sciplat.sky.coverage import Coverage, Ranges
from sciplat.sky.frame import unit_vectors
from sciplat.steps.photometry import Apertures

_COLUMNS = ("stored_bytes", "ny", "nx", "has_variance", "has_mask")
Floats = NDArray[np.float64]


def image_ranges(images: pa.Table) -> tuple[Ranges, NDArray[np.int64]]:
    """Return the ranges of order-29 cells that images may touch, shape (n, 2), and the row that each belongs to."""
    coverages = [Coverage.from_uniq(cells).ranges for cells in images["cells"].to_pylist()]
    owner = np.repeat(np.arange(len(coverages)), [len(part) for part in coverages])
    return np.concatenate([np.empty((0, 2), np.int64), *coverages]), owner


@dataclass(frozen=True)
class ImageReading:
    """What is read of the images of one cell.

    Parameters
    ----------
    images : int
        That may hold a source of the cell.
    rows, places : float
        Expected measurements, and the sources that are measured once or more.
    read, requests, windows, pixels : float
        Bytes, chunks, planes and pixels of planes.
    memory : float
        Bytes of the largest window.
    """

    images: int
    rows: float
    places: float
    read: float
    requests: float
    windows: float
    pixels: float
    memory: float


@dataclass(frozen=True, eq=False)
class ImageCost:
    """The images of a plan, as arrays.

    Parameters
    ----------
    images : pyarrow.Table
        Rows of the images table.
    """

    images: pa.Table

    @cached_property
    def ranges(self) -> tuple[Ranges, NDArray[np.int64]]:
        """The ranges of all images, sorted by their start, and the image that each belongs to."""
        ranges, owner = image_ranges(self.images)
        order = np.argsort(ranges[:, 0], kind="stable")
        return ranges[order], owner[order]

    @cached_property
    def _longest(self) -> int:
        ranges, _ = self.ranges
        return int((ranges[:, 1] - ranges[:, 0]).max())

    @cached_property
    def _length(self) -> Floats:
        """How many order-29 cells each image may touch."""
        ranges, owner = self.ranges
        return np.bincount(owner, ranges[:, 1] - ranges[:, 0], minlength=len(self.images)).astype(np.float64)

    @cached_property
    def _scale(self) -> Floats:
        """The size of a pixel of each image in degrees, along x and y; shape (n, 2)."""
        corners = np.array(self.images["corners"].to_pylist()).reshape(-1, 4, 2)
        vectors = unit_vectors(corners[..., 0], corners[..., 1])
        sides = np.degrees(np.linalg.norm(vectors[:, 1:3] - vectors[:, :2], axis=-1))
        scale: Floats = sides / np.stack([self._column("nx"), self._column("ny")], axis=1)
        return scale

    @cached_property
    def _share(self) -> Floats:
        """How much of what an image may touch it does touch: coverages are larger than images."""
        area = self._scale.prod(axis=1) * self._column("nx") * self._column("ny")
        share: Floats = np.minimum(area / (self._length * cell_area(MAX_ORDER)), 1.0)
        return share

    def _column(self, name: str) -> NDArray[Any]:
        return self._columns[name]

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        return {name: np.asarray(self.images[name]) for name in _COLUMNS}

    @cached_property
    def _planes(self) -> NDArray[np.int64]:
        planes: NDArray[np.int64] = 1 + self._column("has_variance").astype(np.int64) + self._column("has_mask")
        return planes

    @cached_property
    def _chunks(self) -> NDArray[np.int64]:
        chunks: NDArray[np.int64] = -(-self._column("ny") // CHUNK) * -(-self._column("nx") // CHUNK)
        return chunks

    def _near(self, start: int, stop: int) -> tuple[Ranges, NDArray[np.int64]]:
        """Return the parts of the images' ranges that lie in [start, stop), and the image that each belongs to."""
        ranges, owner = self.ranges
        first, last = np.searchsorted(ranges[:, 0], [start - self._longest, stop])
        near = slice(int(first), int(last))
        parts = np.clip(ranges[near], start, stop)
        inside = parts[:, 1] > parts[:, 0]
        return parts[inside], owner[near][inside]

    def near(self, cell: Cell) -> NDArray[np.int64]:
        """Return the images that may hold a source of the cell, ascending."""
        return np.unique(self._near(cell.start, cell.stop)[1])

    def rows(self, catalog: Node, ranges: Ranges) -> Floats:
        """Return the expected measurements in each range: every source once for each image that may hold it."""
        if (ranges[1:, 0] < ranges[:-1, 1]).any():  # the pairs below need disjoint ranges
            return np.array([self.rows(catalog, part[np.newaxis])[0] for part in ranges])
        if len(ranges) == 0:
            return np.zeros(0)
        images, owner = self._near(int(ranges[0, 0]), int(ranges[-1, 1]))
        i, j = meeting_pairs(images, ranges)
        parts = np.stack([np.maximum(images[i, 0], ranges[j, 0]), np.minimum(images[i, 1], ranges[j, 1])], axis=1)
        rows = np.bincount(j, catalog.rows_in(parts) * self._share[owner[i]], minlength=len(ranges))
        return rows.astype(np.float64)

    def reading(self, catalog: Node, cell: Cell, apertures: Apertures) -> ImageReading:
        """Return what is read for the sources of a cell: the chunks in it that are expected to hold one or more."""
        parts, owner = self._near(cell.start, cell.stop)
        images, place = np.unique(owner, return_inverse=True)
        held, together = catalog.rows_in(parts), Coverage.from_ranges(parts).ranges
        sources = np.bincount(place, held, minlength=len(images)) * self._share[images]
        overlap = np.bincount(place, parts[:, 1] - parts[:, 0], minlength=len(images)) / self._length[images]
        chunks, planes = self._chunks[images], self._planes[images]
        # the edge of the overlap cuts chunks: one more along each side
        within = np.maximum(np.minimum((np.sqrt(overlap * chunks) + 1) ** 2, chunks), 1)
        touched = within * -np.expm1(-sources / within)
        share = touched / chunks
        return ImageReading(
            images=len(images),
            rows=float(sources.sum()),
            places=float(catalog.rows_in(together).sum() * min(sources.sum() / max(held.sum(), 1e-9), 1)),
            read=float((self._column("stored_bytes")[images] * share).sum()),
            requests=float((planes * touched).sum()),
            windows=float((planes * (1 - np.exp(-sources))).sum()),
            pixels=float((planes * self._column("ny")[images] * self._column("nx")[images] * share).sum()),
            memory=float(self._window_bytes(images, cell, apertures).max(initial=0.0)),
        )

    def _window_bytes(self, images: NDArray[np.int64], cell: Cell, apertures: Apertures) -> Floats:
        """Return the most bytes that the window of the cell's sources may have on each image."""
        scale = self._scale[images].min(axis=1)
        across = 2 * np.sqrt(cell_area(cell.order)) / scale  # no cell is longer
        across += 2 * (apertures.reach(scale) + CHUNK)
        pixels = np.minimum(across, self._column("nx")[images]) * np.minimum(across, self._column("ny")[images])
        # in parts and as a whole, and the plane that is being decoded; without a plane the variance is computed
        planes = 2 + self._column("has_mask")[images]
        window: Floats = pixels * 4 * (2 * planes + 2)
        return window
