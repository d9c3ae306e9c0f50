"""Small parts of a large catalog: cones of 1 arcmin to 5 deg in 5 million rows, against lsdb and a full scan.

    python -m benchmarks.bench_cone [--small] [--out results.json]

All three read the same store and must find the same sources before their clocks start. Every clock meets the same
centres, each of them a source, so that no cone is empty. "opening" includes opening the catalog, with the libraries
imported. The full scan reads every file with pyarrow and tests every row.
"""

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import sciplat
from benchmarks.rivals import command_line, machine, versions
from sciplat.config import settings

RADII = {"1 arcmin": 1 / 60, "10 arcmin": 1 / 6, "1 deg": 1.0, "5 deg": 5.0}
Cone = tuple[float, float, str]


def run(*, small: bool) -> dict[str, Any]:
    """Time the cones and return the figures in milliseconds."""
    rows, centres = (20_000, 2) if small else (5_000_000, 12)
    with tempfile.TemporaryDirectory(prefix="sciplat-bench-") as name:
        url = Path(name) / "stars"
        table = stars(rows)
        sciplat.ingest_catalog(table, url)
        chosen = np.random.default_rng(8).choice(rows, centres, replace=False)
        places = [(table["ra"][int(k)].as_py(), table["dec"][int(k)].as_py()) for k in chosen]
        found = {radius: timed(url, [(ra, dec, radius) for ra, dec in places]) for radius in RADII}
    return {
        "versions": versions("sciplat", "lsdb", "hats", "pyarrow", "numpy", "cdshealpix"),
        "machine": machine(),
        "threads": settings().threads,
        "rows": rows,
        "unit": "milliseconds, median of the centres; in brackets the shortest",
        "cones": found,
    }


def stars(count: int) -> pa.Table:
    """Return sources all over the sky with ten columns."""
    rng = np.random.default_rng(7)
    columns = {f"column_{k}": rng.normal(size=count) for k in range(7)}
    ra, dec = rng.uniform(0, 360, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count)))
    return pa.table({"source_id": np.arange(count), "ra": ra, "dec": dec} | columns)


def timed(url: Path, cones: list[Cone]) -> dict[str, Any]:
    """Return the time of each way to answer these cones."""
    catalog, rival = sciplat.open_catalog(url), open_lsdb(url)
    ways: dict[str, Callable[[Cone], NDArray[np.int64]]] = {
        "sciplat": lambda cone: ours(catalog, cone),
        "sciplat, opening": lambda cone: ours(sciplat.open_catalog(url), cone),
        "lsdb": lambda cone: theirs(rival, cone),
        "lsdb, opening": lambda cone: theirs(open_lsdb(url), cone),
        "full scan": lambda cone: scanned(url, cone),
    }
    rows = []
    for cone in cones[:2]:
        answers = {name: np.sort(way(cone)) for name, way in ways.items()}
        for name, answer in answers.items():
            assert np.array_equal(answer, answers["full scan"]), f"{name} finds other sources: no clock starts"
        rows.append(len(answers["full scan"]))
    few = {"full scan": cones[:2]}
    return {"rows": rows, **{name: _clock(way, few.get(name, cones)) for name, way in ways.items()}}


def ours(catalog: sciplat.Catalog, cone: Cone) -> NDArray[np.int64]:
    """Return the identities in a cone."""
    ra, dec, radius = cone
    table = catalog.within(sciplat.Cone(f"{ra!r} deg", f"{dec!r} deg", radius)).compute()
    return np.asarray(table["source_id"])


def open_lsdb(url: Path) -> Any:
    """Open the store with lsdb."""
    import lsdb

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lsdb.open_catalog(url, columns="all")


def theirs(catalog: Any, cone: Cone) -> NDArray[np.int64]:
    """Return the identities that lsdb finds."""
    ra, dec, radius = cone
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = catalog.cone_search(ra=ra, dec=dec, radius_arcsec=3600 * RADII[radius]).compute()
    return np.asarray(frame["source_id"])


def scanned(url: Path, cone: Cone) -> NDArray[np.int64]:
    """Return the identities that a test of every row finds."""
    ra, dec, radius = cone
    files = sorted(next(url.glob("v1-*")).rglob("Npix=*.parquet"))
    table = pa.concat_tables(pq.ParquetFile(file).read() for file in files)
    lon, lat = np.radians(table["ra"].to_numpy()), np.radians(table["dec"].to_numpy())
    north, south = np.radians(dec), np.radians(ra)
    half = np.sin((lat - north) / 2) ** 2 + np.cos(lat) * np.cos(north) * np.sin((lon - south) / 2) ** 2
    return np.asarray(table["source_id"])[2 * np.arcsin(np.sqrt(half)) <= np.radians(RADII[radius])]


def _clock(way: Callable[[Cone], object], cones: list[Cone]) -> list[float]:
    times = []
    for cone in cones:
        start = time.perf_counter()
        way(cone)
        times.append(1e3 * (time.perf_counter() - start))
    return [round(statistics.median(times), 2), round(min(times), 2)]


if __name__ == "__main__":
    command_line(run, __doc__)
