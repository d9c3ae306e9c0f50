"""The main job, call by call: measure every source of a catalog on every image that holds it.

    python examples/01_forced_photometry.py [FOLDER]

Simulates a small survey with known truth, so that nothing has to be downloaded; your own files go the same way.
"""

import sys
from pathlib import Path

import pyarrow.parquet as pq

import sciplat
from sciplat.demo.report import make_report
from sciplat.demo.simulate import simulate_survey


def main(folder: Path) -> None:
    survey = simulate_survey(folder / "survey")  # FITS images with variance and mask, and a reference catalog

    # Stores: made once, opened by anybody, read by the cell.
    catalog = sciplat.ingest_catalog(survey.reference, folder / "catalog", epoch="J2016.0")
    images = sciplat.ingest_images(survey.images, folder / "images")
    print(catalog, images, sep="\n")

    # A plan: nothing has been read yet, but it knows what it will take.
    plan = images.photometry(catalog, radii=["2 arcsec", "5 pix", "8 pix"], annulus=("10 pix", "15 pix"))
    print(plan.explain())
    print(plan.head(2).to_pylist()[0])

    # The result is a catalog like its input: select, cut out, nest, write again.
    measured = plan.write(folder / "photometry")
    pole = measured.within(sciplat.Cone("0 deg", "90 deg", "1 arcmin"))
    print(f"{pole.compute().num_rows} measurements within an arcminute of the pole")
    curves = measured.nest("source_id", ["mjd", "band", "image_id", "flux_nJy_2", "flux_nJy_err_2"])
    light_curves = curves.write(folder / "light_curves")
    print(f"{len(light_curves):,} light curves")

    # Was it right? Here the truth is known.
    report = make_report(
        measured.compute(), pq.read_table(survey.truth), light_curves.compute(), folder / "report", run={}
    )
    report.check()
    print(f"the measurements agree with the truth: {report.page}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "example-output"))
