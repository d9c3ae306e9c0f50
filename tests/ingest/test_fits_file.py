"""Every kind of broken FITS file is one clear error."""

import gzip

import numpy as np
import pytest
from astropy.io import fits

from sciplat.errors import InputError, WcsError
from sciplat.ingest.fits_image import ImageFile, describe_images, read_planes
from sciplat.ingest.wcs_cards import wcs_cards
from tests.ingest.fits_factory import NX, NY, PIXELS, WCS_CARDS, image, only, write


def broken(make):
    """Collect the ways to break a file; each takes a folder and returns the file."""
    BROKEN[make.__name__] = make
    return make


BROKEN = {}


@broken
def empty_file(folder):
    (folder / "x.fits").write_bytes(b"")
    return folder / "x.fits"


@broken
def no_fits(folder):
    (folder / "x.fits").write_text("SIMPLE, but no FITS\n" * 1000)
    return folder / "x.fits"


@broken
def header_without_end(folder):
    (folder / "x.fits").write_bytes(b"SIMPLE  =                    T".ljust(2880) * 3)
    return folder / "x.fits"


@broken
def half_of_the_pixels(folder):
    path = write(folder / "x.fits", image())
    path.write_bytes(path.read_bytes()[:-7000])
    return path


@broken
def half_of_a_compressed_file(folder):
    path = write(folder / "x.fits.fz", image(cls=fits.CompImageHDU))
    path.write_bytes(path.read_bytes()[:-3000])
    return path


@broken
def half_of_a_gzip(folder):
    path = write(folder / "x.fits.gz", image())
    path.write_bytes(path.read_bytes()[:-3000])
    return path


@broken
def huge_axes(folder):
    path = write(folder / "x.fits", image())
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"NAXIS1  =                   60", b"NAXIS1  =           1000000060"))
    return path


@broken
def negative_axis(folder):
    path = write(folder / "x.fits", image())
    path.write_bytes(path.read_bytes().replace(b"NAXIS1  =                   60", b"NAXIS1  =                  -60"))
    return path


@broken
def axis_that_is_no_number(folder):
    path = write(folder / "x.fits", image())
    path.write_bytes(path.read_bytes().replace(b"NAXIS1  =                   60", b"NAXIS1  = 'sixty'             "))
    return path


@broken
def huge_axes_compressed(folder):
    path = write(folder / "x.fits.fz", image(cls=fits.CompImageHDU))
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"ZNAXIS1 =                   60", b"ZNAXIS1 =           1000000060"))
    return path


@broken
def more_tiles_than_rows(folder):
    path = write(folder / "x.fits.fz", image(cls=fits.CompImageHDU))
    path.write_bytes(path.read_bytes().replace(b"ZNAXIS2 =                   40", b"ZNAXIS2 =                   50"))
    return path


@broken
def no_pixels(folder):
    return write(folder / "x.fits", image(data=np.zeros((0, 5), np.float32)))


@broken
def a_table(folder):
    return write(folder / "x.fits", fits.BinTableHDU.from_columns([fits.Column("a", "D", array=[1.0])]))


@broken
def a_cube(folder):
    return write(folder / "x.fits", image(data=np.zeros((3, 4, 5), np.float32)))


@broken
def a_spectrum(folder):
    return write(folder / "x.fits", image(data=np.zeros(5, np.float32)))


@broken
def a_folder(folder):
    (folder / "x.fits").mkdir()
    return folder / "x.fits"


@broken
def not_there(folder):
    return folder / "x.fits"


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_one_clear_error(tmp_path, make):
    with pytest.raises(InputError) as refused:
        describe_images(ImageFile(make(tmp_path)))
    assert "x.fits" in refused.value.what


@pytest.mark.parametrize(
    "change",
    [
        {"CTYPE1": None}, {"CRVAL1": None}, {"CRPIX2": None}, {"CD1_1": 0.0}, {"CRVAL2": "north"}, {"CRVAL2": 1e400},
        {"CTYPE1": "RA---TNX", "CTYPE2": "DEC--TNX"}, {"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"}, {"CPDIS1": "LOOKUP"},
        {"D2IMDIS1": "LOOKUP"}, {"RADESYS": "FK4"}, {"CTYPE3": "FREQ", "NAXIS3": 4}, {"CTYPE3": "FREQ", "CD1_3": 0.1},
    ],
    ids=str,
)  # fmt: skip
def test_an_image_without_usable_wcs(change):
    header = fits.Header({"NAXIS": 2, "NAXIS1": NX, "NAXIS2": NY})
    for name, value in (WCS_CARDS | change).items():
        if value is not None and not (isinstance(value, float) and not np.isfinite(value)):
            header[name] = value
        elif value is not None:
            header.append(fits.Card.fromstring(f"{name:8}=                1E+400"), end=True)
    with pytest.raises(WcsError):
        wcs_cards(header)


def test_cards_that_are_not_fits_are_passed_over_in_silence(tmp_path):
    path = write(tmp_path / "x.fits", image(OBSERVER="Bronte", FILTER="r", ODD=1, EVEN=2, GAIN=3.0))
    whole = path.read_bytes().replace(b"Bronte", b"Bront\xe9").replace(b"ODD     = ", b"ODD=1     ")
    path.write_bytes(whole.replace(b"EVEN    = ", b"EV.EN   = ").replace(b"= 'r  ", b"=  r' "))
    header = only(path)
    assert header.band is None
    assert header.gain == 3.0


@pytest.mark.parametrize("packed", [False, True])
def test_damage_is_found_by_checksums(tmp_path, packed):
    hdu = image(data=np.round(PIXELS).astype(np.int16), cls=fits.CompImageHDU if packed else fits.ImageHDU)
    path = write(tmp_path / "x.fits", hdu, checksum=True)
    whole = bytearray(path.read_bytes())
    np.testing.assert_array_equal(read_planes(only(path)).science, np.round(PIXELS))
    at = only(path).science.offset + 100
    whole[at] ^= 1
    path.write_bytes(whole)
    with pytest.raises(InputError, match="DATASUM"):
        read_planes(only(path))
    whole[at] ^= 1
    path.write_bytes(whole.replace(b"CRVAL1  =                 10.0", b"CRVAL1  =                 11.0"))
    with pytest.raises(InputError, match="CHECKSUM"):
        read_planes(only(path))


@pytest.mark.parametrize("packed", ["RICE_1", "GZIP_1", "HCOMPRESS_1"])
def test_random_damage_is_an_error_or_harmless_but_nothing_else(tmp_path, packed):
    data = np.round(PIXELS).astype(np.int16)
    path = write(tmp_path / "x.fits.fz", fits.CompImageHDU(data, image().header, compression_type=packed))
    whole = path.read_bytes()
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(40):
        bent = bytearray(whole)
        for at in rng.integers(2880, len(bent), 5):
            bent[at] = rng.integers(256)
        path.write_bytes(bent)
        try:
            assert read_planes(only(path)).science.ndim == 2
        except InputError:
            refused += 1
    assert refused > 0


def test_a_gzip_bomb_is_refused(tmp_path):
    header = fits.PrimaryHDU(np.zeros((1, 1), np.uint8)).header
    header["NAXIS1"] = header["NAXIS2"] = 60_000
    text = header.tostring().encode()
    (tmp_path / "x.fits.gz").write_bytes(gzip.compress(text + b"\0" * 1_000_000))
    with pytest.raises(InputError, match="truncated"):
        only(tmp_path / "x.fits.gz")
