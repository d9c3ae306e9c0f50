"""Zero points from a table: found by image name, or as the Legacy Surveys' tables name detectors."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from sciplat.errors import InputError, InputNotFound
from sciplat.ingest.fits_image import describe_images, find_images, read_planes
from sciplat.ingest.zero_points import read_zero_points

CARDS = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 20.0, "CRPIX1": 1.0, "CRPIX2": 1.0,
    "CDELT1": -1e-4, "CDELT2": 1e-4, "EXPTIME": 100.0,
}  # fmt: skip


@pytest.fixture
def header(tmp_path):
    fits.PrimaryHDU(np.zeros((4, 4), np.float32), fits.Header(CARDS)).writeto(tmp_path / "a.fits")
    return describe_images(find_images(tmp_path / "a.fits")[0])[0]


@pytest.mark.parametrize("suffix", ["csv", "fits", "fits.gz", "parquet"])
def test_by_image_id(tmp_path, header, suffix):
    path = tmp_path / f"zp.{suffix}"
    table = Table({"image_id": ["a", "b"], "zero_point": [25.5, 26.5]})
    if suffix == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({name: table[name].tolist() for name in table.colnames}), path)
    else:
        table.write(path)
    assert read_zero_points(path).applied(header).zero_point == 25.5


def test_an_image_that_is_not_in_the_table_keeps_its_own(tmp_path, header):
    (tmp_path / "zp.csv").write_text("image_id,zero_point\nb,25\nc,\n")
    assert read_zero_points(tmp_path / "zp.csv").applied(header) is header


def test_by_file_and_extension_and_per_second(tmp_path, header):
    (tmp_path / "zp.csv").write_text("image_filename,ccdname,ccdzpt\nx/a.fits.fz,S1,1\nx/a.fits.fz,,25\n")
    (tmp_path / "p.toml").write_text(
        'extends = "generic"\n[zero_points]\nimage_id = ""\nfile = "image_filename"\nextension = "ccdname"\n'
        'zero_point = "ccdzpt"\nper_second = true\n'
    )
    for profile in ("auto", "decam", str(tmp_path / "p.toml")):
        assert read_zero_points(tmp_path / "zp.csv", profile).find(header) == pytest.approx(30.0)


@pytest.mark.parametrize(
    "text", ["image,zero_point\na,25\n", "image_id,zero_point\na,25\na,26\n", "image_id\na\n", "a,b\n1\n"]
)
def test_what_is_no_table_of_zero_points(tmp_path, text):
    (tmp_path / "zp.csv").write_text(text)
    with pytest.raises(InputError):
        read_zero_points(tmp_path / "zp.csv")


def test_an_absent_table():
    with pytest.raises(InputNotFound):
        read_zero_points(Path("absent.csv"))


def test_the_legacy_surveys_table(data):
    """Their sig1 is the noise of a pixel in nanomaggies (AB 22.5): it ties our zero point to our variance."""
    folder = data / "decam_testcase6"
    points = read_zero_points(folder / "survey-ccds-1.fits.gz")
    sig1 = {Path(row["image_filename"]).name: row["sig1"] for row in Table.read(folder / "survey-ccds-1.fits.gz")}
    files = find_images(folder / "decam")
    assert len(files) == 6
    for file in files:
        header = points.applied(describe_images(file)[0])
        noise = np.sqrt(np.nanmedian(read_planes(header).variance))
        assert noise * 10 ** (-0.4 * (header.zero_point - 22.5)) == pytest.approx(sig1[file.path.name], rel=0.3)
