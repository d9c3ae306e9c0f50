"""Catalogs, call by call: a table becomes a store; filter it, reduce it, add a night, go back to the first.

    python examples/04_catalogs.py [FOLDER]

The two nights are drawn at random; your own files (Parquet, CSV, FITS, VOTable...) go the same way.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

import sciplat

ROWS = 100_000


def observe(night: int) -> pa.Table:
    """Return the sources of a night, more of them towards the equator, with magnitudes in two bands."""
    rng = np.random.default_rng(night)
    identity = {"source_id": np.arange(ROWS) + ROWS * night, "night": np.full(ROWS, night)}
    position = {"ra": rng.uniform(0, 360, ROWS), "dec": np.degrees(np.arcsin(2 * rng.beta(4, 4, ROWS) - 1))}
    return pa.table(identity | position | {"mag_g": rng.normal(19.5, 1, ROWS), "mag_r": rng.normal(19, 1, ROWS)})


def main(folder: Path) -> None:
    nights, url = [observe(1), observe(2)], folder / "survey"

    # In: tables of any size, in as much memory as they may have. After a kill the same call goes on.
    survey = sciplat.ingest_catalog(nights[0], url, rows_per_cell=20_000, epoch="J2026.0", memory="1 GiB")
    print(survey, survey.schema.names, survey.head(1).to_pylist(), sep="\n")

    # Filters, in any order: only what can matter is read, and not before it is asked for.
    red = survey.with_columns(colour="mag_g - mag_r").where("mag_r < 18 and colour > 1")
    near = red.within(sciplat.Cone("10 deg", "0 deg", "3 deg"))
    print(near.select("source_id", "colour").head(5).to_pandas())

    # Numbers of all rows, exact: of a store, or of any plan.
    print(f"{red.count():,} red sources, of median colour {red.quantile('colour', 0.5):.2f}")
    print(f"at most {survey.sky_map(5).max()} sources in a pixel of 1.8 deg")

    # The second night makes a new version; who reads the first is not disturbed.
    both = sciplat.ingest_catalog(nights[1], url, mode="append")
    print(both, both.versions, both.aggregate("night", n="count()", mean="mean(mag_g)").to_pandas(), sep="\n")
    first = sciplat.open_catalog(url, version=1)
    both.plot_sky().savefig(folder / "sky.png")

    # Was it right? Here the tables are at hand.
    mag_g, mag_r = (nights[0][name].to_numpy() for name in ("mag_g", "mag_r"))
    assert red.count() == np.count_nonzero((mag_r < 18) & (mag_g - mag_r > 1))
    assert [first.count(), both.count()] == [ROWS, 2 * ROWS] == [first.sky_map(5).sum(), both.sky_map(5).sum()]
    print("the catalogs agree with the truth")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example-output"))
