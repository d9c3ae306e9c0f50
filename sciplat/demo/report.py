"""The verdict on a demo run: numbers, pictures and one page."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from sciplat.demo.compare import OUTLIER_PULL, Comparison, PullSummary, compare
from sciplat.demo.page import render_page
from sciplat.demo.pictures import draw_pictures
from sciplat.errors import MeasurementError

POSITION_TOLERANCE = 1e-3  # pixels


@dataclass(frozen=True)
class Report:
    """The verdict on a demo run, and where its page and pictures are.

    Attributes
    ----------
    comparison : Comparison
        Counts and measurements beside their truth.
    pulls : tuple of PullSummary
        One per band, and the last over all.
    page, sky_map, fluxes, light_curves : Path
        ``report.html`` and the three pictures.
    """

    comparison: Comparison
    pulls: tuple[PullSummary, ...]
    page: Path
    sky_map: Path
    fluxes: Path
    light_curves: Path

    @property
    def passed(self) -> bool:
        """Whether all was measured exactly once, in the right place, with pulls of mean 0 and width 1."""
        return not self.failures()

    def failures(self) -> list[str]:
        """Return what is wrong, one line each; empty if the run passed."""
        return _failures(self.comparison, self.pulls)

    def check(self) -> None:
        """Raise unless the run passed.

        Raises
        ------
        MeasurementError
            With every number that is wrong.
        """
        failures = self.failures()
        if failures:
            raise MeasurementError(
                "the measurements do not agree with the truth",
                found="; ".join(failures),
                hint=f"see {self.page}",
            )

    def table(self) -> list[tuple[str, str, str]]:
        """Return rows (what, found, expected) for a terminal."""
        return _rows(self.comparison, self.pulls)


def make_report(
    measurements: pa.Table,
    truth: pa.Table,
    light_curves: pa.Table,
    folder: str | Path,
    *,
    run: Mapping[str, str],
    radius: float = 8.0,
) -> Report:
    """Compare measurements with the truth, and write pictures and a page under `folder`.

    Parameters
    ----------
    measurements : pyarrow.Table
        Columns as forced photometry makes them, and ra, dec. The aperture of the highest number is judged.
    truth : pyarrow.Table
        As `sciplat.demo.simulate.simulate_survey` writes it.
    light_curves : pyarrow.Table
        One row per source_id, with the list of structs ``light_curve`` (mjd, band, flux_nJy_k,
        flux_nJy_err_k).
    folder : str or Path
        Where ``report.html``, ``sky_map.png``, ``fluxes.png`` and ``light_curves.png`` are written.
    run : mapping of str to str
        Facts about the run for the page: times, versions, arguments.
    radius : float
        Radius of the judged aperture in pixels; the light outside of it is allowed for (see `compare`). At
        8 px it is less than 1e-4 of a star's flux.

    Returns
    -------
    Report

    Raises
    ------
    ColumnError
        If a table lacks a column.
    MissingDependency
        If matplotlib is not installed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    comparison = compare(measurements, truth, radius=radius)
    pulls = comparison.summaries()
    pictures = draw_pictures(comparison, light_curves, folder)
    page = folder / "report.html"
    text = render_page(failures=_failures(comparison, pulls), rows=_rows(comparison, pulls), run=run, pictures=pictures)
    page.write_text(text, encoding="utf-8")
    return Report(comparison, pulls, page, *(picture.path for picture in pictures))


def _failures(comparison: Comparison, pulls: tuple[PullSummary, ...]) -> list[str]:
    counts = {
        "missing": comparison.missing,
        "made more than once": comparison.duplicates,
        "of nothing expected": comparison.unexpected,
    }
    lines = [f"measurements {name}: {count:,}" for name, count in counts.items() if count]
    if not comparison.position_error <= POSITION_TOLERANCE:  # NaN fails
        lines.append(f"positions are off by up to {comparison.position_error:.2g} px")
    lines += [
        f"pulls ({pull.name}): mean {pull.mean:+.3f}, width {pull.width:.3f} of {pull.n:,}"
        for pull in pulls
        if not pull.passed
    ]
    return lines


def _rows(comparison: Comparison, pulls: tuple[PullSummary, ...]) -> list[tuple[str, str, str]]:
    total = pulls[-1]
    rows = [
        ("measurements", f"{comparison.n_measured:,}", f"{comparison.n_expected:,}"),
        (
            "missing / more than once / unexpected",
            f"{comparison.missing:,} / {comparison.duplicates:,} / {comparison.unexpected:,}",
            "0 / 0 / 0",
        ),
        ("largest position error", f"{comparison.position_error:.1e} px", f"at most {POSITION_TOLERANCE} px"),
        ("clean measurements (no flags)", f"{total.n:,}", ""),
    ]
    for pull in pulls:
        rows.append((f"mean pull, {pull.name}", f"{pull.mean:+.3f}", f"0 ± {pull.mean_tolerance:.2f}"))
        rows.append((f"width of pulls, {pull.name}", f"{pull.width:.3f}", f"1 ± {pull.width_tolerance:.2f}"))
    rows.append((f"pulls beyond {OUTLIER_PULL:.0f}", f"{total.outliers:,}", "counted, not removed"))
    rows.append(("median flux ratio, S/N > 20", f"{total.flux_ratio:.4f}", "1"))
    return rows
