"""The issue's four commands on six SDSS frames, against what the LSST stack published of the same pixels."""

import os
import shutil
import subprocess
import sysconfig

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import sciplat
from sciplat.cli.main import main

FRAMES = [(run, band) for run in (4192, 6377) for band in "gri"]
PIXEL_MAS = 396.0
COMMANDS = """
sciplat ingest images  "$D"/s82/*.fits.fz "$OUT"/s82 --profile sdss
sciplat ingest catalog "$D"/s82/expected_sources.parquet "$OUT"/expected
sciplat photometry "$OUT"/s82 "$OUT"/expected "$OUT"/phot --radius "6 pix" --annulus "15 pix" "25 pix"
sciplat info "$OUT"/phot;  sciplat head "$OUT"/phot
"""


@pytest.fixture(scope="module")
def output(data, tmp_path_factory):
    """Run the commands as a user's shell does; return the folder and what they printed."""
    folder = tmp_path_factory.mktemp("out")
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    environment = os.environ | {"D": str(data), "OUT": str(folder), "PATH": path}
    ran = subprocess.run(["sh", "-ec", COMMANDS], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return folder, ran.stdout


@pytest.fixture(scope="module")
def published(data):
    return pq.read_table(data / "s82" / "expected_sources.parquet")


@pytest.fixture(scope="module")
def frames(output, published):
    """Return for each run and band our rows beside the published ones of the same source, run and band."""
    rows = sciplat.open_catalog(output[0] / "phot").compute()
    return {(run, band): _paired(rows, published, run, band) for run, band in FRAMES}


def _paired(rows, published, run, band):
    ours = _arrays(rows.filter(pc.equal(rows["image_id"], f"s82_{run:06d}_{band}")))
    of_frame = pc.and_(pc.equal(published["run"], run), pc.equal(published["band"], band))
    theirs = _arrays(published.filter(of_frame))
    assert set(ours["band"]) == {band}
    order = np.argsort(ours["source_id"])
    place = order[np.searchsorted(ours["source_id"], theirs["id"], sorter=order)]
    ours = {name: values[place] for name, values in ours.items()}
    assert (ours["source_id"] == theirs["id"]).all()
    good = (theirs["quality"] == 0) & (ours["flags_0"] == 0)
    return ours, theirs, good, good & (theirs["ap6_flux"] > 50 * theirs["ap6_flux_err"])


def _arrays(table):
    return {name: table[name].to_numpy() for name in table.schema.names}


@pytest.mark.parametrize("frame", FRAMES)
def test_sums_are_the_published_ones(frames, frame):
    ours, theirs, _, bright = frames[frame]
    assert bright.sum() >= 40
    assert np.median(ours["flux_0"][bright] / theirs["ap6_flux"][bright]) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("frame", FRAMES)
def test_positions_fall_on_the_published_pixels(frames, frame):
    ours, theirs, good, bright = frames[frame]
    distance = PIXEL_MAS * np.hypot(ours["x"] - theirs["x"], ours["y"] - theirs["y"])
    # the published positions come from a fit to reference stars; the TAN in the frame's header repeats them to 39 mas
    assert np.median(distance[bright]) < 30
    assert distance[bright].max() < 50
    assert np.quantile(distance[good], 0.99) < 50


@pytest.mark.parametrize("frame", FRAMES)
def test_errors_follow_from_the_gain(frames, frame):
    """The published errors do not contain the error of the background: it is taken out of ours."""
    ours, theirs, _, bright = frames[frame]
    pixels = np.sqrt(ours["flux_err_0"] ** 2 - (ours["area_0"] * ours["background_err"]) ** 2)
    assert np.median(pixels[bright] / theirs["ap6_flux_err"][bright]) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("frame", FRAMES)
def test_magnitudes_are_those_of_the_reference_catalog(frames, data, frame):
    ours, _, _, bright = frames[frame]
    stars = _arrays(pq.read_table(data / "s82" / "refstars.parquet", filters=[("starnotgal", "=", 1)]))
    dec = np.radians(stars["dec"].mean())
    # near the equator and over a fraction of a degree the sky is flat enough for one arcsecond
    apart = np.hypot(
        (ours["ra"][bright, np.newaxis] - stars["ra"]) * np.cos(dec), ours["dec"][bright, np.newaxis] - stars["dec"]
    )
    nearest = apart.argmin(axis=1)
    matched = apart.min(axis=1) < 1 / 3600
    assert matched.sum() >= 30
    difference = ours["mag_0"][bright][matched] - stars[frame[1]][nearest[matched]]
    assert abs(np.median(difference)) < 0.05


def test_calibrated_columns_use_each_frame_s_zero_point(output, frames, calibrated):
    images = sciplat.open_images(output[0] / "s82")
    zero_points = dict(zip(images.rows["image_id"].to_pylist(), images.rows["zero_point"].to_pylist(), strict=True))
    assert len(set(zero_points.values())) == 6
    for row in sciplat.open_catalog(output[0] / "phot").head(300).to_pylist():
        calibrated(row, 0, zero_points[row["image_id"]])


def test_the_store_holds_every_source_on_every_frame_that_it_touches(output, frames):
    images = sciplat.open_images(output[0] / "s82")
    assert len(images) == 6
    assert images.bands == ["g", "i", "r"]
    assert images.report == {"images": 6, "refused": []}
    phot = sciplat.open_catalog(output[0] / "phot").compute()
    assert phot["image_id"].value_counts().field("counts").to_numpy().min() > 5000
    assert (phot["flags_0"].to_numpy() & (16 | 32) == 0).all()


def test_info_and_head_say_what_there_is(output):
    folder, printed = output
    rows = len(sciplat.open_catalog(folder / "phot"))
    assert "6 images in bands g, i, r; 0 files refused" in printed
    assert "version 1, 5,229 rows ingested, 0 skipped; 5,229 rows in 1 cells" in printed
    assert f"{rows:,} measurements in 3 cells" in printed
    assert f"{rows:,} in 3 cells" in printed.split("store")[1]
    for text in ("ra, dec; icrs", "flux_nJy_err_0", "6 pix", "s82_00", "source_id"):
        assert text in printed


def test_info_of_images_and_single_columns(output):
    folder, _ = output
    info = _invoke("info", str(folder / "s82"))
    assert "6 in 1 cell of order 0" in info
    assert info.count("1489 x") == 3
    column = _invoke("head", str(folder / "phot"), "-n", "2", "--column", "mag_0")
    assert "mag_0" in column
    assert "flux_0" not in column


def test_verify_finds_nothing_until_a_byte_is_changed(output, tmp_path):
    shutil.copytree(output[0] / "phot", tmp_path / "phot")
    shutil.copytree(output[0] / "s82", tmp_path / "s82")
    for name, pattern in (("phot", "Npix=*.parquet"), ("s82", "science/c/0/0/0")):
        store = tmp_path / name
        assert "all as they were written" in _invoke("verify", str(store))
        damaged = min(store.rglob(pattern))
        content = bytearray(damaged.read_bytes())
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
        ran = CliRunner().invoke(main, ["verify", str(store)])
        assert ran.exit_code == 1
        assert damaged.name in ran.output


@pytest.fixture(scope="module")
def plain(output):
    """Measure the r band without an annulus, and keep two columns of the catalog."""
    stores = [str(output[0] / name) for name in ("s82", "expected", "plain")]
    printed = _invoke("photometry", *stores, "--radius", "6 pix", "--band", "r", "--keep", "ap6_flux", "--keep", "band")
    assert "measurements in" in printed
    return sciplat.open_catalog(output[0] / "plain").compute()


def test_kept_columns_repeat_the_catalog(plain, published):
    rows = _arrays(plain)
    assert set(rows["band"]) == {"r"}
    assert set(rows["band_catalog"]) == {"g", "r", "i"}
    source = {row["id"]: row for row in published.select(["id", "ap6_flux", "band"]).to_pylist()}
    expected = [source[identity] for identity in rows["source_id"]]
    np.testing.assert_array_equal(rows["ap6_flux"], [row["ap6_flux"] for row in expected])
    assert rows["band_catalog"].tolist() == [row["band"] for row in expected]


def test_without_an_annulus_the_error_is_the_pixels_alone(plain, frames):
    """The same pixels without a background: the error keeps the sum of overlap x variance, the flux gains the sky."""
    assert plain["background"].null_count == len(plain)
    for frame in ((4192, "r"), (6377, "r")):
        ours, _, good, _ = frames[frame]
        chosen = _arrays(plain.filter(pc.equal(plain["image_id"], f"s82_{frame[0]:06d}_r")))
        place = {identity: row for row, identity in enumerate(chosen["source_id"])}
        rows = np.array([place[identity] for identity in ours["source_id"][good]])
        sky = (ours["area_0"] * ours["background"])[good]
        np.testing.assert_allclose(chosen["flux_0"][rows], ours["flux_0"][good] + sky, rtol=1e-9)
        with_sky = np.sqrt(chosen["flux_err_0"][rows] ** 2 + (ours["area_0"] * ours["background_err"])[good] ** 2)
        np.testing.assert_allclose(with_sky, ours["flux_err_0"][good], rtol=1e-9)


def _invoke(*arguments):
    ran = CliRunner().invoke(main, arguments)
    assert ran.exit_code == 0, ran.output
    return ran.output
