"""Cross-matching, call by call: two catalogs of one sky, forty years apart, whose stars have moved in between.

    python examples/05_crossmatch.py [FOLDER]
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

import sciplat
from sciplat import Errors, Motion

ROWS = 20_000


def observe(stars: dict[str, np.ndarray], years: float, error: float, seed: int) -> pa.Table:
    """Return what a survey sees of the stars: nine in ten, moved by some years, with errors in mas."""
    rng = np.random.default_rng(seed)
    east, north = (stars[name] * years + rng.normal(0, error, ROWS) for name in ("pmra", "pmdec"))
    ra, dec = stars["ra"] + east / 3.6e6 / np.cos(np.radians(stars["dec"])), stars["dec"] + north / 3.6e6
    errors = {"e_ra": np.full(ROWS, error), "e_dec": np.full(ROWS, error)}
    return pa.table(stars | {"ra": ra, "dec": dec} | errors).filter(pa.array(rng.random(ROWS) < 0.9))


def main(folder: Path) -> None:
    rng = np.random.default_rng(5)
    speed = 10 ** rng.uniform(0, 3, ROWS)  # mas/yr, towards any side
    stars = {"star": np.arange(ROWS), "ra": rng.uniform(10, 12, ROWS), "dec": rng.uniform(-1, 1, ROWS)}
    stars |= {"pmra": speed * rng.normal(0, 1, ROWS), "pmdec": speed * rng.normal(0, 1, ROWS)}
    old, new = observe(stars, 0, 200, seed=1).drop_columns(["pmra", "pmdec"]), observe(stars, 40, 50, seed=2)

    # Stores say when their positions hold, how stars move and how well they are placed. Matches ask for nothing else.
    errors, motion = Errors("e_ra", "e_dec"), Motion("pmra", "pmdec")
    plates = sciplat.ingest_catalog(old, folder / "plates", epoch="J1976.0", errors=errors, rows_per_cell=3000)
    survey = sciplat.ingest_catalog(new, folder / "survey", epoch="J2016.0", errors=errors, motion=motion)

    matched = survey.crossmatch(plates, radius="3 arcsec").write(folder / "matched")
    print(matched.report["completeness"])  # stars were moved back to 1976
    still = survey.crossmatch(plates, radius="3 arcsec", motion=False)
    print(f"{matched.where('star = star_other').count() - still.where('star = star_other').count():,} lost without motion")
    mutual = survey.crossmatch(plates, radius="3 arcsec", find="mutual").where("star = star_other").count()
    alone = survey.crossmatch(plates, radius="3 arcsec", how="anti").count()
    likely = survey.crossmatch(plates, n_sigma=5, find="all", probability=True).compute().to_pandas()
    print(likely[["star", "star_other", "separation", "sigma", "match_probability", "no_match_probability"]].head())
    print(f"{survey.groups(radius='3 arcsec').where('group_size > 1').count()} stars have a neighbour within 3 arcsec")
    night = sciplat.ingest_catalog(observe(stars, 40, 50, seed=3), folder / "night", epoch="J2016.0")
    print(sciplat.crossmatch_many([survey, night], radius="0.3 arcsec").aggregate("catalogs", n="count()").to_pandas())

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="proper motion (mas/yr)", ylabel="separation (arcsec)")
    for pairs, name in ((still, "as they stand"), (matched, "moved to one epoch")):
        rows = pairs.to_pandas()
        axes.plot(np.hypot(rows.pmra, rows.pmdec), rows.separation, ".", markersize=1, label=name)
    axes.legend(loc="upper left", markerscale=10)
    figure.savefig(folder / "separations.png", dpi=120)

    both = len(set(old["star"].to_pylist()) & set(new["star"].to_pylist()))
    assert abs(matched.where("star = star_other").count() - both) < 0.002 * both > abs(mutual - both)
    assert abs(likely.match_probability.sum() - (likely.star == likely.star_other).sum()) < 0.01 * both
    assert alone == survey.count() - matched.count()
    print("the matches agree with the truth")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example-output"))
