"""The whole job, store on disk to catalog on disk, against reading the same pixels and against a careful FITS loop.

    python -m benchmarks.bench_pipeline [--small] [--out results.json]

One run times, in turn: the plan (`images.photometry(...).write`), reading all planes of all images from the store with
as many threads, and a loop with astropy and photutils over the FITS files. The fluxes must agree before a clock counts.
"""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import sciplat
from benchmarks.rivals import command_line, machine, versions
from sciplat.config import settings
from sciplat.demo.simulate import simulate_survey
from sciplat.io.image_store import read_window
from sciplat.lazy.images import Images

RADII = (3.0, 5.0, 8.0)
ANNULUS = (10.0, 15.0)
SMALL = {"fields": 4, "epochs": 1, "size": 256, "sources_per_field": 12, "reference_rows": 2000}
FULL = {"fields": 8, "epochs": 3, "size": 2048, "sources_per_field": 1200, "reference_rows": 100_000}


def run(*, small: bool) -> dict[str, Any]:
    """Simulate a survey, check that both ways agree, time them, and return the figures."""
    with tempfile.TemporaryDirectory(prefix="sciplat-bench-") as name:
        folder = Path(name)
        survey = simulate_survey(folder / "survey", **(SMALL if small else FULL))
        catalog = sciplat.ingest_catalog(survey.reference, folder / "catalog")
        images = sciplat.ingest_images(survey.images, folder / "images")
        plan = images.photometry(catalog, radii=[f"{radius} pix" for radius in RADII], annulus=_pixels(ANNULUS))
        plan.write(folder / "warm")  # kernels compiled, pages of the disk in memory
        rows = plan.compute()
        _check(rows, fits_loop(survey.images, pq.read_table(survey.truth), limit=2))
        times: dict[str, list[float]] = {"plan": [], "read": []}
        for repeat in range(1 if small else 3):
            times["plan"].append(_timed(lambda r=repeat: plan.write(folder / f"result-{r}")))
            times["read"].append(_timed(lambda: read_all(images)))
        few = 2 if small else 12
        loop = _timed(lambda: fits_loop(survey.images, pq.read_table(survey.truth), limit=few))
        return _figures(survey, rows.num_rows, times, loop * survey.n_images / few)


def read_all(images: Images) -> None:
    """Read every plane of every image from the store, on as many threads as the plan has."""

    def read(image: dict[str, Any]) -> None:
        whole = (0, image["nx"], 0, image["ny"])
        read_window(images.store.storage, image["group"], image["index"], ["science", "variance", "mask"], whole)

    with ThreadPoolExecutor(settings().threads) as pool:
        list(pool.map(read, images.rows.to_pylist()))


def fits_loop(folder: Path, truth: Any, *, limit: int) -> dict[tuple[str, int], float]:
    """Measure the sources of the first images as a careful user of astropy and photutils does, one thread."""
    from astropy.io import fits
    from photutils.aperture import ApertureStats, CircularAnnulus, CircularAperture, aperture_photometry

    fluxes = {}
    names = np.array(truth["image_id"].to_pylist())
    for path in sorted(folder.glob("*.fits.fz"))[:limit]:
        image_id = path.name.removesuffix(".fits.fz")
        mine = truth.filter(names == image_id)
        mine = mine.filter(mine["inside"])
        with fits.open(path) as file:
            science, variance = file["SCI"].data, file["VAR"].data
            bad = (file["MASK"].data != 0) | ~np.isfinite(science) | (science >= file["SCI"].header["SATURATE"])
        positions = np.stack([mine["x"].to_numpy(), mine["y"].to_numpy()], axis=1)
        background = ApertureStats(science, CircularAnnulus(positions, *ANNULUS), mask=bad, sum_method="center").median
        apertures = [CircularAperture(positions, radius) for radius in RADII]
        table = aperture_photometry(science, apertures, mask=bad, error=np.sqrt(variance))
        areas = apertures[-1].area_overlap(science, mask=bad)
        sums = np.asarray(table[f"aperture_sum_{len(RADII) - 1}"]) - background * areas
        fluxes |= {(image_id, source): float(f) for source, f in zip(mine["source_id"].to_pylist(), sums, strict=True)}
    return fluxes


def _check(rows: Any, expected: dict[tuple[str, int], float]) -> None:
    """Ours must agree with the loop's to 1e-4 of the flux: positions differ by the last digits of the WCS."""
    k = len(RADII) - 1
    columns = (rows[name].to_pylist() for name in ("image_id", "source_id", f"flux_{k}", f"flux_err_{k}"))
    ours = {(image, source): (flux, error) for image, source, flux, error in zip(*columns, strict=True)}
    assert set(expected) <= set(ours)
    assert expected
    for key, flux in expected.items():
        measured, error = ours[key]
        assert abs(measured - flux) < 1e-3 * error + 1e-5 * abs(flux), (key, measured, flux, error)


def _figures(survey: Any, measurements: int, times: dict[str, list[float]], loop: float) -> dict[str, Any]:
    plan, read = min(times["plan"]), min(times["read"])
    return {
        "versions": versions("sciplat", "numpy", "numba", "zarr", "pyarrow", "astropy", "photutils"),
        "machine": machine(),
        "threads": settings().threads,
        "images": survey.n_images,
        "measurements": measurements,
        "plan_s": round(plan, 3),
        "read_same_pixels_s": round(read, 3),
        "fits_loop_s": round(loop, 3),
        "ratio_to_reading": round(plan / read, 2),
        "ratio_of_fits_loop": round(loop / plan, 2),
    }


def _pixels(lengths: tuple[float, float]) -> tuple[str, str]:
    return f"{lengths[0]} pix", f"{lengths[1]} pix"


def _timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    command_line(run, __doc__)
