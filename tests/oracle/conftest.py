"""What the oracle tests share: other people's libraries, and photometry that owes nothing to our kernels."""

import shutil
from importlib import import_module

import numpy as np
import pytest

from tests.conftest import required

_AB_NJY = 31.4


@pytest.fixture(scope="session")
def rival():
    """Return a function that imports another library, or skips; under SCIPLAT_REQUIRE=rivals it fails."""
    return import_module if required("rivals") else pytest.importorskip


@pytest.fixture(scope="session")
def stilts():
    """Return the command, or skip; under SCIPLAT_REQUIRE=stilts it fails."""
    command = shutil.which("stilts")
    if command is None and required("stilts"):
        pytest.fail("SCIPLAT_REQUIRE asks for stilts, and there is no such command")
    return command or pytest.skip("stilts is not installed")


@pytest.fixture(scope="session")
def by_photutils(rival):
    """Return photutils' measurement of one circle and its annulus, with the formulas of the definitions."""
    aperture = rival("photutils.aperture")

    def measure(science, variance, good, x, y, radius, annulus=None, method="median"):
        science, bad = science.astype(float), ~good
        level, level_error = 0.0, 0.0
        if annulus is not None:
            ring = aperture.CircularAnnulus((x, y), *annulus).to_mask(method="center")
            level, level_error = local_background(ring.get_values(science, mask=bad), method)
        circle = aperture.CircularAperture((x, y), radius)
        difference = np.where(good, science - level, 0.0)
        error = np.sqrt(np.where(good, variance, 0.0))
        sums = aperture.aperture_photometry(difference, circle, error=error, mask=bad, method="exact")
        area = float(circle.area_overlap(science, mask=bad, method="exact"))
        total = aperture.aperture_photometry(np.where(good, np.abs(science), 0.0), circle, mask=bad, method="exact")
        flux, flux_err = (
            float(sums["aperture_sum"][0]),
            float(np.hypot(sums["aperture_sum_err"][0], area * level_error)),
        )
        return {
            "background": level,
            "background_err": level_error,
            # photutils sums nothing to 0; we give no flux where no pixel is good
            "flux": flux if area else np.nan,
            "flux_err": flux_err if area else np.nan,
            "area": area,
            "total": float(total["aperture_sum"][0]),
        }

    return measure


@pytest.fixture(scope="session")
def pixel_area():
    """Return the solid angle of a pixel, arcsec^2, from differences of astropy's sky positions around it."""
    from astropy.wcs.utils import pixel_to_skycoord

    def area(wcs, x, y, half=0.1):
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        centre = pixel_to_skycoord(x, y, wcs, origin=0)
        steps = []
        for dx, dy in ((half, 0.0), (0.0, half)):
            ahead = centre.spherical_offsets_to(pixel_to_skycoord(x + dx, y + dy, wcs, origin=0))
            back = centre.spherical_offsets_to(pixel_to_skycoord(x - dx, y - dy, wcs, origin=0))
            steps.append([(a - b).arcsec / (2 * half) for a, b in zip(ahead, back, strict=True)])
        (east_x, north_x), (east_y, north_y) = steps
        return np.abs(east_x * north_y - east_y * north_x)

    return area


def number(value):
    """Return NaN for null, to be compared with approx(nan_ok=True)."""
    return np.nan if value is None else value


def local_background(pixels, method):
    """Return level and standard error of an annulus's pixels by astropy's statistics."""
    from astropy.stats import SigmaClip, mad_std

    if method == "median":
        return float(np.median(pixels)), float(mad_std(pixels) * np.sqrt(np.pi / 2 / len(pixels)))
    clip = SigmaClip(sigma=3, maxiters=5, cenfunc="median", stdfunc="mad_std")
    kept = clip(pixels, masked=False)
    mean = float(np.mean(kept))
    level = mean if method == "mean" else 3 * float(np.median(kept)) - 2 * mean
    # of normal pixels: median and mean have variances pi/2 and 1, and covariance 1
    spread = 1 if method == "mean" else 9 * np.pi / 2 + 4 - 12
    return level, float(np.std(kept) * np.sqrt(spread / len(kept)))


@pytest.fixture(scope="session")
def calibrated():
    """Return a check of the calibrated columns of one row against its flux and zero point."""

    def check(row, k, zero_point):
        flux, error = row[f"flux_{k}"], row[f"flux_err_{k}"]
        names = [f"{name}_{k}" for name in ("flux_nJy", "flux_nJy_err", "mag", "mag_err")]
        assert bool(row[f"flags_{k}"] & 32) == (zero_point is None)
        if zero_point is None:
            assert [row[name] for name in names] == [None] * 4
            return
        if flux is None:
            assert row[f"area_{k}"] == 0
            assert [row[name] for name in names] == [None] * 4
            return
        unit = 10 ** ((_AB_NJY - zero_point) / 2.5)
        assert row[names[0]] == pytest.approx(flux * unit, rel=1e-12)
        assert row[names[1]] == pytest.approx(error * unit, rel=1e-12)
        if flux > 0:
            assert row[names[2]] == pytest.approx(zero_point - 2.5 * np.log10(flux), abs=1e-10)
            assert row[names[3]] == pytest.approx(2.5 / np.log(10) * error / flux, rel=1e-10)
        else:
            assert [row[name] for name in names[2:]] == [None, None]

    return check


def survey(n=2000, seed=4):
    """Return positions with an identity, a magnitude with gaps, and a text, as a data frame."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "objid": np.arange(n),
            "ra": rng.uniform(0, 360, n),
            "dec": np.degrees(np.arcsin(rng.uniform(-1, 1, n))),
            "mag": np.where(rng.uniform(size=n) < 0.1, np.nan, rng.normal(20, 1, n)),
            "band": rng.choice(["g", "r"], n),
        }
    )


@pytest.fixture(scope="session")
def by_hats_import(rival, tmp_path_factory):
    """Return a function that lets hats-import make a catalog of `survey` and gives its folder."""
    arguments = rival("hats_import.catalog.arguments")
    pipeline = rival("hats_import.pipeline")
    distributed = rival("distributed")
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0")

    def make(name, **options):
        folder = tmp_path_factory.mktemp(name)
        survey().to_parquet(folder / "survey.parquet")
        about = arguments.ImportArguments(
            output_artifact_name=name,
            output_path=folder,
            input_file_list=[folder / "survey.parquet"],
            file_reader="parquet",
            ra_column="ra",
            dec_column="dec",
            pixel_threshold=100,
            highest_healpix_order=4,
            progress_bar=False,
            **options,
        )
        with distributed.Client(cluster) as client:  # our own work must not find it
            pipeline.pipeline_with_client(about, client)
        return folder / name

    yield make
    cluster.close()
