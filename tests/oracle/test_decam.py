"""Six DECam cutouts (TPV, FK5, sibling weight and mask files) against astropy, sep and photutils on the same pixels."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import sciplat
from tests.oracle.conftest import number

RADII = {"3 pix": 3.0, "7.3 pix": 7.3, "1.5 arcsec": None}
ANNULUS = (10.0, 18.0)
PER_IMAGE = 80
# codes of the ood files: bad, no value, saturated, bleed, cosmic ray, low weight, difference (not bad), streak
BAD_CODES = (1, 2, 3, 4, 5, 6, 8)
SATURATED_CODE = 3


class Cutout:
    """One exposure as astropy reads it: pixels, good pixels, WCS in its own frame, and sources made in pixels."""

    def __init__(self, path, number):
        from astropy.io import fits
        from astropy.wcs import WCS

        self.name = path.name.removesuffix(".fits")
        with fits.open(path) as file:
            primary, header = file[0].header, file[1].header
            self.science = file[1].data.astype(np.float64)
        self.weight = fits.getdata(str(path).replace("_ooi_", "_oow_"), 1).astype(np.float64)
        self.codes = fits.getdata(str(path).replace("_ooi_", "_ood_"), 1)
        self.good = ~np.isin(self.codes, BAD_CODES) & (self.weight > 0) & (self.science < header["SATURATE"])
        self.variance = np.where(self.weight > 0, 1 / np.where(self.weight > 0, self.weight, 1), np.nan)
        self.band, self.exposure = primary["FILTER"].split()[0], primary["EXPTIME"]
        assert primary["TIMESYS"] == "UTC"
        self.start = primary["MJD-OBS"]
        # the frame stands in the primary header, from which the image inherits it
        header["RADESYS"], header["EQUINOX"] = primary["RADESYS"], primary["EQUINOX"]
        self.wcs = WCS(header)
        ny, nx = self.science.shape
        rng = np.random.default_rng(number)
        self.x, self.y = rng.uniform(-0.45, nx - 0.55, PER_IMAGE), rng.uniform(-0.45, ny - 0.55, PER_IMAGE)
        self.ids = 1000 * number + np.arange(PER_IMAGE)

    def sky(self):
        """Return the sources' ICRS positions, by astropy alone."""
        from astropy.wcs.utils import pixel_to_skycoord, wcs_to_celestial_frame

        assert wcs_to_celestial_frame(self.wcs).name == "fk5"
        return pixel_to_skycoord(self.x, self.y, self.wcs, origin=0).icrs


@pytest.fixture(scope="module")
def folder(data):
    return data / "decam_testcase6"


@pytest.fixture(scope="module")
def cutouts(folder):
    paths = sorted(Path(folder).rglob("*_ooi_*.fits"))
    return {cutout.name: cutout for cutout in (Cutout(path, number) for number, path in enumerate(paths, start=1))}


@pytest.fixture(scope="module")
def stores(folder, tmp_path_factory):
    """Ingest the exposures by the profile that is found, and by name with their zero points."""
    out = tmp_path_factory.mktemp("decam")
    found = sciplat.ingest_images(folder / "decam", out / "found")
    table = folder / "survey-ccds-1.fits.gz"
    return found, sciplat.ingest_images(folder / "decam", out / "named", profile="decam", zero_points=table)


@pytest.fixture(scope="module")
def measured(stores, cutouts, tmp_path_factory):
    """Measure every source, and return for each store and image the rows of the image's own sources in their order."""
    out = tmp_path_factory.mktemp("measured")
    sky = [cutout.sky() for cutout in cutouts.values()]
    table = pa.table(
        {
            "source_id": np.concatenate([cutout.ids for cutout in cutouts.values()]),
            "ra": np.concatenate([position.ra.deg for position in sky]),
            "dec": np.concatenate([position.dec.deg for position in sky]),
        }
    )
    catalog = sciplat.ingest_catalog(table, out / "catalog")
    annulus = tuple(f"{radius} pix" for radius in ANNULUS)
    tables = []
    for turn, images in enumerate(stores):
        plan = images.photometry(catalog, radii=list(RADII), annulus=annulus)
        rows = plan.write(out / f"photometry_{turn}").compute().to_pylist()
        own = {name: {} for name in cutouts}
        for row in rows:
            if row["source_id"] in cutouts[row["image_id"]].ids:
                own[row["image_id"]][row["source_id"]] = row
        tables.append({name: [own[name][identity] for identity in cutouts[name].ids] for name in cutouts})
    return tables


NAMES = [
    "c4d_150110_053718_ooi_z_ls9.S4",
    "c4d_171113_061941_ooi_r_ls9.S4",
    "c4d_181104_072440_ooi_g_ls9.S4",
    "c4d_181214_050844_ooi_g_ls9.S9",
    "c4d_181215_045000_ooi_z_ls9.S9",
    "c4d_181215_051332_ooi_r_ls9.S9",
]


def test_both_ways_to_the_profile_find_the_same_images(stores, cutouts):
    from astropy.time import Time

    assert sorted(cutouts) == NAMES
    for images in stores:
        assert sorted(images.rows["image_id"].to_pylist()) == NAMES
        assert images.report["refused"] == []
    for image in stores[0].rows.to_pylist():
        cutout = cutouts[image["image_id"]]
        assert (image["band"], image["instrument"]) == (cutout.band, "DECam")
        assert (image["ny"], image["nx"]) == cutout.science.shape
        middle = Time(cutout.start + cutout.exposure / 2 / 86400, format="mjd", scale="utc").tai.mjd
        assert image["mjd"] == pytest.approx(middle, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_planes_hold_the_files_pixels_weights_and_codes(stores, cutouts, name):
    cutout = cutouts[name]
    for images in stores:
        row = next(row for row in images.rows.to_pylist() if row["image_id"] == name)
        stored = images.to_xarray(row["group"]).isel(image=row["index"])
        np.testing.assert_array_equal(stored.science, cutout.science)
        np.testing.assert_allclose(stored.variance, cutout.variance, rtol=1e-6)
        code = np.where(cutout.codes > 0, 1 << np.maximum(cutout.codes - 1, 0), 0)
        np.testing.assert_array_equal(stored.mask, code)
        bad = (stored.mask.to_numpy() & row["mask_bad"]) != 0
        np.testing.assert_array_equal(bad, np.isin(cutout.codes, BAD_CODES))


@pytest.mark.parametrize("name", NAMES)
def test_sources_fall_on_the_pixels_that_they_were_made_of(measured, cutouts, name):
    """FK5 taken for ICRS would be seen: 31 mas here, a thousand times the tolerance."""
    for table in measured:
        np.testing.assert_allclose([row["x"] for row in table[name]], cutouts[name].x, rtol=0, atol=1e-4)
        np.testing.assert_allclose([row["y"] for row in table[name]], cutouts[name].y, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_photometry_is_photutils_s(measured, cutouts, by_photutils, pixel_area, name):
    """Sums, areas, backgrounds and errors, with masked pixels and beyond the edges as well."""
    cutout, seen = cutouts[name], set()
    scale = np.sqrt(pixel_area(cutout.wcs, cutout.x, cutout.y))
    for i, row in enumerate(measured[1][name]):
        for k, (text, radius) in enumerate(RADII.items()):
            pixels = float(text.split()[0]) / scale[i] if radius is None else radius
            expected = by_photutils(
                cutout.science, cutout.variance, cutout.good, cutout.x[i], cutout.y[i], pixels, ANNULUS
            )
            assert row["background"] == pytest.approx(expected["background"], rel=1e-12)
            assert row["background_err"] == pytest.approx(expected["background_err"], rel=1e-9)
            assert number(row[f"flux_{k}"]) == pytest.approx(
                expected["flux"], abs=1e-6 * expected["total"], nan_ok=True
            )
            assert number(row[f"flux_err_{k}"]) == pytest.approx(expected["flux_err"], rel=1e-6, nan_ok=True)
            assert row[f"area_{k}"] == pytest.approx(expected["area"], abs=1e-6 * np.pi * pixels**2)
            expected_flags = _flags(cutout, i, pixels)
            assert row[f"flags_{k}"] == expected_flags
            seen.add(expected_flags)
    assert {0, 1, 2, 6} <= seen


def _flags(cutout, i, radius):
    """Return truncated, bad pixel and saturated from the distance of the circle's centre to every pixel."""
    (ny, nx), x, y = cutout.science.shape, cutout.x[i], cutout.y[i]
    truncated = min(x + 0.5, nx - 0.5 - x, y + 0.5, ny - 0.5 - y) < radius
    dx = np.maximum(np.abs(np.arange(nx) - x) - 0.5, 0)
    dy = np.maximum(np.abs(np.arange(ny) - y) - 0.5, 0)
    touched = dx**2 + dy[:, np.newaxis] ** 2 < radius**2
    bad = (touched & ~cutout.good).any()
    saturated = (touched & (cutout.codes == SATURATED_CODE)).any()
    return int(truncated) | 2 * int(bad) | 4 * int(saturated)


@pytest.mark.parametrize("name", NAMES)
def test_sums_without_bad_pixels_are_sep_s(measured, cutouts, rival, name):
    sep, cutout = rival("sep"), cutouts[name]
    compared = 0
    for i, row in enumerate(measured[1][name]):
        for k, radius in enumerate(RADII.values()):
            if radius is None or row[f"flags_{k}"] != 0:
                continue
            place = [cutout.x[i]], [cutout.y[i]], radius
            variance = np.where(cutout.good, cutout.variance, 0)
            level = row["background"]
            flux, error, _ = sep.sum_circle(cutout.science - level, *place, var=variance, subpix=0)
            total, _, _ = sep.sum_circle(np.abs(cutout.science), *place, subpix=0)
            assert row[f"flux_{k}"] == pytest.approx(flux[0], abs=1e-6 * total[0])
            pixels = np.sqrt(row[f"flux_err_{k}"] ** 2 - (row[f"area_{k}"] * row["background_err"]) ** 2)
            assert pixels == pytest.approx(error[0], rel=1e-6)
            assert row[f"area_{k}"] == pytest.approx(np.pi * radius**2, rel=1e-12)
            compared += 1
    assert compared > 50


@pytest.mark.parametrize("name", NAMES)
def test_calibrated_columns_need_the_table_of_zero_points(measured, folder, cutouts, calibrated, name):
    from astropy.table import Table

    ccds = Table.read(folder / "survey-ccds-1.fits.gz")
    row = ccds[[f"{name}.fits" in file for file in ccds["image_filename"]]]
    assert len(row) == 1
    # the table's zero points are for 1 adu/s
    zero_point = float(row["ccdzpt"][0]) + 2.5 * np.log10(cutouts[name].exposure)
    for without, with_table in zip(measured[0][name], measured[1][name], strict=True):
        for k in range(len(RADII)):
            calibrated(without, k, None)
            calibrated(with_table, k, zero_point)
            assert without[f"flux_{k}"] == with_table[f"flux_{k}"]
            assert without[f"flags_{k}"] == with_table[f"flags_{k}"] | 32
