"""FITS images: found, described, read. Broken files are in test_fits_file.py."""

import hashlib
import json
import pickle

import numpy as np
import pytest
from astropy.io import fits

from sciplat.errors import InputError, InputNotFound
from sciplat.ingest.fits_image import ImageFile, describe_images, file_sha256, find_images, read_planes
from tests.ingest.fits_factory import NX, NY, PIXELS, RNG, image, only, plane, write


def test_a_plain_image(tmp_path):
    cards = {"FILTER": "r", "MJD-OBS": 60000.0, "EXPTIME": 86.4, "GAIN": 2.0, "RDNOISE": 5.0, "MAGZERO": 27.0,
             "SATURATE": 60000.0, "INSTRUME": "CAM"}  # fmt: skip
    path = write(tmp_path / "one.fits", image(cls=fits.PrimaryHDU, **cards))
    header = only(path)
    assert (header.image_id, header.hdu, header.ny, header.nx) == ("one", 0, NY, NX)
    assert (header.band, header.exposure, header.gain, header.read_noise) == ("r", 86.4, 2.0, 5.0)
    assert (header.zero_point, header.saturation, header.instrument) == (27.0, 60000.0, "CAM")
    assert header.psf_fwhm is None
    assert header.background is None
    assert header.mjd == pytest.approx(60000.0005 + 37 / 86400, abs=1e-10)  # UTC by default
    assert json.loads(header.wcs_json) == header.wcs
    planes = read_planes(pickle.loads(pickle.dumps(header)))
    np.testing.assert_array_equal(planes.science, PIXELS)
    assert planes.science.dtype == np.float32
    assert planes.science.dtype.isnative
    assert planes.variance is None
    assert planes.mask is None


@pytest.mark.parametrize(
    ("cards", "mjd"),
    [
        ({"MJD-AVG": 60000.0, "TIMESYS": "TAI", "MJD-OBS": 1.0}, 60000.0),
        ({"MJD-OBS": 60000.0, "TIMESYS": "TAI", "EXPTIME": 43.2}, 60000.00025),
        ({"MJD-OBS": 50000.0, "TIMESYS": "UTC approximate", "EXPTIME": 0.0864}, 50000.0 + (29 + 0.0432) / 86400),
        ({"MJD-AVG": 60000.0, "TIMESYS": "TT"}, 60000.0 - 32.184 / 86400),
        ({"DATE-OBS": "2023-02-25T00:00:00.5", "EXPTIME": 1.0, "TIMESYS": "TAI"}, 60000.0 + 1 / 86400),
        ({"DATE-OBS": "2023-02-25", "EXPTIME": 1.0}, None),
        ({"MJD-OBS": 60000.0}, None),
        ({}, None),
    ],
)
def test_the_time_is_the_middle_in_tai(tmp_path, cards, mjd):
    header = only(write(tmp_path / "t.fits", image(cls=fits.PrimaryHDU, **cards)))
    assert header.mjd == (None if mjd is None else pytest.approx(mjd, abs=1e-9))


def test_an_unknown_time_scale_is_refused(tmp_path):
    path = write(tmp_path / "t.fits", image(cls=fits.PrimaryHDU, TIMESYS="LOCAL", **{"MJD-AVG": 6e4}))
    with pytest.raises(InputError, match="time scale"):
        only(path)


@pytest.mark.parametrize("bad", [{"GAIN": 0.0}, {"GAIN": "unknown"}, {"GAIN": True}, {"GAIN": "NaN"}, {"GAIN": None}])
def test_a_value_without_sense_is_unknown(tmp_path, bad):
    assert only(write(tmp_path / "t.fits", image(cls=fits.PrimaryHDU, **bad))).gain is None


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "f4", "f8"])
@pytest.mark.parametrize("packed", ["", ".gz", "RICE_1", "GZIP_2"])
def test_every_type_of_pixel_and_compression(tmp_path, dtype, packed):
    data = RNG.integers(0, 200, (NY, NX)).astype(dtype)
    if packed.isupper():
        kind = {"quantize_level": 0.0} if packed == "GZIP_2" else {}
        hdu = fits.CompImageHDU(data, image().header, compression_type=packed, **kind)
        path = write(tmp_path / "c.fits.fz", hdu)
    else:
        path = write(tmp_path / f"c.fits{packed}", image(data=data))
    header = only(path)
    assert header.image_id == "c"
    found = read_planes(header).science
    quantised = data.dtype.kind == "f" and packed == "RICE_1"
    np.testing.assert_allclose(found, data.astype(np.float32), atol=4.0 if quantised else 0.0)
    with fits.open(path) as hdus:
        np.testing.assert_array_equal(found, hdus[1].data.astype(np.float32))
    assert found.dtype.isnative


@pytest.mark.parametrize("compressed", [False, True])
def test_scaling_blank_and_softbias(tmp_path, compressed):
    raw = RNG.integers(0, 200, (NY, NX)).astype(np.int16)
    raw[3, 4] = -99
    hdu = image(data=raw)
    if compressed:
        hdu = fits.CompImageHDU(raw, hdu.header)
    hdu.header.update(
        {"BSCALE": 0.5, "BZERO": 7.0, "BLANK": -99, "SOFTBIAS": 100, "INSTRUME": "SDSS", "EXTNAME": "SCI"}
    )
    path = tmp_path / "s.fits"
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path, output_verify="silentfix")
    with fits.open(path) as hdus:
        expected = hdus[1].data.astype(np.float32) - 100
    header = only(path)
    found = read_planes(header).science
    np.testing.assert_array_equal(found, expected)


def test_planes_by_name_in_one_file(tmp_path):
    variance = np.full((NY, NX), 4.0, np.float32)
    variance[0, 0], variance[0, 1] = 0.0, np.nan
    mask = np.zeros((NY, NX), np.int16)
    mask[1, 2], mask[1, 3] = 5, -32768
    path = write(tmp_path / "p.fits", image("SCI"), plane("VAR", variance), plane("DQ", mask))
    planes = read_planes(only(path))
    assert np.isnan(planes.variance[0, :2]).all()
    assert (planes.variance[1:] == 4.0).all()
    assert planes.mask.dtype == np.uint32
    assert planes.mask[1, 2] == 5
    assert planes.mask[1, 3] == 32768
    assert planes.mask.sum() == 5 + 32768


@pytest.mark.parametrize(("name", "value"), [("WHT", 0.25), ("ERR", 2.0), ("VAR", 4.0)])
def test_weight_and_rms_become_variance(tmp_path, name, value):
    data = np.full((NY, NX), value, np.float32)
    data[0, 0], data[0, 1] = 0.0, -1.0
    variance = read_planes(only(write(tmp_path / "p.fits", image("SCI"), plane(name, data)))).variance
    assert np.isnan(variance[0, :2]).all()
    assert (variance[1:] == 4.0).all()


def test_the_first_image_is_taken_where_no_name_says_more(tmp_path):
    path = write(tmp_path / "p.fits", image("MASK", np.ones((NY, NX), np.uint8)), image("CHIP"), image("OTHER"))
    header = only(path)
    assert (header.extension, header.image_id) == ("CHIP", "p")
    assert read_planes(header).mask.all()


def test_several_images_in_a_file_have_names_of_their_own(tmp_path):
    hdus = [image("CCD1"), image("CCD2", PIXELS + 1), image("", PIXELS + 2)]
    path = write(tmp_path / "c4d_ooi_x.fits.fz", *hdus)
    with fits.open(path, mode="update") as opened:
        opened[0].header.update({"INSTRUME": "DECam", "PLVER": "V5.1", "RADESYS": "FK5", "EQUINOX": 2000.0,
                                 "FILTER": "g DECam SDSS c0001"})  # fmt: skip
    weights = [plane("CCD2", np.full((NY, NX), 0.5, np.float32)), plane("CCD1", np.full((NY, NX), 0.25, np.float32))]
    write(tmp_path / "c4d_oow_x.fits.fz", *weights)
    codes = RNG.choice([0, 1, 3, 7, 8], (NY, NX)).astype(np.int32)
    write(tmp_path / "c4d_ood_x.fits.fz", plane("CCD1", codes, fits.CompImageHDU))
    (file,) = find_images(tmp_path)
    headers = describe_images(file)
    assert [h.image_id for h in headers] == ["c4d_ooi_x[CCD1]", "c4d_ooi_x[CCD2]", "c4d_ooi_x[3]"]
    assert {h.band for h in headers} == {"g"}
    assert {h.wcs["RADESYS"] for h in headers} == {"FK5"}  # inherited from the primary header
    first, second, third = (read_planes(header) for header in headers)
    assert (first.variance == 4.0).all()
    assert (second.variance == 2.0).all()
    assert third.variance is None
    np.testing.assert_array_equal(second.science, PIXELS + 1)
    np.testing.assert_array_equal(first.mask > 0, codes > 0)
    np.testing.assert_array_equal(first.mask & headers[0].mask_bad > 0, (codes > 0) & (codes != 7))
    np.testing.assert_array_equal(first.mask & headers[0].mask_saturated > 0, codes == 3)
    assert second.mask is None


def test_versions_of_an_extension_belong_together(tmp_path):
    hdus = [image("SCI", EXTVER=1), plane("ERR", np.full((NY, NX), 1.0, np.float32)), image("SCI", EXTVER=2)]
    error = plane("ERR", np.full((NY, NX), 3.0, np.float32))
    error.header["EXTVER"] = 2
    headers = describe_images(ImageFile(write(tmp_path / "h.fits", *hdus, error)))
    assert [h.image_id for h in headers] == ["h[1]", "h[3]"]
    assert [read_planes(h).variance[0, 0] for h in headers] == [1.0, 9.0]


def test_files_are_found_sorted_and_once(tmp_path):
    inner = tmp_path / "b"
    inner.mkdir()
    for name in ("z.fits", "b/a.fit", "b/x.fits.gz", "b/y.fz"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    found = [file.path.relative_to(tmp_path).as_posix() for file in find_images([tmp_path, tmp_path / "z.fits"])]
    assert found == ["b/a.fit", "b/x.fits.gz", "b/y.fz", "z.fits"]
    assert [file.path.name for file in find_images(str(tmp_path / "*.fits"))] == ["z.fits"]
    assert [file.path.name for file in find_images(tmp_path / "notes.txt")] == ["notes.txt"]


@pytest.mark.parametrize("source", ["absent.fits", "*.fits", ".", "s3://bucket/a.fits", []])
def test_nothing_found(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputNotFound):
        find_images(source)


def test_degenerate_axes_are_ignored(tmp_path):
    header = only(write(tmp_path / "x.fits", image(data=PIXELS[np.newaxis], CTYPE3="FREQ", CRVAL3=1e9, CDELT3=1.0)))
    assert (header.ny, header.nx) == (NY, NX)
    assert "CTYPE3" not in header.wcs
    np.testing.assert_array_equal(read_planes(header).science, PIXELS)


def test_a_long_keyword_of_a_profile(tmp_path):
    (tmp_path / "p.toml").write_text('extends = "generic"\n[header]\nband = {keywords = ["ESO INS FILT1 NAME"]}')
    path = write(tmp_path / "x.fits", image(**{"HIERARCH ESO INS FILT1 NAME": "Ks"}))
    assert only(path, str(tmp_path / "p.toml")).band == "Ks"


def test_planes_must_fit(tmp_path):
    path = write(tmp_path / "x.fits", image("SCI"), plane("MASK", np.zeros((NY, NX + 1), np.uint8)))
    with pytest.raises(InputError, match="does not fit"):
        read_planes(only(path))


@pytest.mark.parametrize(
    "mask", [np.full((NY, NX), 0.5, np.float32), np.full((NY, NX), 2**40), np.full((NY, NX), -1.0)]
)
def test_what_is_no_mask(tmp_path, mask):
    path = write(tmp_path / "x.fits", image("SCI"), plane("MASK", mask))
    with pytest.raises(InputError, match="mask"):
        read_planes(only(path))


def test_sha256(tmp_path):
    path = write(tmp_path / "x.fits", image())
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(InputError):
        file_sha256(tmp_path / "absent")


def test_real_sdss_frames(data):
    files = find_images(data / "s82")
    assert len(files) == 6
    header = only(files[0].path)
    assert (header.image_id, header.band, header.instrument) == ("s82_004192_g", "g", "SDSS")
    assert header.mjd == pytest.approx(52931.20024664352 + 53.907456 / 2 / 86400, abs=1e-9)  # TAI in the header
    assert header.zero_point == pytest.approx(28.615734)
    planes = read_planes(header)
    with fits.open(files[0].path) as hdus:
        np.testing.assert_array_equal(planes.science, hdus["SCI"].data.astype(np.float32) - 1000)
        np.testing.assert_array_equal(planes.mask, hdus["MASK"].data)
        saturated = hdus["MASK"].data & 2 > 0
    np.testing.assert_array_equal(planes.mask & header.mask_bad > 0, saturated)
    assert saturated.any()


def test_real_decam_images(data):
    files = find_images(data / "decam_testcase6" / "decam")
    assert len(files) == 6
    for file in files:
        header = only(file.path)
        assert header.image_id == file.path.name.removesuffix(".fits")
        assert header.instrument == "DECam"
        assert header.band == file.path.name.split("_ooi_")[1][0]
        assert 0.9 < header.psf_fwhm < 1.8
        planes = read_planes(header)
        good = (planes.mask & header.mask_bad) == 0
        np.testing.assert_array_equal(np.isfinite(planes.variance), good)
        # the sky is in the pixels, and the gain explains the weights
        ratio = np.median(planes.science[good] / planes.variance[good])
        assert ratio == pytest.approx(header.gain, rel=0.15)
        assert (planes.science[planes.mask & header.mask_saturated > 0] > header.saturation).mean() > 0.95
