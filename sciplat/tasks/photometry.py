"""The task of forced photometry: one cell's sources on every image that may hold one of them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.io.image_store import CHUNK, Plane, Window, read_window
from sciplat.io.storage import Storage
from sciplat.sky.cell import Cell
from sciplat.steps.photometry import Apertures, ImagePixels, Placed, gain_variance, measure, place
from sciplat.steps.wcs import ImageWcs
from sciplat.tasks.task import Task

Rectangle = tuple[int, int, int, int]  # x0, x1, y0, y1


@dataclass(frozen=True)
class CatalogColumns:
    """Names of the catalog's columns that photometry needs, and the new names of those it keeps."""

    identity: str
    ra: str
    dec: str
    kept: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PhotometryTask:
    """Measure the sources of one cell.

    Parameters
    ----------
    sources : Task
        Gives the catalog's rows.
    storage : Storage
        Of the image store.
    images : pyarrow.Table
        The rows of the images table that may touch the cell.
    apertures : Apertures
    columns : CatalogColumns
    schema : pyarrow.Schema
        Of the result.
    """

    sources: Task
    storage: Storage
    images: pa.Table = field(repr=False)
    apertures: Apertures
    columns: CatalogColumns
    schema: pa.Schema = field(repr=False)

    @property
    def cell(self) -> Cell:
        """The catalog's cell or a part of it."""
        return self.sources.cell

    def run(self) -> pa.Table:
        """Place, read and measure image after image."""
        sources = self.sources.run()
        ra, dec = (sources[name].to_numpy() for name in (self.columns.ra, self.columns.dec))
        parts = []
        for image in self.images.to_pylist():
            placed = place(ImageWcs(image["wcs"]), image["ny"], image["nx"], ra, dec)
            if len(placed.row):
                parts.append(self._measure(sources, image, placed))
        table = pa.concat_tables(parts) if parts else self.schema.empty_table()
        order = [(name, "ascending") for name in (HEALPIX_COLUMN, "source_id", "mjd", "image_id")]
        return table.sort_by(order)

    def _measure(self, sources: pa.Table, image: dict[str, Any], placed: Placed) -> pa.Table:
        # the pixels of an image are forgotten before those of the next are read
        measured = measure(self._read(image, placed), placed, self.apertures, image["zero_point"])
        return self._rows(sources, image, placed, measured)

    def _read(self, image: dict[str, Any], placed: Placed) -> ImagePixels:
        planes: list[Plane] = ["science"]
        planes += ["variance"] if image["has_variance"] else []
        planes += ["mask"] if image["has_mask"] else []
        reach = self.apertures.reach(placed.scale)
        window = _read_around(self.storage, image, planes, placed, reach)
        variance, gain = window.variance, image["gain"]
        if variance is None and gain is not None and gain > 0:
            variance = gain_variance(window.science, gain, image["read_noise"] or 0.0, image["background"] or 0.0)
        saturation = np.inf if image["saturation"] is None else image["saturation"]
        return ImagePixels(
            window.x0,
            window.y0,
            window.science,
            variance,
            window.mask,
            image["mask_bad"],
            image["mask_saturated"],
            saturation,
        )

    def _rows(self, sources: pa.Table, image: dict[str, Any], placed: Placed, measured: dict[str, Any]) -> pa.Table:
        rows = sources.take(pa.array(placed.row))
        names = self.columns
        given = {HEALPIX_COLUMN: HEALPIX_COLUMN, "source_id": names.identity, "ra": names.ra, "dec": names.dec}
        given |= {new: old for old, new in names.kept}
        arrays = []
        for column in self.schema:
            if column.name in given:
                arrays.append(rows[given[column.name]].cast(column.type))
            elif column.name in measured:
                values = measured[column.name]
                arrays.append(pa.array(values, type=column.type, mask=~np.isfinite(values)))
            else:
                arrays.append(pa.repeat(pa.scalar(image[column.name], type=column.type), len(placed.row)))
        return pa.table(arrays, schema=self.schema)


def _read_around(
    storage: Storage, image: dict[str, Any], planes: list[Plane], placed: Placed, reach: NDArray[np.float64]
) -> Window:
    """Read the chunks that the apertures touch into one window; what lies between stays unread and unused."""
    ny, nx = image["ny"], image["nx"]
    x0 = np.clip(np.floor(placed.x - reach), 0, nx - 1).astype(np.int64)
    x1 = np.clip(np.ceil(placed.x + reach) + 1, 1, nx).astype(np.int64)
    y0 = np.clip(np.floor(placed.y - reach), 0, ny - 1).astype(np.int64)
    y1 = np.clip(np.ceil(placed.y + reach) + 1, 1, ny).astype(np.int64)
    rectangles = _rectangles(x0, x1, y0, y1, nx, ny)
    read = [read_window(storage, image["group"], image["index"], planes, bounds) for bounds in rectangles]
    return read[0] if len(read) == 1 else _assembled(read)


def _rectangles(
    x0: NDArray[np.int64],
    x1: NDArray[np.int64],
    y0: NDArray[np.int64],
    y1: NDArray[np.int64],
    nx: int,
    ny: int,
) -> list[Rectangle]:
    """Return rectangles of whole chunks that hold all boxes: rows of chunks of equal span make one."""
    spans: dict[int, tuple[int, int]] = {}
    for left, right, bottom, top in np.unique(
        np.stack([x0 // CHUNK, (x1 - 1) // CHUNK, y0 // CHUNK, (y1 - 1) // CHUNK], axis=1), axis=0
    ).tolist():
        for row in range(bottom, top + 1):
            first, last = spans.get(row, (left, right))
            spans[row] = min(first, left), max(last, right)
    merged: list[tuple[int, int, int, int]] = []
    for row in sorted(spans):
        if merged and merged[-1][3] == row - 1 and merged[-1][:2] == spans[row]:
            merged[-1] = (*merged[-1][:3], row)
        else:
            merged.append((*spans[row], row, row))
    return [
        (left * CHUNK, min((right + 1) * CHUNK, nx), bottom * CHUNK, min((top + 1) * CHUNK, ny))
        for left, right, bottom, top in merged
    ]


def _assembled(parts: list[Window]) -> Window:
    """Return one window that holds all parts at their places."""
    x0, y0 = min(part.x0 for part in parts), min(part.y0 for part in parts)
    nx = max(part.x0 + part.science.shape[1] for part in parts) - x0
    ny = max(part.y0 + part.science.shape[0] for part in parts) - y0
    planes: dict[str, Any] = {}
    for plane in ("science", "variance", "mask"):
        if getattr(parts[0], plane) is None:
            planes[plane] = None
            continue
        # untouched pages of zeros cost no memory
        planes[plane] = np.zeros((ny, nx), dtype=getattr(parts[0], plane).dtype)
        for part in parts:
            values = getattr(part, plane)
            top, left = part.y0 - y0, part.x0 - x0
            planes[plane][top : top + values.shape[0], left : left + values.shape[1]] = values
    return Window(x0, y0, planes["science"], planes["variance"], planes["mask"])
