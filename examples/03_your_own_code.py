"""Your own function beside the data: find the variable stars among measured light curves.

    python examples/03_your_own_code.py [FOLDER]

The function takes one Arrow table for each cell and returns one; sciplat brings it to the data, on local threads or on
the Dask cluster that is open, and keeps what is done: stop it and start it again, and it goes on.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

import sciplat
from sciplat.demo.simulate import simulate_survey

FLUX, ERROR = "flux_nJy_0", "flux_nJy_err_0"


def variability(curves: pa.Table) -> pa.Table:
    """Add the reduced chi square of every source's flux against its mean, the worst of its bands."""
    worst = []
    for curve in curves["light_curve"].to_pylist():
        chi2 = [0.0]
        for band in {point["band"] for point in curve}:
            points = [(p[FLUX], p[ERROR]) for p in curve if p["band"] == band and p["flags_0"] == 0]
            flux, error = np.array(points).reshape(-1, 2).T
            if len(flux) > 1:
                mean = np.average(flux, weights=error**-2)
                chi2.append(float(np.sum(((flux - mean) / error) ** 2) / (len(flux) - 1)))
        worst.append(max(chi2))
    return curves.append_column("chi2", pa.array(worst))


def main(folder: Path) -> None:
    survey = simulate_survey(folder / "survey", fields=4)
    catalog = sciplat.ingest_catalog(survey.reference, folder / "catalog", citation="a simulated survey")
    images = sciplat.ingest_images(survey.images, folder / "images")
    measured = images.photometry(catalog, radii=["8 pix"], annulus=("10 pix", "15 pix"), keep=["variable"])
    curves = measured.nest("source_id", ["band", "mjd", FLUX, ERROR, "flags_0"])

    plan = curves.map(variability, schema=curves.schema.append(pa.field("chi2", pa.float64())))
    print(plan.explain())
    result = plan.write(folder / "variables")
    print(result.report["quote"], result.report["actual"], sep="\n")

    truth = set(catalog.compute().filter(pa.compute.field("variable"))["source_id"].to_pylist())
    rows = result.compute()
    found = set(rows.filter(pa.compute.field("chi2") > 10)["source_id"].to_pylist())
    seen = truth & set(rows["source_id"].to_pylist())
    print(f"{len(found)} variable among {len(rows)} sources; {len(seen - found)} too faint or too slow to be found")
    assert found <= seen
    assert len(found) > 0.5 * len(seen)
    print("the variable sources agree with the truth")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example-output"))
