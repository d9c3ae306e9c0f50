"""How fast this machine is: every kind of work that a quote counts, done for a moment by all threads at once."""

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sciplat.config import settings
from sciplat.io.catalog_store import read_cell
from sciplat.io.catalog_writer import CatalogWriter
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.io.image_store import Plane, create_group, read_window, write_plane
from sciplat.io.staging import CellRecord, Staging
from sciplat.io.storage import LocalStorage, open_storage
from sciplat.sky.angle import Length
from sciplat.sky.cell import Cell, healpix_29
from sciplat.sky.region import Cone
from sciplat.steps.nest import nest
from sciplat.steps.photometry import Apertures, ImagePixels, measure, place
from sciplat.steps.wcs import ImageWcs
from sciplat.tasks.progress import progress
from sciplat.tasks.quote import Rates

_ROWS = 400_000
_EPOCHS = 20  # rows of a light curve
_SOURCES = 4000
_SIZE = 1024  # pixels
_PLANES: list[Plane] = ["science", "variance", "mask"]
_SMALL_ROWS = 200
_MOMENT = 0.6  # seconds for each measurement


def measure_rates() -> Rates:
    """Measure this machine in a folder for temporary files; takes some ten seconds."""
    with tempfile.TemporaryDirectory(prefix="sciplat-calibrate-") as name:
        bench = _Bench(Path(name))
        kinds = [bench.catalog, bench.nesting, bench.writing, bench.windows, bench.photometry]
        found: dict[str, float] = {}
        for kind in progress(kinds, what="calibrate", total=len(kinds)):
            found |= kind()
    return Rates(**{name: max(seconds, 1e-12) for name, seconds in found.items()})


class _Bench:
    """A small catalog and two images, and what is timed on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = _stars(_ROWS)
        self.small = self.table.slice(0, _SMALL_ROWS)

    def catalog(self) -> dict[str, float]:
        """Time reading and testing rows."""
        large, little = self._store(self.table, "large"), self._store(self.small, "small")
        whole = _seconds(lambda: read_cell(large[0], large[1]))
        opened = _seconds(lambda: read_cell(little[0], little[1]))
        ra, dec = (self.table[name].to_numpy() for name in ("ra", "dec"))
        cone = Cone("10 deg", "10 deg", "20 deg")
        inside = _seconds(lambda: self.table.filter(pa.array(cone.contains(ra, dec))))
        return {"open": opened, "scan": (whole - opened) / self.table.nbytes, "within": inside / _ROWS}

    def nesting(self) -> dict[str, float]:
        """Time gathering rows."""
        head, columns = [HEALPIX_COLUMN, "id", "ra", "dec"], ["flux", "mjd"]
        curves = self.table.take(pa.array(np.arange(_ROWS) // _EPOCHS * _EPOCHS))
        return {"nest": _seconds(lambda: nest(curves, "id", head, columns, "curve")) / _ROWS}

    def writing(self) -> dict[str, float]:
        """Time writing rows, as much as a file costs and for each byte."""
        staging = Staging(LocalStorage(self.folder / "written"), "calibrate")
        cell = Cell(0, 0)

        def write(table: pa.Table) -> None:
            report = staging.write(cell, table, _ROWS)
            staging.commit([CellRecord(cell, table.num_rows, 0.0, report)])
            for file in report.files:  # a disk for temporary files may be small
                staging.storage.remove(file.path)

        committed = _seconds(lambda: write(self.small))
        whole = _seconds(lambda: write(self.table))
        rate = (whole - committed) / self.table.nbytes
        return {"commit": max(committed - rate * self.small.nbytes, 0.0), "write": rate}

    def windows(self) -> dict[str, float]:
        """Time reading pixels."""
        storage = LocalStorage(self.folder / "images")
        rng = np.random.default_rng(0)
        create_group(storage, "group", (1, _SIZE, _SIZE), _PLANES, np.zeros(1))
        for plane, pixels in zip(_PLANES, self._planes(rng), strict=True):
            write_plane(storage, "group", 0, plane, pixels)
        corner, whole = (0, 8, 0, 8), (0, _SIZE, 0, _SIZE)
        few = _seconds(lambda: read_window(storage, "group", 0, _PLANES, corner)) / len(_PLANES)
        many = _seconds(lambda: read_window(storage, "group", 0, _PLANES, whole)) / len(_PLANES)
        chunk = 512 * 512  # even the corner reads a chunk
        pixel = (many - few) / (_SIZE * _SIZE - chunk)
        return {"window": max(few - pixel * chunk, 0.0), "pixel": pixel}

    def photometry(self) -> dict[str, float]:
        """Time looking for sources and measuring them."""
        wcs = ImageWcs(_WCS)
        rng = np.random.default_rng(1)
        x, y = rng.uniform(0, _SIZE, (2, _SOURCES))
        ra, dec = wcs.pixel_to_sky(x, y)
        science, variance, mask = self._planes(rng)
        pixels = ImagePixels(0, 0, science, variance, mask, 1, 2, np.inf)
        apertures = Apertures((Length(5, "pix"),), (Length(10, "pix"), Length(15, "pix")), "median")
        placed = place(wcs, _SIZE, _SIZE, ra, dec)
        looking = _seconds(lambda: place(wcs, _SIZE, _SIZE, ra, dec))
        measuring = _seconds(lambda: measure(pixels, placed, apertures, 27.0))
        return {"place": looking / _SOURCES, "measure": measuring / _SOURCES}

    def _store(self, table: pa.Table, name: str) -> tuple[Any, Any]:
        properties = {"position": ["ra", "dec"], "id": "id", "kind": "sources", "frame": "icrs", "epoch": None}
        writer = CatalogWriter.begin(open_storage(self.folder / name), properties | {"rows_per_cell": _ROWS})
        store = writer.publish(table.schema, [writer.cells.write(Cell(0, 4), table, _ROWS)])
        return store.storage, store.entries[0].file

    @staticmethod
    def _planes(rng: np.random.Generator) -> list[Any]:
        science = rng.normal(100, 5, (_SIZE, _SIZE)).astype(np.float32)
        mask = (rng.uniform(size=science.shape) < 1e-3).astype(np.uint32)
        return [science, np.full_like(science, 25), mask]


_WCS: dict[str, float | int | str] = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 10.0,
    "CRVAL2": 10.0,
    "CRPIX1": _SIZE / 2,
    "CRPIX2": _SIZE / 2,
    "CD1_1": -7e-5,
    "CD1_2": 0.0,
    "CD2_1": 0.0,
    "CD2_2": 7e-5,
}


def _stars(count: int) -> pa.Table:
    """Return stars with an index, an identity, a position and two more columns, in the order of the sky."""
    rng = np.random.default_rng(2)
    ra, dec = rng.uniform(0, 45, count), rng.uniform(0, 20, count)
    rows = {HEALPIX_COLUMN: healpix_29(ra, dec), "id": np.arange(count), "ra": ra, "dec": dec}
    rows |= {"flux": rng.normal(size=count), "mjd": rng.uniform(58000, 60000, count)}
    return pa.table(rows).sort_by(HEALPIX_COLUMN)


def _seconds(work: Callable[[], object]) -> float:
    """Return the seconds of a thread for one piece of work while all threads do the same."""
    work()
    threads = settings().threads
    with ThreadPoolExecutor(threads) as pool:
        return float(np.mean(list(pool.map(lambda _: _pace(work), range(threads)))))


def _pace(work: Callable[[], object]) -> float:
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < _MOMENT:
        work()
        count += 1
    return elapsed / count
