"""The whole path in one call: simulate, ingest, measure, gather light curves, compare with the truth."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from sciplat import __version__
from sciplat.config import settings
from sciplat.demo.report import Report, make_report
from sciplat.demo.simulate import simulate_survey
from sciplat.errors import StoreExists
from sciplat.ingest.catalog import ingest_catalog
from sciplat.ingest.images import ingest_images

RADII = ("2 arcsec", "5 pix", "8 pix")
ANNULUS = ("10 pix", "15 pix")
_MARK = ".sciplat-demo"  # only a folder that a demo made is removed


def run_demo(
    output: str | os.PathLike[str], *, fields: int = 12, say: Callable[[str], object] = lambda _: None
) -> Report:
    """Send a simulated survey all the way from FITS files to a judged catalog of measurements.

    Parameters
    ----------
    output : str or path
        Folder for everything; one that an earlier demo made is replaced.
    fields : int
        Fields on the sky, each with 3 epochs in 2 bands.
    say : callable
        Told of each stage in one line.

    Returns
    -------
    Report
        ``.passed`` is the verdict, ``.page`` the page.

    Raises
    ------
    StoreExists
        If the folder holds anything else.
    """
    folder = _fresh_folder(Path(output))
    clock = _Clock(say)
    survey = simulate_survey(folder / "survey", fields=fields, workers=settings().threads)
    clock.tick("simulated", f"{survey.n_images} images, {survey.n_reference:,} reference sources")
    catalog = ingest_catalog(survey.reference, folder / "catalog")
    images = ingest_images(survey.images, folder / "images")
    clock.tick("ingested", f"{len(images)} images, {len(catalog):,} sources")
    plan = images.photometry(catalog, radii=RADII, annulus=ANNULUS)
    say(f"plan      {plan.explain()}")
    result = plan.write(folder / "photometry")
    clock.tick("measured", f"{len(result):,} times a source on an image")
    flux = [f"flux_nJy_{len(RADII) - 1}", f"flux_nJy_err_{len(RADII) - 1}"]
    curves = result.nest("source_id", ["mjd", "band", "image_id", *flux]).write(folder / "light_curves")
    clock.tick("nested", f"{len(curves):,} light curves")
    about = {"sciplat": __version__, "threads": str(settings().threads), **clock.stages}
    report = make_report(result.compute(), pq.read_table(survey.truth), curves.compute(), folder / "report", run=about)
    clock.tick("reported", str(report.page))
    return report


class _Clock:
    """Tells how long each stage took."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self.say = say
        self.stages: dict[str, str] = {}
        self._last = time.perf_counter()

    def tick(self, stage: str, what: str) -> None:
        now = time.perf_counter()
        self.stages[stage] = f"{what}, {now - self._last:.1f} s"
        self.say(f"{stage:<10}{self.stages[stage]}")
        self._last = now


def _fresh_folder(folder: Path) -> Path:
    if folder.exists():
        if not (folder / _MARK).is_file():
            raise StoreExists(f"{folder} was not made by a demo", hint="another folder: --output")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / _MARK).touch()
    return folder
