"""Measurements against the truth: what is missing, and the pulls (measured - true flux) / error.

Pulls are those of the last aperture in nJy, so that the whole path (pixels, background, errors, zero point)
is judged. Nothing is clipped: outliers are counted.
"""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sciplat.errors import ColumnError

FloatArray = npt.NDArray[np.float64]

TOLERANCE = 0.05
OUTLIER_PULL = 5.0
RATIO_SIGNAL_TO_NOISE = 20.0
IDENTITY = ("source_id", "image_id", "ra", "dec", "x", "y")


@dataclass(frozen=True)
class PullSummary:
    """The pulls of the clean measurements of one band (or of all).

    Attributes
    ----------
    name : str
        The band, or "all".
    n : int
        Clean measurements: without flags in the last aperture.
    mean, width : float
        Mean and sample standard deviation of the pulls; NaN for fewer than two.
    outliers : int
        Pulls beyond 5; they are part of mean and width.
    flux_ratio : float
        Median of measured / true flux where the true flux exceeds 20 errors; NaN if none does.
    """

    name: str
    n: int
    mean: float
    width: float
    outliers: int
    flux_ratio: float

    @property
    def mean_tolerance(self) -> float:
        """Largest accepted |mean|: 0.05, or four standard errors where so few measurements cannot tell."""
        return float(max(TOLERANCE, 4.0 / np.sqrt(max(1, self.n))))

    @property
    def width_tolerance(self) -> float:
        """Largest accepted |width - 1|: 0.05, or four standard errors."""
        return float(max(TOLERANCE, 4.0 / np.sqrt(2.0 * max(1, self.n))))

    @property
    def passed(self) -> bool:
        """Whether the pulls are those of right fluxes with right errors; NaN is not."""
        return abs(self.mean) <= self.mean_tolerance and abs(self.width - 1.0) <= self.width_tolerance


@dataclass(frozen=True)
class Comparison:
    """Measurements beside their truth.

    Attributes
    ----------
    n_measured, n_expected : int
        Rows measured, and sources whose true centre lies inside an image.
    missing, duplicates, unexpected : int
        Expected pairs of source and image without a row; rows beyond the first of a pair; rows of no
        such pair.
    position_error : float
        Largest distance, in pixels, of a measured from a true position; NaN if nothing was measured.
    truth : pyarrow.Table
        The truth of each row that is expected (doubled ones too), to which the arrays below belong.
    source_id, image_id, ra, dec, band : (n,) array
        Identity and position (deg) of the same rows.
    true_flux, flux, flux_err : (n,) array
        True flux inside the last aperture, measured flux and error, in nJy.
    clean : (n,) array of bool
        Whether the last aperture has no flag.
    """

    n_measured: int
    n_expected: int
    missing: int
    duplicates: int
    unexpected: int
    position_error: float
    truth: pa.Table
    source_id: npt.NDArray[np.int64]
    image_id: npt.NDArray[np.str_]
    ra: FloatArray
    dec: FloatArray
    band: npt.NDArray[np.str_]
    true_flux: FloatArray
    flux: FloatArray
    flux_err: FloatArray
    clean: npt.NDArray[np.bool_]

    def summaries(self) -> tuple[PullSummary, ...]:
        """Return the pulls of each band in alphabetical order, and of all last."""
        bands = [(str(name), self.band == name) for name in np.unique(self.band)]
        return tuple(self._summary(name, own & self.clean) for name, own in [*bands, ("all", self.clean)])

    def _summary(self, name: str, own: npt.NDArray[np.bool_]) -> PullSummary:
        true, flux, error = self.true_flux[own], self.flux[own], self.flux_err[own]
        pull = (flux - true) / error
        enough = len(pull) > 1
        bright = true > RATIO_SIGNAL_TO_NOISE * error
        return PullSummary(
            name=name,
            n=len(pull),
            mean=float(np.mean(pull)) if enough else float("nan"),
            width=float(np.std(pull, ddof=1)) if enough else float("nan"),
            outliers=int(np.count_nonzero(np.abs(pull) > OUTLIER_PULL)),
            flux_ratio=float(np.median(flux[bright] / true[bright])) if bright.any() else float("nan"),
        )


def compare(measurements: pa.Table, truth: pa.Table, *, radius: float) -> Comparison:
    """Put each measurement beside its truth.

    Parameters
    ----------
    measurements : pyarrow.Table
        Columns as forced photometry makes them, and ra, dec. The aperture of the highest number is judged.
    truth : pyarrow.Table
        As `sciplat.demo.simulate.simulate_survey` writes it.
    radius : float
        Radius of that aperture in pixels. The true flux is multiplied by the share of a star's light inside,
        1 - exp(-radius^2 / (2 (sigma^2 + 1/6))): integrating a Gaussian over pixels, and taking each pixel as
        uniform, add 1/12 px^2 each to the squared true width sigma^2 of the PSF.

    Raises
    ------
    ColumnError
        If the measurements lack a column.
    """
    last = _last_aperture(measurements)
    columns = (*IDENTITY, f"flags_{last}", f"flux_nJy_err_{last}")
    absent = [name for name in columns if name not in measurements.column_names]
    if absent:
        raise ColumnError(f"the measurements lack {', '.join(absent)}", found=", ".join(measurements.column_names))
    row = _truth_rows(measurements, truth)
    known = row >= 0
    n_expected = int(np.count_nonzero(truth["inside"]))
    n_pairs = len(np.unique(row[known]))
    measured, true = measurements.filter(pa.array(known)), truth.take(pa.array(row[known]))
    share = -np.expm1(-(radius**2) / (2.0 * (_floats(true, "psf_sigma") ** 2 + 1.0 / 6.0)))
    offset = np.hypot(_floats(measured, "x") - _floats(true, "x"), _floats(measured, "y") - _floats(true, "y"))
    return Comparison(
        n_measured=measurements.num_rows,
        n_expected=n_expected,
        missing=n_expected - n_pairs,
        duplicates=int(np.count_nonzero(known)) - n_pairs,
        unexpected=int(np.count_nonzero(~known)),
        position_error=float(offset.max()) if len(offset) else float("nan"),
        truth=true,
        source_id=measured["source_id"].to_numpy(),
        image_id=_texts(measured, "image_id"),
        ra=_floats(measured, "ra"),
        dec=_floats(measured, "dec"),
        band=_texts(true, "band"),
        true_flux=_floats(true, "flux_nJy") * share,
        flux=_floats(measured, f"flux_nJy_{last}"),
        flux_err=_floats(measured, f"flux_nJy_err_{last}"),
        clean=measured[f"flags_{last}"].to_numpy() == 0,
    )


def _last_aperture(measurements: pa.Table) -> int:
    numbers = [re.fullmatch(r"flux_nJy_(\d+)", name) for name in measurements.column_names]
    apertures = [int(match[1]) for match in numbers if match]
    if not apertures:
        raise ColumnError("the measurements lack flux_nJy_0", found=", ".join(measurements.column_names))
    return max(apertures)


def _truth_rows(measurements: pa.Table, truth: pa.Table) -> npt.NDArray[np.int64]:
    """Return for each measurement the row of its truth, or -1 where no such source is inside the image."""
    pairs = zip(truth["image_id"].to_pylist(), truth["source_id"].to_pylist(), strict=True)
    inside = truth["inside"].to_pylist()
    rows = {pair: i for i, pair in enumerate(pairs) if inside[i]}
    wanted = zip(measurements["image_id"].to_pylist(), measurements["source_id"].to_pylist(), strict=True)
    return np.array([rows.get(pair, -1) for pair in wanted], dtype=np.int64)


def _floats(table: pa.Table, name: str) -> FloatArray:
    return np.asarray(table[name].to_numpy(), dtype=np.float64)  # nulls become NaN


def _texts(table: pa.Table, name: str) -> npt.NDArray[np.str_]:
    return np.asarray(table[name].to_pylist(), dtype=np.str_)
