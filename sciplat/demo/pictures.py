"""The pictures of a demo run: the survey on the sky, recovered fluxes, and variable stars."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sciplat.demo.compare import Comparison
from sciplat.demo.survey import FIRST_MJD, SURVEY_DAYS, FloatArray
from sciplat.errors import ColumnError
from sciplat.plot.light_curve import LightCurve, light_curves
from sciplat.plot.scatter import compare_fluxes
from sciplat.plot.sky_map import sky_map
from sciplat.sky.frame import unit_vectors

CURVES_SHOWN = 6
SIGNAL_TO_NOISE_SHOWN = 25.0  # error bars wide enough to see, narrow enough to tell
SHORTEST_PERIOD = 15.0  # days: a faster wave over 100 days is a smear
NJY_PER_UJY = 1000.0

CAPTIONS = (
    (
        "sky_map.png",
        "The survey on the sky",
        "Every measured source, and the number of measurements of each field.",
    ),
    (
        "fluxes.png",
        "Recovered and true fluxes",
        (
            "Fluxes in the largest aperture, their pulls along the true flux, and the distribution of the "
            "pulls beside the unit normal that right fluxes with right errors have. Flagged ones are grey."
        ),
    ),
    (
        "light_curves.png",
        "Variable stars",
        "Forced photometry of variable stars with one-sigma errors, on their true curves.",
    ),
)


@dataclass(frozen=True)
class Picture:
    """A picture on disk and what it shows."""

    path: Path
    title: str
    caption: str


def draw_pictures(comparison: Comparison, nested: pa.Table, folder: Path) -> list[Picture]:
    """Write ``sky_map.png``, ``fluxes.png`` and ``light_curves.png`` under `folder`, and return them.

    Raises
    ------
    ColumnError
        If the light curves lack a column.
    """
    labels = _field_labels(comparison)
    shown = _choose_variables(comparison)
    figures = (
        sky_map(comparison.ra, comparison.dec, labels=labels, title="Measurements of each field"),
        compare_fluxes(
            comparison.true_flux,
            comparison.flux,
            comparison.flux_err,
            band=comparison.band,
            clean=comparison.clean,
            title="Recovered and true fluxes",
        ),
        light_curves(
            [_light_curve(comparison, nested, source) for source in shown],
            unit="µJy",
            title="Variable stars",
        ),
    )
    pictures = []
    for figure, (name, title, caption) in zip(figures, CAPTIONS, strict=True):
        figure.savefig(folder / name)
        pictures.append(Picture(folder / name, title, caption))
    return pictures


def _field_labels(comparison: Comparison) -> list[tuple[float, float, str]]:
    """Return the mean position of each field, found on the sphere, and its number of measurements."""
    fields = comparison.truth["field"].to_numpy()
    labels = []
    for field in np.unique(fields):
        own = fields == field
        x, y, z = unit_vectors(comparison.ra[own], comparison.dec[own]).mean(axis=0)
        ra, dec = np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))
        labels.append((float(ra), float(dec), f"f{field:02d}: {np.count_nonzero(own):,}"))
    return labels


def _choose_variables(comparison: Comparison) -> list[int]:
    """Return slow variable stars with most clean measurements and a signal-to-noise that shows errors."""
    truth = comparison.truth
    slow = np.asarray(truth["period"].to_numpy(), dtype=np.float64) >= SHORTEST_PERIOD  # null is NaN: False
    eligible = slow & comparison.clean
    sources, index = np.unique(comparison.source_id[eligible], return_inverse=True)
    if not len(sources):
        return []
    points = np.bincount(index)
    signal = comparison.true_flux[eligible] / comparison.flux_err[eligible]
    typical = np.bincount(index, weights=np.log(signal)) / points
    order = np.lexsort((np.abs(typical - np.log(SIGNAL_TO_NOISE_SHOWN)), -points))[:CURVES_SHOWN]
    return [int(source) for source in sources[order]]


def _light_curve(comparison: Comparison, nested: pa.Table, source: int) -> LightCurve:
    """Return the measured curve of one source from its nested row, and its true one."""
    points = _points(nested, source)
    names = points[0].keys() if points else ()
    last = max((int(m[1]) for m in (re.fullmatch(r"flux_nJy_(\d+)", name) for name in names) if m), default=0)
    flux, error = _column(points, f"flux_nJy_{last}"), _column(points, f"flux_nJy_err_{last}")
    truth = comparison.truth.filter(pa.array(comparison.source_id == source))
    by_band = {row["band"]: row for row in truth.to_pylist()}
    amplitude, period = truth["amplitude"][0].as_py(), truth["period"][0].as_py()
    return LightCurve(
        name=f"source {source}: ±{amplitude:.2f} mag in {period:.0f} d",
        mjd=_column(points, "mjd"),
        flux=flux / NJY_PER_UJY,
        flux_err=error / NJY_PER_UJY,
        band=np.array([str(point["band"]) for point in points], dtype=np.str_),
        model={band: _true_curve(row) for band, row in by_band.items()},
    )


def _points(nested: pa.Table, source: int) -> list[dict[str, Any]]:
    absent = [name for name in ("source_id", "light_curve") if name not in nested.column_names]
    if absent:
        raise ColumnError(f"the light curves lack {', '.join(absent)}", found=", ".join(nested.column_names))
    rows = nested.filter(pa.array(nested["source_id"].to_numpy() == source))
    return [point for curve in rows["light_curve"].to_pylist() for point in curve]


def _column(points: list[dict[str, Any]], name: str) -> FloatArray:
    if points and name not in points[0]:
        raise ColumnError(f"the light curves lack {name}", found=", ".join(points[0]))
    return np.array([point[name] for point in points], dtype=np.float64)  # null becomes NaN


def _true_curve(row: dict[str, Any]) -> tuple[FloatArray, FloatArray]:
    mjd = np.linspace(FIRST_MJD - 3.0, FIRST_MJD + SURVEY_DAYS + 3.0, 400)
    wave = np.sin(2.0 * np.pi * (mjd - FIRST_MJD) / row["period"] + row["phase"])
    mag = row["mag_mean"] + row["amplitude"] * wave
    return mjd, 10.0 ** ((31.4 - mag) / 2.5) / NJY_PER_UJY
