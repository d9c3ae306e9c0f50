"""Quotes against what was spent, for three plans: photometry, a part of a catalog, and light curves.

    python -m benchmarks.bench_quote [--small] [--out results.json]

The machine is calibrated first. Every plan is then quoted and run, and the figures stand side by side: bytes read,
rows, and seconds of one thread. Bytes are all that the process read while the plan ran, for whatever purpose.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import sciplat
from benchmarks.rivals import command_line, machine, versions
from sciplat.config import settings
from sciplat.demo.simulate import simulate_survey
from sciplat.lazy.catalog import Catalog
from sciplat.tasks.calibrate import measure_rates
from sciplat.tasks.quote import keep_rates

SMALL = {"fields": 4, "epochs": 1, "size": 256, "sources_per_field": 12, "reference_rows": 2000}
FULL = {"fields": 8, "epochs": 6, "size": 2048, "sources_per_field": 1200, "reference_rows": 100_000}


def run(*, small: bool) -> dict[str, Any]:
    """Quote and run the plans, and return the figures."""
    keep_rates(measure_rates())
    with tempfile.TemporaryDirectory(prefix="sciplat-bench-") as name:
        folder = Path(name)
        plans = example_plans(folder, small=small)
        found = {}
        for what, plan in plans.items():
            plan.write(folder / f"warm-{what}")
            found[what] = compared(plan.write(folder / what).report)
    return {
        "versions": versions("sciplat", "numpy", "numba", "zarr", "pyarrow"),
        "machine": machine(),
        "threads": settings().threads,
        "plans": found,
    }


def example_plans(folder: Path, *, small: bool) -> dict[str, Catalog]:
    """Return a plan of each kind of work."""
    survey = simulate_survey(folder / "survey", **(SMALL if small else FULL))
    sources = sciplat.ingest_catalog(survey.reference, folder / "sources")
    images = sciplat.ingest_images(survey.images, folder / "images")
    photometry = images.photometry(sources, radii=["3 pix", "5 pix", "8 pix"], annulus=("10 pix", "15 pix"))
    stars = sciplat.ingest_catalog(_stars(20_000 if small else 4_000_000), folder / "stars", rows_per_cell=500_000)
    region = sciplat.Box(("10 deg", "130 deg"), ("-50 deg", "60 deg"))
    epochs = sciplat.ingest_catalog(_epochs(2_000 if small else 100_000), folder / "epochs", rows_per_cell=200_000)
    return {
        "photometry": photometry,
        "part of a catalog": stars.select("mag").within(region),
        "light curves": epochs.nest("source_id", ["mjd", "flux"]),
    }


def compared(report: dict[str, Any]) -> dict[str, Any]:
    """Return quote, actual and their ratio."""
    quote, actual = report["quote"], report["actual"]
    names = ("read", "rows", "seconds")
    return {name: [quote[name], actual[name], round(quote[name] / max(actual[name], 1e-9), 2)] for name in names}


def _stars(count: int) -> pa.Table:
    rng = np.random.default_rng(5)
    ra, dec = rng.uniform(0, 360, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count)))
    columns = {f"column_{k}": rng.normal(size=count) for k in range(6)}
    return pa.table({"source_id": np.arange(count), "ra": ra, "dec": dec, "mag": rng.normal(18, 2, count)} | columns)


def _epochs(count: int) -> pa.Table:
    rng = np.random.default_rng(6)
    stars, each = _stars(count).select(["source_id", "ra", "dec"]), 30
    rows = stars.take(pa.array(np.repeat(np.arange(count), each)))
    rows = rows.append_column("mjd", pa.array(rng.uniform(58000, 60000, count * each)))
    return rows.append_column("flux", pa.array(rng.normal(size=count * each)))


if __name__ == "__main__":
    command_line(run, __doc__)
