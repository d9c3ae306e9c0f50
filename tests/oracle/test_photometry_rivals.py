"""Simulated images through the whole path, FITS to catalog store, against photutils and the definitions' formulas."""

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import sciplat
from tests.oracle.conftest import number

NX, NY = 210, 190
SCALE = 0.4 / 3600
SATURATION = 1500.0
GAIN, READ_NOISE = 2.5, 8.0
ZERO_POINT = 26.4
RADII = ("1.3 pix", "4 pix", "11.6 pix", "2 arcsec")
ANNULUS = (13.0, 21.5)


def wcs_cards():
    """Return a TAN-SIP WCS whose pixels differ by several percent in area across the image."""
    cos, sin = SCALE * np.cos(0.6), SCALE * np.sin(0.6)
    cards = {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "CRVAL1": 359.99, "CRVAL2": 52.0, "RADESYS": "ICRS"}
    cards |= {"CRPIX1": 90.3, "CRPIX2": 101.8, "CD1_1": -cos, "CD1_2": sin, "CD2_1": sin, "CD2_2": cos}
    cards |= {"A_ORDER": 3, "A_2_0": 1.2e-4, "A_1_1": -7e-5, "A_0_3": 3e-7}
    cards |= {"B_ORDER": 2, "B_0_2": -9e-5, "B_2_0": 6e-5}
    return cards


def header(name):
    """Return the header of the image that is called `name`: it tells the gain only where there is no variance."""
    cards = wcs_cards() | {"FILTER": "r", "EXPTIME": 60.0, "MJD-AVG": 60100.25, "TIMESYS": "TAI"}
    cards |= {"MAGZERO": ZERO_POINT, "SATURATE": SATURATION}
    return fits.Header(cards | ({"GAIN": GAIN, "RDNOISE": READ_NOISE} if name == "gain" else {}))


class Field:
    """One simulated exposure: sky with a gradient, stars, noise, and every kind of bad pixel."""

    def __init__(self):
        rng = np.random.default_rng(2024)
        jj, ii = np.mgrid[:NY, :NX]
        self.x = np.concatenate([rng.uniform(-0.5, NX - 0.5, 90), [-0.4, NX - 0.6, 100.2, 60.5]])
        self.y = np.concatenate([rng.uniform(-0.5, NY - 0.5, 90), [NY - 0.6, -0.4, 80.0, 70.5]])
        light = 200 + 0.3 * ii - 0.2 * jj
        for x, y, flux in zip(self.x, self.y, rng.lognormal(8, 1.2, len(self.x)), strict=True):
            light += flux / (2 * np.pi * 2.25) * np.exp(-((ii - x) ** 2 + (jj - y) ** 2) / 4.5)
        self.science = (light + rng.normal(0, np.sqrt(light / GAIN))).astype(np.float32)
        self.variance = (light / GAIN + (READ_NOISE / GAIN) ** 2).astype(np.float32)
        self.mask = np.where(rng.uniform(size=(NY, NX)) < 0.004, rng.integers(1, 2**12, (NY, NX)), 0).astype(np.int32)
        self.mask[40:44, 30:90] = 16
        self.science[rng.uniform(size=(NY, NX)) < 0.002] = np.nan
        self.worthless = rng.uniform(size=(NY, NX)) < 0.002
        # pixels without a variance are marked in the mask too, as a pipeline does
        self.mask[self.worthless] |= 1
        with np.errstate(invalid="ignore"):
            self.good = (self.mask == 0) & np.isfinite(self.science) & (self.science < SATURATION)
        self.wcs = WCS(fits.Header(wcs_cards()))

    def catalog(self):
        ra, dec = self.wcs.all_pix2world(self.x, self.y, 0)
        return pa.table({"source_id": np.arange(len(self.x)), "ra": ra, "dec": dec})


@pytest.fixture(scope="module")
def field():
    return Field()


PLANES = {
    "VAR": lambda variance: variance,
    "WHT": lambda variance: 1 / variance,
    "ERR": np.sqrt,
    "gain": None,
    "nothing": None,
}


@pytest.fixture(scope="module")
def stores(field, tmp_path_factory):
    """Write the exposure once for each way to say its noise, ingest all, and return images and catalog."""
    folder = tmp_path_factory.mktemp("field")
    (folder / "fits").mkdir()
    for name, convert in PLANES.items():
        planes = [fits.ImageHDU(field.science, header(name), name="SCI"), fits.ImageHDU(field.mask, name="DQ")]
        if convert is not None:
            values = np.where(field.worthless, 0, convert(field.variance)).astype(np.float32)
            planes.append(fits.ImageHDU(values, name=name))
        fits.HDUList([fits.PrimaryHDU(), *planes]).writeto(folder / "fits" / f"{name}.fits")
    images = sciplat.ingest_images(folder / "fits", folder / "images")
    return images, sciplat.ingest_catalog(field.catalog(), folder / "catalog")


def measure(stores, url, **options):
    """Return the rows of a photometry store for each image, in the order of the sources."""
    images, catalog = stores
    rows = images.photometry(catalog, **options).write(url).compute().to_pylist()
    found = {name: {} for name in PLANES}
    for row in rows:
        found[row["image_id"]][row["source_id"]] = row
    return {name: [by_id[identity] for identity in range(len(by_id))] for name, by_id in found.items()}


@pytest.fixture(scope="module")
def measured(stores, tmp_path_factory):
    annulus = tuple(f"{radius} pix" for radius in ANNULUS)
    return measure(stores, tmp_path_factory.mktemp("measured") / "median", radii=RADII, annulus=annulus)


@pytest.fixture(scope="module")
def radii(field, pixel_area):
    """Return the radii of all sources in pixels, one row for each source."""
    scale = np.sqrt(pixel_area(field.wcs, field.x, field.y))
    in_pixels = [float(text.split()[0]) / (scale if "arcsec" in text else 1) for text in RADII]
    return np.stack(np.broadcast_arrays(*in_pixels), axis=1)


def _variance(field, name):
    """Return the variance by the rules of the definitions, from what the file says."""
    if name == "gain":
        return np.maximum(field.science, 0).astype(float) / GAIN + (READ_NOISE / GAIN) ** 2
    return field.variance.astype(float)


def test_every_source_is_measured_at_its_pixel(field, measured):
    for rows in measured.values():
        assert len(rows) == len(field.x)
        np.testing.assert_allclose([row["x"] for row in rows], field.x, rtol=0, atol=1e-4)
        np.testing.assert_allclose([row["y"] for row in rows], field.y, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", PLANES)
def test_photometry_is_photutils_s(field, measured, radii, by_photutils, name):
    flags = set()
    for i, row in enumerate(measured[name]):
        for k, radius in enumerate(radii[i]):
            expected = by_photutils(
                field.science, _variance(field, name), field.good, field.x[i], field.y[i], radius, ANNULUS
            )
            assert row["background"] == pytest.approx(expected["background"], rel=1e-12)
            assert row["background_err"] == pytest.approx(expected["background_err"], rel=1e-9)
            assert number(row[f"flux_{k}"]) == pytest.approx(
                expected["flux"], abs=1e-6 * expected["total"], nan_ok=True
            )
            assert row[f"area_{k}"] == pytest.approx(expected["area"], abs=1e-6 * np.pi * radius**2)
            if name == "nothing":
                assert row[f"flux_err_{k}"] is None
                assert row[f"flags_{k}"] & 16
            else:
                assert number(row[f"flux_err_{k}"]) == pytest.approx(expected["flux_err"], rel=1e-6, nan_ok=True)
                assert not row[f"flags_{k}"] & 16
            flags.add(row[f"flags_{k}"] & 7)
    assert {0, 1, 2, 3} <= flags


@pytest.mark.parametrize("method", ["mean", "mode"])
def test_other_backgrounds_are_astropy_s(field, stores, by_photutils, tmp_path, method):
    annulus = tuple(f"{radius} pix" for radius in ANNULUS)
    rows = measure(stores, tmp_path / method, radii=["4 pix"], annulus=annulus, background=method)["VAR"]
    for i, row in enumerate(rows):
        expected = by_photutils(field.science, field.variance, field.good, field.x[i], field.y[i], 4.0, ANNULUS, method)
        assert row["background"] == pytest.approx(expected["background"], rel=1e-9)
        assert row["background_err"] == pytest.approx(expected["background_err"], rel=1e-9)
        assert row["flux_0"] == pytest.approx(expected["flux"], abs=1e-6 * expected["total"])
        assert row["flux_err_0"] == pytest.approx(expected["flux_err"], rel=1e-6)


def test_without_an_annulus_nothing_is_taken_out(field, stores, by_photutils, tmp_path):
    rows = measure(stores, tmp_path / "plain", radii=["4 pix"])["VAR"]
    for i, row in enumerate(rows):
        expected = by_photutils(field.science, field.variance, field.good, field.x[i], field.y[i], 4.0)
        assert row["background"] is row["background_err"] is None
        assert row["flux_0"] == pytest.approx(expected["flux"], abs=1e-6 * expected["total"])
        assert row["flux_err_0"] == pytest.approx(expected["flux_err"], rel=1e-6)


def test_a_sky_radius_follows_the_local_scale(field, measured, radii):
    """One fixed scale would be seen: the same 2 arcsec are several percent more pixels at one end of the image."""
    arcsec = radii[:, 3]
    assert arcsec.max() / arcsec.min() > 1.02
    clean = [i for i, row in enumerate(measured["VAR"]) if row["flags_3"] == 0]
    assert len(clean) > 20
    area = [measured["VAR"][i]["area_3"] for i in clean]
    np.testing.assert_allclose(area, np.pi * arcsec[clean] ** 2, rtol=1e-6)


def test_calibrated_columns_follow_the_zero_point(measured, calibrated):
    for row in measured["VAR"]:
        for k in range(len(RADII)):
            calibrated(row, k, ZERO_POINT)


def test_a_saturated_pixel_is_flagged(field, measured):
    with np.errstate(invalid="ignore"):
        saturated = field.science >= SATURATION
    assert saturated.any()
    jj, ii = np.nonzero(saturated)
    for i, row in enumerate(measured["VAR"]):
        dx = np.maximum(np.abs(ii - field.x[i]) - 0.5, 0)
        dy = np.maximum(np.abs(jj - field.y[i]) - 0.5, 0)
        assert bool(row["flags_1"] & 4) == (np.hypot(dx, dy) < 4).any()


def test_a_pixel_without_weight_is_bad_in_the_annulus_as_in_the_circle(field, by_photutils, tmp_path):
    """A file without a mask says by its weights alone which pixels are worth nothing."""
    science = np.where(field.worthless, 1000.0, field.science).astype(np.float32)
    weight = np.where(field.worthless, 0, 1 / field.variance).astype(np.float32)
    planes = [fits.ImageHDU(science, header("WHT"), name="SCI"), fits.ImageHDU(weight, name="WHT")]
    fits.HDUList([fits.PrimaryHDU(), *planes]).writeto(tmp_path / "WHT.fits")
    images = sciplat.ingest_images(tmp_path / "WHT.fits", tmp_path / "images")
    catalog = sciplat.ingest_catalog(field.catalog(), tmp_path / "catalog")
    annulus = tuple(f"{radius} pix" for radius in ANNULUS)
    rows = images.photometry(catalog, radii=["4 pix"], annulus=annulus).compute()
    with np.errstate(invalid="ignore"):
        good = ~field.worthless & np.isfinite(science) & (science < SATURATION)
    for row in rows.to_pylist():
        x, y = field.x[row["source_id"]], field.y[row["source_id"]]
        expected = by_photutils(science, field.variance, good, x, y, 4.0, ANNULUS)
        assert row["area_0"] == pytest.approx(expected["area"], rel=1e-6)
        assert row["background"] == pytest.approx(expected["background"], rel=1e-9)
