"""What goes wrong on the command line is one message with a way out, exit code 2, no traceback, and leaves nothing."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from click.testing import CliRunner

import sciplat
from sciplat.cli.main import main
from tests.ingest.fits_factory import PIXELS, WCS_CARDS, write

ROWS = {"id": [1, 2, 3], "ra": [10.0, 10.001, 250.0], "dec": [20.0, 20.001, -60.0]}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs a command line in the folder of the files below."""
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table(ROWS), "good.parquet")
    pq.write_table(pa.table(ROWS | {"ra": [10.0, np.nan, 400.0]}), "nan.parquet")
    pq.write_table(pa.table({"a": [1.0], "b": [2.0]}), "nopos.parquet")
    pq.write_table(pa.table(ROWS | {"ra": ["10h", "11h", "12h"]}), "text.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "good.parquet").read_bytes()[:-9])
    (tmp_path / "ragged.csv").write_text("ra,dec\n1,2\n3\n")
    write(tmp_path / "good.fits", fits.PrimaryHDU(PIXELS, fits.Header(WCS_CARDS | {"FILTER": "r"})))
    write(tmp_path / "nowcs.fits", fits.PrimaryHDU(PIXELS))
    (tmp_path / "cut.fits").write_bytes((tmp_path / "good.fits").read_bytes()[:-4000])
    (tmp_path / "empty").mkdir()
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def stores(run):
    assert run("ingest", "images", "good.fits", "images").exit_code == 0
    assert run("ingest", "catalog", "good.parquet", "catalog").exit_code == 0
    return run


def refused(result, *words, code=2):
    """Check the one message of a command that failed."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    message = result.stderr
    assert message.startswith("error: ")
    assert len(re.findall("^error: ", message, re.MULTILINE)) == 1
    assert "Traceback" not in message
    assert re.search(r"^  (found|try)  ", message, re.MULTILINE), "neither what was found nor what to try"
    assert len(message.splitlines()) <= 3
    for word in words:
        assert word in message
    return message


CATALOGS = {
    "nan.parquet": ("has rows without a position", "ra = nan", "row 1", "--bad skip"),
    "nopos.parquet": ("no column looks like ra", "a, b", "--ra"),
    "text.parquet": ("'ra' does not hold numbers", "string", "decimal degrees"),
    "cut.parquet": ("cut.parquet cannot be read", "is the file complete?"),
    "ragged.csv": ("ragged.csv has a line of 1 values where the header has 2", "line 3"),
    "empty": ("nothing to ingest at", "folder without tables", ".parquet"),
    "missing.csv": ("nothing to ingest at", "missing.csv", "no such file"),
    "https://example.org/x.csv": ("not a local file",),
    "good.fits": ("good.fits holds no table", "sciplat ingest images"),
}


@pytest.mark.parametrize(("source", "words"), CATALOGS.items(), ids=CATALOGS.keys())
def test_a_catalog_that_cannot_be(run, tmp_path, source, words):
    refused(run("ingest", "catalog", source, "new"), *words)
    assert not (tmp_path / "new").exists()


IMAGES = {
    "nowcs.fits": ("nowcs", "no celestial WCS", "missing: CTYPE1", "plate-solved"),
    "cut.fits": ("cut.fits is truncated", "bytes needed"),
    "good.parquet": ("good.parquet is no FITS file",),
    "empty": ("no FITS image at", "a folder without FITS files"),
    "missing.fits": ("no FITS image at", "no such file"),
}


@pytest.mark.parametrize(("source", "words"), IMAGES.items(), ids=IMAGES.keys())
def test_images_that_cannot_be(run, tmp_path, source, words):
    refused(run("ingest", "images", source, "new"), *words)
    assert not (tmp_path / "new").exists()


OPTIONS = {
    ("catalog", "good.parquet", "--bad", "drop"): "bad='drop' is unknown",
    ("catalog", "good.parquet", "--frame", "ecliptic"): "the frame 'ecliptic' is unknown",
    ("catalog", "good.parquet", "--epoch", "yesterday"): "the epoch 'yesterday' is no year",
    ("catalog", "good.parquet", "--rows-per-cell", "0"): "positive whole number",
    ("catalog", "good.parquet", "--ra", "lon"): "there is no column 'lon'",
    ("images", "good.fits", "--profile", "hubble"): "there is no reader profile 'hubble'",
    ("images", "good.fits", "--order", "30"): "the order of the cells is 0 to 10",
    ("images", "good.fits", "--bad", "drop"): "bad='drop' is unknown",
    ("images", "good.fits", "--zero-points", "missing.csv"): "missing.csv\n  found  no such file",
    ("images", "good.fits", "--zero-points", "good.parquet"): "no table of zero points",
}


@pytest.mark.parametrize(("arguments", "word"), OPTIONS.items(), ids=lambda value: str(value)[-20:])
def test_an_option_without_sense(run, tmp_path, arguments, word):
    refused(run("ingest", *arguments, "new"), word)
    assert not (tmp_path / "new").exists()


def test_a_store_that_exists_and_a_file_as_url(stores, tmp_path):
    refused(stores("ingest", "catalog", "good.parquet", "catalog"), "a store stands already", "another URL")
    refused(stores("ingest", "images", "good.fits", "images"), "a store stands already")
    refused(stores("ingest", "images", "good.fits", "empty/../catalog"), "a store stands already")
    before = (tmp_path / "good.fits").read_bytes()
    refused(stores("ingest", "images", "nowcs.fits", "good.fits"), "no place for a store", "good.fits is a file")
    refused(stores("ingest", "catalog", "good.parquet", "good.fits/inside"), "good.fits is a file")
    assert (tmp_path / "good.fits").read_bytes() == before
    assert stores("verify", "catalog").exit_code == 0
    assert stores("verify", "images").exit_code == 0


PHOTOMETRY = {
    ("--radius", "6"): ("'6' has no unit", '"6 arcsec"'),
    ("--radius", "six pix"): ("'six pix'",),
    ("--radius", "-1 pix"): ("not a positive length", '"6 pix"'),
    ("--radius", "6 kg"): ("'6 kg' is not an angle",),
    ("--radius", "6 pix", "--annulus", "25 pix", "15 pix"): ("the annulus has no area", "25 pix to 15 pix"),
    ("--radius", "6 pix", "--annulus", "15", "25"): ("'15' has no unit",),
    ("--radius", "6 pix", "--background", "guess"): ("there is no background 'guess'", "median"),
    ("--radius", "6 pix", "--band", "Z"): ("there is no image of band 'Z'",),
    ("--radius", "6 pix", "--keep", "mag"): ("no column 'mag'", "id, ra, dec"),
}


@pytest.mark.parametrize(("options", "words"), PHOTOMETRY.items(), ids=lambda value: " ".join(value)[:30])
def test_photometry_without_sense(stores, tmp_path, options, words):
    refused(stores("photometry", "images", "catalog", "new", *options), *words)
    assert not (tmp_path / "new").exists()


def test_stores_that_are_not_what_photometry_wants(stores, tmp_path):
    radius = ("--radius", "6 pix")
    refused(stores("photometry", "missing", "catalog", "new", *radius), "no image store at", "missing")
    refused(stores("photometry", "images", "missing", "new", *radius), "no store at", "missing")
    refused(stores("photometry", "catalog", "catalog", "new", *radius), "no image store at", "catalog")
    refused(stores("photometry", "images", "images", "new", *radius), "images is an image store, not a catalog")
    refused(stores("photometry", "images", "good.fits", "new", *radius), "no store at")
    assert not (tmp_path / "new").exists()


def test_photometry_into_a_place_that_is_taken(stores, tmp_path):
    result = stores("photometry", "images", "catalog", "catalog", "--radius", "6 pix")
    assert result.exit_code == 2
    assert "a store stands already" in result.stderr
    result = stores("photometry", "images", "catalog", "good.fits", "--radius", "6 pix")
    assert result.exit_code == 2
    assert "is a file" in result.stderr
    assert stores("verify", "catalog").exit_code == 0


def test_sources_that_no_image_holds(stores, tmp_path):
    stores("ingest", "catalog", "good.parquet", "far")
    pq.write_table(pa.table({"ra": [200.0], "dec": [-5.0]}), "far.parquet")
    assert stores("ingest", "catalog", "far.parquet", "elsewhere").exit_code == 0
    result = stores("photometry", "images", "elsewhere", "new", "--radius", "6 pix")
    assert result.exit_code == 2
    assert "the result is empty" in result.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["info", "head", "verify"])
def test_looking_at_what_is_no_store(run, command):
    for url, found in {"missing": "nothing", "empty": "empty folder", "good.fits": "a file"}.items():
        refused(run(command, url), "there is no store at", url, found, "ingest_catalog(")
    refused(run(command, "good.fits/x"), "there is no store at", "good.fits/x", "check the path")


def test_a_column_that_is_not_there(stores):
    refused(stores("head", "catalog", "--column", "mag"), "there is no column 'mag'", "ra, dec")


def test_a_unit_is_missing_in_python(stores):
    images, catalog = sciplat.open_images("images"), sciplat.open_catalog("catalog")
    for radii in ([6], ["6"], [np.float64(6)], [None]):
        with pytest.raises(sciplat.errors.AngleError, match="has no unit"):
            images.photometry(catalog, radii=radii)


def test_a_setting_without_sense(run, monkeypatch, tmp_path):
    from sciplat.config import settings

    monkeypatch.setenv("SCIPLAT_THREADS", "many")
    settings.cache_clear()
    refused(run("ingest", "catalog", "good.parquet", "new"), "threads", "'many'")
    assert not (tmp_path / "new").exists()
    settings.cache_clear()
