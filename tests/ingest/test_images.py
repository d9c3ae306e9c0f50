"""Image stores of hostile files: none, odd shapes, broken pixels, names twice, a full disk, two writers."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from astropy.io import fits

import sciplat
from sciplat.errors import (
    ArgumentError,
    ConflictError,
    InputError,
    InputNotFound,
    ProfileError,
    StorageError,
    StoreExists,
    WcsError,
)
from sciplat.io.verify import verify_files
from tests.ingest.fits_factory import PIXELS, WCS_CARDS, write

RNG = np.random.default_rng(11)


def image(path, data=PIXELS, drop=(), **cards):
    header = fits.Header({name: value for name, value in (WCS_CARDS | cards).items() if name not in drop})
    path.parent.mkdir(exist_ok=True)
    return write(path, fits.PrimaryHDU(data, header))


def broken_inside(path):
    """Write a compressed image whose headers are right and whose pixels cannot be decoded."""
    data = RNG.integers(0, 1000, (40, 60)).astype(np.int16)
    write(path, fits.CompImageHDU(data, fits.Header(WCS_CARDS), compression_type="GZIP_1"))
    bent = bytearray(path.read_bytes())
    bent[-2880:] = bytes(2880)
    path.write_bytes(bent)
    return path


def refuse(tmp_path, error, sources, **options):
    """Ingest what must be refused; return the error. Nothing may be left."""
    with pytest.raises(error) as refused:
        sciplat.ingest_images(sources, tmp_path / "store", **options)
    assert type(refused.value) is error
    assert not (tmp_path / "store").exists()
    return refused.value


def pixels(images, image_id):
    (row,) = (row for row in images.rows.to_pylist() if row["image_id"] == image_id)
    return images.to_xarray(row["group"]).isel(image=row["index"]).science.to_numpy()


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_whole(images):
    return verify_files(images.store.table.storage, images.store.table.manifest) == []


def test_paths_texts_and_generators(tmp_path):
    path = image(tmp_path / "a.fits")
    for number, sources in enumerate([path, str(path), [path], (each for each in [path]), tmp_path]):
        images = sciplat.ingest_images(sources, tmp_path / f"store{number}")
        np.testing.assert_array_equal(pixels(images, "a"), PIXELS)


@pytest.mark.parametrize("sources", [5, None, [None], [5]], ids=str)
def test_what_is_no_source(tmp_path, sources):
    refuse(tmp_path, ArgumentError, sources)


def test_nothing_to_read(tmp_path):
    (tmp_path / "empty").mkdir()
    for sources in (tmp_path / "empty", [], tmp_path / "x.fits", f"{tmp_path}/*.fits", "https://example.org/x.fits"):
        assert refuse(tmp_path, InputNotFound, sources).hint


@pytest.mark.parametrize("bad", ["report", "refuse"])
def test_one_image_without_wcs(tmp_path, bad):
    error = refuse(tmp_path, WcsError, image(tmp_path / "nowcs.fits", drop=["CTYPE1"]), bad=bad)
    assert "nowcs" in error.what
    assert (error.found, error.hint) == ("missing: CTYPE1", "a plate-solved image")


def test_one_image_whose_edges_are_not_on_the_sky(tmp_path):
    whole_sky = image(tmp_path / "map.fits", np.ones((181, 361), np.float32), CTYPE1="RA---AIT", CTYPE2="DEC--AIT",
                      CRPIX1=180.0, CRPIX2=90.0, CD1_1=-1.0, CD2_2=1.0)  # fmt: skip
    assert "map" in refuse(tmp_path, WcsError, whole_sky).what
    images = sciplat.ingest_images([whole_sky, image(tmp_path / "a.fits")], tmp_path / "store")
    assert [source for source, _ in images.report["refused"]] == [str(whole_sky)]


def test_unusable_files_among_good_ones(tmp_path):
    good = image(tmp_path / "good.fits")
    bad = {
        "cut.fits": lambda path: image(path).write_bytes(good.read_bytes()[:-3000]),
        "inside.fits.fz": broken_inside,
        "nowcs.fits": lambda path: image(path, drop=["CRVAL1"]),
        "text.fits": lambda path: path.write_text("no FITS"),
    }
    for name, make in bad.items():
        make(tmp_path / name)
    images = sciplat.ingest_images(tmp_path, tmp_path / "store")
    assert images.rows["image_id"].to_pylist() == ["good"]
    assert sorted(source for source, _ in images.report["refused"]) == [str(tmp_path / name) for name in sorted(bad)]
    assert all(reason for _, reason in images.report["refused"])
    assert is_whole(images)
    np.testing.assert_array_equal(pixels(images, "good"), PIXELS)
    for name in bad:
        with pytest.raises(InputError):
            sciplat.ingest_images([good, tmp_path / name], tmp_path / "refused", bad="refuse")
        assert not (tmp_path / "refused").exists()


def test_nothing_but_unusable_files(tmp_path):
    files = [image(tmp_path / "a.fits", drop=["CTYPE1"]), broken_inside(tmp_path / "b.fits.fz")]
    assert refuse(tmp_path, InputError, files).what == "none of 2 files can be ingested"
    assert "b.fits.fz" in refuse(tmp_path, InputError, files[1]).what


def test_two_images_of_one_name(tmp_path):
    files = [image(tmp_path / night / "a.fits") for night in ("night1", "night2")]
    error = refuse(tmp_path, InputError, files, bad="refuse")
    assert error.what == "two images are called 'a'"
    images = sciplat.ingest_images(files, tmp_path / "store")
    assert images.report["refused"] == [[str(files[1]), f"two images are called 'a'; found {files[0]} and {files[1]}"]]


@pytest.mark.parametrize("order", [-1, 11, 29, 2.5, "3"])
def test_an_order_that_no_store_has(tmp_path, order):
    assert refuse(tmp_path, ArgumentError, image(tmp_path / "a.fits"), order=order).found == repr(order)


def test_unknown_words(tmp_path):
    path = image(tmp_path / "a.fits")
    assert "drop" in refuse(tmp_path, ArgumentError, path, bad="drop").what
    assert "sdss" in refuse(tmp_path, ProfileError, path, profile="hubble").hint


@pytest.mark.parametrize("order", [0, 10])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (5, 5), (513, 511)], ids=str)
def test_images_of_any_shape(tmp_path, shape, order):
    data = RNG.normal(size=shape).astype(np.float32)
    images = sciplat.ingest_images(image(tmp_path / "a.fits", data), tmp_path / "store", order=order)
    np.testing.assert_array_equal(pixels(images, "a"), data)
    assert is_whole(images)
    assert images.cells[0].order == order


@pytest.mark.parametrize("dec", [90.0, -90.0])
def test_an_image_across_a_pole_is_found_from_every_side(tmp_path, dec):
    cards = {"CRVAL1": 77.0, "CRVAL2": dec, "CRPIX1": 100.0, "CRPIX2": 100.0}
    images = sciplat.ingest_images(image(tmp_path / "a.fits", np.ones((200, 200), np.float32), **cards), tmp_path / "s")
    for ra in range(0, 360, 45):
        assert len(images.within(sciplat.Cone(f"{ra} deg", f"{0.9999 * dec} deg", "1 arcsec"))) == 1
    assert len(images.within(sciplat.Cone("0 deg", f"{0.99 * dec} deg", "1 arcsec"))) == 0


def test_pixels_of_nothing_but_nan_are_kept(tmp_path):
    images = sciplat.ingest_images(image(tmp_path / "a.fits", np.full((40, 60), np.nan, np.float32)), tmp_path / "s")
    assert np.isnan(pixels(images, "a")).all()
    assert is_whole(images)


def test_zero_points_of_other_images(tmp_path):
    path = image(tmp_path / "a.fits")
    side = tmp_path / "zero.csv"
    side.write_text("image_id,zero_point\nb,25\nc,26\n")
    error = refuse(tmp_path, InputError, path, zero_points=side)
    assert error.found == "b, c in the table; the first image is a"
    side.write_text("image_id,zero_point\nb,25\na,26.5\n")
    images = sciplat.ingest_images([path, image(tmp_path / "d.fits")], tmp_path / "store", zero_points=side)
    assert dict(zip(*(images.rows[name].to_pylist() for name in ("image_id", "zero_point")), strict=True)) == {
        "a": 26.5,
        "d": None,
    }
    assert "x.csv" in refuse_missing(tmp_path, path).what


def refuse_missing(tmp_path, path):
    with pytest.raises(InputNotFound) as missing:
        sciplat.ingest_images(path, tmp_path / "other", zero_points=tmp_path / "x.csv")
    assert not (tmp_path / "other").exists()
    return missing.value


def test_a_store_that_exists_is_untouched(tmp_path):
    path = image(tmp_path / "a.fits")
    images = sciplat.ingest_images(path, tmp_path / "store")
    before = content(tmp_path / "store")
    with pytest.raises(StoreExists):
        sciplat.ingest_images(path, tmp_path / "store")
    sciplat.ingest_catalog(images.table.compute(), tmp_path / "catalog")
    with pytest.raises(StoreExists):
        sciplat.ingest_images(path, tmp_path / "catalog")
    with pytest.raises(StoreExists):
        sciplat.ingest_catalog(images.table.compute(), tmp_path / "store")
    assert content(tmp_path / "store") == before
    assert is_whole(sciplat.open_images(tmp_path / "store"))


@pytest.mark.parametrize("below", [".", "a/b"])
def test_the_url_is_one_of_the_images(tmp_path, below):
    """`sciplat ingest images *.fits` without a URL takes the last file for one."""
    files = [image(tmp_path / "a.fits"), image(tmp_path / "b.fits")]
    before = files[1].read_bytes()
    with pytest.raises(StoreExists) as refused:
        sciplat.ingest_images(files[0], files[1] / below)
    assert refused.value.found == f"{files[1]} is a file"
    assert files[1].read_bytes() == before


def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system: only root may mount one, where the machine allows it")
    try:
        files = [image(tmp_path / f"{k}.fits", RNG.normal(size=(500, 500)).astype(np.float32)) for k in range(4)]
        with pytest.raises(StorageError) as full:
            sciplat.ingest_images(files, disk / "store")
        assert str(disk / "store" / "Norder=") in full.value.what
        assert "No space left on device; 1,000,000 bytes" in full.value.found
        assert list(disk.iterdir()) == []
        assert is_whole(sciplat.ingest_images(files[0], disk / "store"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_of_two_writers_at_one_url_one_wins_and_the_other_spoils_nothing(tmp_path):
    files = [image(tmp_path / f"{k}.fits", RNG.normal(size=(300, 300)).astype(np.float32)) for k in range(8)]

    def ingest(each):
        try:
            return sciplat.ingest_images(each, tmp_path / "store")
        except (ConflictError, StoreExists) as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(ingest, [files[:2], files[2:4], files[4:6], files[6:]]))
    winners = [outcome for outcome in outcomes if isinstance(outcome, sciplat.Images)]
    assert len(winners) == 1
    stored = sciplat.open_images(tmp_path / "store")
    assert stored.rows.equals(winners[0].rows)
    assert is_whole(stored)
    groups = {path.name for path in (tmp_path / "store").glob("Norder=*/Npix=*/*")}
    assert groups == {name.rpartition("/")[2] for name in stored.rows["group"].to_pylist()}


def test_a_failure_spares_what_it_did_not_make(tmp_path):
    (tmp_path / "store" / ".git").mkdir(parents=True)
    with pytest.raises(InputError):
        sciplat.ingest_images(broken_inside(tmp_path / "a.fits.fz"), tmp_path / "store")
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".git"]
