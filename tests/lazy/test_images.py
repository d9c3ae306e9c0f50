import numpy as np
import pytest

import sciplat
from sciplat.errors import ArgumentError
from tests.sky_scene import CENTRES, WHOLE_SKY, sources, write_catalog, write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return sciplat.ingest_images(write_images(folder / "fits"), folder / "store")


def names(images):
    return sorted(images.rows["image_id"].to_pylist())


def test_the_table_is_a_catalog_of_the_images(images):
    table = images.table.compute()
    assert sorted(table["image_id"].to_pylist()) == sorted(CENTRES)
    assert images.table.within(sciplat.Cone("0 deg", "90 deg", "1 deg")).compute()["image_id"].to_pylist() == ["north"]


def test_regions_and_bands_choose_images(images):
    assert names(images.within(sciplat.Cone("0 deg", "0 deg", "1 arcsec"))) == ["seam", "seam_again"]
    assert names(images.within(sciplat.Cone("0 deg", "-90 deg", "1 arcsec"))) == ["south"]
    assert names(images.select_bands("g", "r")) == sorted(CENTRES)
    assert set(images.select_bands("g").rows["band"].to_pylist()) == {"g"}
    with pytest.raises(ArgumentError, match="'u'"):
        images.select_bands("u")


def test_open_takes_bands_and_region(images):
    url = images.store.storage.url
    opened = sciplat.open_images(url, bands=["g"], region=sciplat.Cone("0 deg", "0 deg", "1 arcsec"))
    assert names(opened) == names(images.select_bands("g").within(sciplat.Cone("0 deg", "0 deg", "1 arcsec")))


def test_what_is_known_of_the_store(images):
    assert len(images) == len(CENTRES)
    assert images.version == 1
    assert images.report == {"images": len(CENTRES), "refused": []}
    assert "bands g, r" in repr(images)
    assert all(cell.order == images.properties["order"] for cell in images.cells)


def test_a_group_opens_in_xarray(images):
    row = images.rows.to_pylist()[0]
    dataset = images.to_xarray(row["group"])
    assert dict(dataset.sizes) == {"image": 1, "y": 96, "x": 96}
    assert float(dataset.mjd[row["index"]]) == row["mjd"]
    with pytest.raises(ArgumentError, match="no group"):
        images.to_xarray("nowhere")


def test_images_live_on_object_storage_too(images, tmp_path):
    folder = write_images(tmp_path / "fits")
    remote = sciplat.ingest_images(folder, f"memory://{tmp_path.name}/images")
    write_catalog(tmp_path / "catalog", sources(), WHOLE_SKY)
    catalog = sciplat.open_catalog(tmp_path / "catalog")
    arguments = {"radii": ["4 pix"], "annulus": ("8 pix", "12 pix")}
    rows = remote.photometry(catalog, **arguments).compute()
    assert rows.num_rows > 50
    assert rows.equals(images.photometry(catalog, **arguments).compute())


def test_a_url_may_go_up(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    images = sciplat.ingest_images(write_images(tmp_path / "fits"), "../store")
    assert images.store.storage.url == str(tmp_path / "store")
    assert len(sciplat.open_images(tmp_path / "store")) == len(CENTRES)


def test_the_positions_of_the_table_lie_on_the_images(images):
    for row in images.rows.to_pylist():
        ra, dec = CENTRES[row["image_id"]]
        corners = np.array(row["corners"]).reshape(4, 2)
        separation = np.hypot((row["ra"] - ra + 180) % 360 - 180, 0) * np.cos(np.radians(row["dec"]))
        assert abs(separation) < 0.002
        assert abs(row["dec"] - dec) < 0.002
        assert (np.abs(corners[:, 1] - row["dec"]) < 0.06).all()
