"""Cross-matching: two catalogs of one sky, forty years apart. Run as: python examples/05_crossmatch.py [FOLDER]."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from sciplat import Errors, Motion, crossmatch_many, ingest_catalog

ROWS, RADIUS, TRUE = 20_000, "3 arcsec", "star = star_other"


def observe(stars: dict[str, np.ndarray], years: float, error: float, seed: int) -> pa.Table:
    """Return what a survey sees of the stars: nine in ten, moved by some years, with errors in mas."""
    rng = np.random.default_rng(seed)
    east, north = (stars[name] * years + rng.normal(0, error, ROWS) for name in ("pmra", "pmdec"))
    ra, dec = stars["ra"] + east / 3.6e6 / np.cos(np.radians(stars["dec"])), stars["dec"] + north / 3.6e6
    errors = {"e_ra": np.full(ROWS, error), "e_dec": np.full(ROWS, error)}
    return pa.table(stars | {"ra": ra, "dec": dec} | errors).filter(pa.array(rng.random(ROWS) < 0.9))


def main(folder: Path) -> None:
    rng = np.random.default_rng(5)
    stars = {"star": np.arange(ROWS), "ra": rng.uniform(10, 12, ROWS), "dec": rng.uniform(-1, 1, ROWS)}
    stars |= dict(zip(("pmra", "pmdec"), 10 ** rng.uniform(0, 3, ROWS) * rng.normal(size=(2, ROWS)), strict=True))
    old, new = observe(stars, 0, 200, seed=1), observe(stars, 40, 50, seed=2)

    # Stores say when their positions hold, how the stars move and how well they are placed.
    errors, motion = Errors("e_ra", "e_dec"), Motion("pmra", "pmdec")
    plates = ingest_catalog(old, folder / "plates", epoch="J1976.0", errors=errors, rows_per_cell=3000)
    survey = ingest_catalog(new, folder / "survey", epoch="J2016.0", errors=errors, motion=motion)

    # Stars are moved to the epoch of the plates before they meet, unless that is forbidden.
    matched = survey.crossmatch(plates, radius=RADIUS).write(folder / "matched")
    still, found = survey.crossmatch(plates, radius=RADIUS, motion=False), matched.where(TRUE).count()
    print(matched.report["completeness"], f"{found - still.where(TRUE).count():,} are lost without motion", sep="\n")
    mutual = survey.crossmatch(plates, radius=RADIUS, find="mutual").where(TRUE).count()
    likely = survey.crossmatch(plates, n_sigma=5, find="all", probability=True).compute().to_pandas()
    print(likely[["star", "star_other", "sigma", "match_probability", "no_match_probability"]].head().to_string())
    blends = survey.groups(radius=RADIUS).where("group_size > 1").count()
    many = crossmatch_many([survey, plates], radius="1 arcsec")  # takes positions as they stand
    print(f"{blends} have a neighbour", many.aggregate("catalogs", n="count()").to_pandas(), sep="\n")
    axes = Figure(layout="constrained").add_subplot(xscale="log", xlabel="motion (mas/yr)", ylabel="distance (arcsec)")
    for rows, name in ((still.to_pandas(), "as they stand"), (matched.to_pandas(), "moved to one epoch")):
        axes.plot(np.hypot(rows.pmra, rows.pmdec), rows.separation, ".", markersize=1, label=name)
    axes.legend(loc="upper left", markerscale=10)
    axes.figure.savefig(folder / "separations.png")

    both = len(set(old["star"].to_pylist()) & set(new["star"].to_pylist()))
    assert max(abs(found - both), abs(mutual - both)) < 0.002 * both
    assert survey.crossmatch(plates, radius=RADIUS, how="anti").count() + len(matched) == len(survey)
    assert abs(likely.match_probability.sum() - (likely.star == likely.star_other).sum()) < 0.01 * both
    print("the matches agree with the truth")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example-output"))
