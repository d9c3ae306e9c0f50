"""A simulated survey with known truth: images on disk, a reference catalog, and what is really there.

Stars of known flux are drawn through the true WCS by astropy and this module's own arithmetic, never by the
kernels under test. The bytes depend on the arguments and the seed, not on the number of workers.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.wcs import WCS

from sciplat.demo import survey
from sciplat.demo.exposure import draw_image, write_image
from sciplat.errors import ArgumentError
from sciplat.tasks.progress import progress


@dataclass(frozen=True)
class Survey:
    """A survey on disk.

    Attributes
    ----------
    images : Path
        Folder of ``demo_f<field>_e<epoch>_<band>.fits.fz`` files with the extensions SCI, VAR and MASK.
    reference : Path
        Parquet of the reference catalog: source_id, ra, dec (deg, ICRS), mag_<band> (AB), variable.
    truth : Path
        Parquet with one row per source of a field and image of that field: see `simulate_survey`.
    n_images, n_reference, n_truth, n_inside : int
        Numbers of images, of reference rows, of truth rows, and of truth rows inside their image.
    """

    images: Path
    reference: Path
    truth: Path
    n_images: int
    n_reference: int
    n_truth: int
    n_inside: int


def simulate_survey(
    folder: str | Path,
    *,
    fields: int = 12,
    epochs: int = 3,
    bands: Sequence[str] = ("g", "r"),
    size: int = 1024,
    sources_per_field: int = 300,
    reference_rows: int = 100_000,
    seed: int = 1,
    workers: int = 2,
) -> Survey:
    """Simulate a survey of the whole sky and write it under `folder`.

    Parameters
    ----------
    folder : str or Path
        Where ``images/``, ``reference.parquet`` and ``truth.parquet`` are written.
    fields : int
        Pointings: both poles, one across RA = 0, one at a corner of HEALPix base cells, the others spread
        evenly.
    epochs : int
        Exposures of each field and band, spread over 100 days.
    bands : sequence of str
        Names of the bands.
    size : int
        Pixels along each side of an image; a pixel is 0.4 arcsec.
    sources_per_field : int
        Fewest sources inside every image, at least 40 px apart.
    reference_rows : int
        Rows of the reference catalog, those of the fields included.
    seed : int
        Seed of everything.
    workers : int
        Threads. numpy and the compression release the interpreter lock, so processes are not needed.

    Returns
    -------
    Survey
        The paths and counts. Truth columns: source_id, image_id (file name without ``.fits.fz``), field,
        band, mjd (TAI, middle), x, y (px, 0-based), inside (centre on the array), mag (AB), flux (adu),
        flux_nJy, psf_sigma (px), variable, and the light curve's mag_mean, amplitude (mag), period (days)
        and phase (radians).

    Raises
    ------
    ArgumentError
        If the survey is empty, its sources do not fit, or ``images/`` holds files already.
    """
    folder = Path(folder)
    images = folder / "images"
    _check(images, fields, epochs, bands, sources_per_field)
    images.mkdir(parents=True, exist_ok=True)
    centres = survey.field_centres(fields)
    stars = [survey.place_sources(seed, f, centres[f], size, sources_per_field, len(bands)) for f in range(fields)]
    reference = _reference_table(seed, stars, centres, reference_rows, size, bands)
    exposures = [
        survey.take_exposure(seed, f, centres[f], size, (e, epochs), (b, band))
        for f in range(fields)
        for e in range(epochs)
        for b, band in enumerate(bands)
    ]

    def simulate(exposure: survey.Exposure) -> pa.Table:
        return _simulate_image(images, exposure, stars[exposure.field], seed)

    truths = progress(_in_threads(simulate, exposures, workers), what="simulate", total=len(exposures))
    truth = pa.concat_tables(list(truths))
    pq.write_table(truth, folder / "truth.parquet")
    pq.write_table(reference, folder / "reference.parquet")
    return Survey(
        images=images,
        reference=folder / "reference.parquet",
        truth=folder / "truth.parquet",
        n_images=len(exposures),
        n_reference=reference.num_rows,
        n_truth=truth.num_rows,
        n_inside=int(np.count_nonzero(truth["inside"])),
    )


def _check(images: Path, fields: int, epochs: int, bands: Sequence[str], sources: int) -> None:
    if min(fields, epochs, len(bands), sources) < 1:
        raise ArgumentError(
            "a survey needs at least one field, epoch, band and source",
            found=f"fields={fields}, epochs={epochs}, bands={tuple(bands)}, sources_per_field={sources}",
        )
    if images.is_dir() and any(images.iterdir()):
        raise ArgumentError(f"{images} holds files already", hint="name another folder, or remove this one")


def _in_threads(
    simulate: Callable[[survey.Exposure], pa.Table], exposures: Sequence[survey.Exposure], workers: int
) -> Iterator[pa.Table]:
    # astropy fills its table of dither values at the first use, without a lock and without the interpreter's:
    # two threads that come first together write wrong pixels. The first image, alone, fills it.
    yield simulate(exposures[0])
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(simulate, exposures[1:])


def _simulate_image(images: Path, exposure: survey.Exposure, stars: survey.FieldSources, seed: int) -> pa.Table:
    # A smaller tolerance than astropy's 1e-4 px: the truth must not be what limits a comparison.
    x, y = WCS(exposure.wcs_cards).all_world2pix(stars.ra, stars.dec, 0, tolerance=1e-9)
    mag = stars.mag_at(exposure.mjd, exposure.band_index)
    flux = 10.0 ** (0.4 * (exposure.zero_point - mag))
    rng = survey.random_stream(seed, "pixels", exposure.field, exposure.epoch, exposure.band_index)
    image = draw_image(exposure, x, y, flux, rng)
    write_image(images / f"{exposure.image_id}.fits.fz", image, exposure, int(rng.integers(1, 10_000)))
    n, edge = len(x), exposure.size - 0.5
    variable = stars.amplitude > 0
    return pa.table(
        {
            "source_id": stars.source_id,
            "image_id": pa.array([exposure.image_id] * n),
            "field": np.full(n, exposure.field, dtype=np.int32),
            "band": pa.array([exposure.band] * n),
            "mjd": np.full(n, exposure.mjd),
            "x": x,
            "y": y,
            "inside": (x >= -0.5) & (x < edge) & (y >= -0.5) & (y < edge),
            "mag": mag,
            "flux": flux,
            "flux_nJy": 10.0 ** ((31.4 - mag) / 2.5),
            "psf_sigma": np.full(n, exposure.psf_sigma),
            "variable": variable,
            "mag_mean": stars.mag[:, exposure.band_index],
            "amplitude": stars.amplitude,
            "period": pa.array(stars.period, mask=~variable),
            "phase": pa.array(stars.phase, mask=~variable),
        }
    )


def _reference_table(
    seed: int,
    stars: Sequence[survey.FieldSources],
    centres: survey.FloatArray,
    rows: int,
    size: int,
    bands: Sequence[str],
) -> pa.Table:
    """Return the reference catalog, shuffled: the sources of the fields and a random sky around them."""
    known = sum(len(field.ra) for field in stars)
    if rows < known:
        raise ArgumentError(f"reference_rows={rows} is too few", found=f"{known} sources in the fields alone")
    rest = rows - known
    ra, dec = survey.reference_positions(seed, rest, centres, 2.0 * survey.field_radius(size))
    mag = np.concatenate([*(field.mag for field in stars), survey.reference_magnitudes(seed, rest, len(bands))])
    order = survey.random_stream(seed, "reference", 2).permutation(rows)
    columns = {
        "source_id": np.concatenate([*(field.source_id for field in stars), 10**12 + np.arange(rest, dtype=np.int64)]),
        "ra": np.concatenate([*(field.ra for field in stars), ra]),
        "dec": np.concatenate([*(field.dec for field in stars), dec]),
        **{f"mag_{band}": mag[:, index] for index, band in enumerate(bands)},
        "variable": np.concatenate([*(field.amplitude > 0 for field in stars), np.zeros(rest, dtype=bool)]),
    }
    return pa.table({name: values[order] for name, values in columns.items()})
