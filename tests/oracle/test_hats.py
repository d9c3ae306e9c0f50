"""Foreign readers open our stores: hats and lsdb the catalogs, zarr and xarray the pixels."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

import sciplat
from sciplat import Cone
from tests.sky_scene import CENTRES, WHOLE_SKY, sources, write_catalog, write_images

# lsdb and nested-pandas use what pandas 3 calls deprecated; the warnings are theirs
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option is deprecated"),
    pytest.mark.filterwarnings("ignore:The inplace keyword in NestedFrame.drop is deprecated"),
]
ORDER = ["_healpix_29", "source_id", "mjd", "image_id"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Write images, catalog, photometry and light curves as stores; return their folder."""
    folder = tmp_path_factory.mktemp("scene")
    images = sciplat.ingest_images(write_images(folder / "fits"), folder / "images")
    write_catalog(folder / "catalog", sources(), WHOLE_SKY)
    catalog = sciplat.open_catalog(folder / "catalog")
    photometry = _photometry(images, catalog, "4 pix").write(folder / "photometry")
    photometry.nest("source_id").write(folder / "curves")
    return folder


@pytest.fixture(scope="module")
def gaia(data, tmp_path_factory):
    url = tmp_path_factory.mktemp("gaia") / "gaia"
    return sciplat.ingest_catalog(
        data / "allsky" / "gaia_dr3_bright.parquet", url, rows_per_cell=50_000, epoch="J2016.0"
    )


@pytest.fixture(scope="module")
def lsdb(rival):
    return rival("lsdb")


@pytest.fixture(scope="module")
def hats(rival):
    rival("hats.io.validation")
    return rival("hats")


def _photometry(images, catalog, radius):
    return images.photometry(catalog, radii=[radius], annulus=("8 pix", "12 pix"))


def _as_arrow(frame, schema):
    """Return lsdb's frame as an Arrow table, with its index as the column that it was."""
    return (
        pa.Table.from_pandas(frame.reset_index(), preserve_index=False).select(schema.names).replace_schema_metadata()
    )


def _assert_same_rows(frame, ours, by):
    """Values and nulls of every column, whatever the order in which the cells came."""
    theirs = _as_arrow(frame, ours.schema)
    order = [(name, "ascending") for name in by]
    assert theirs.schema.types == ours.schema.types
    assert theirs.num_rows == ours.num_rows > 0
    assert sorted([*frame.columns, frame.index.name]) == sorted(ours.schema.names)
    theirs, ours = theirs.sort_by(order), ours.sort_by(order)
    for name in ours.schema.names:
        assert theirs[name].null_count == ours[name].null_count
        assert theirs[name].combine_chunks().equals(ours[name].combine_chunks()), name


@pytest.mark.parametrize("name", ["catalog", "photometry", "curves", "images/images"])
def test_hats_finds_every_catalog_valid(hats, scene, name):
    assert hats.io.validation.is_valid_catalog(scene / name, strict=True)
    ours, theirs = sciplat.open_catalog(scene / name), hats.read_hats(scene / name).main_catalog
    assert theirs.schema.equals(ours.schema, check_metadata=False)
    assert theirs.catalog_info.total_rows == len(ours)
    pixels = {(pixel.order, pixel.pixel) for pixel in theirs.get_healpix_pixels()}
    assert pixels == {(cell.order, cell.index) for cell in ours.cells}
    if name == "photometry":
        assert theirs.schema.field("flux_0").metadata[b"unit"] == b"adu"


def test_hats_misses_a_file_that_is_gone(hats, scene, tmp_path):
    """The validation that passes above does look at the files."""
    images = sciplat.open_images(scene / "images")
    store = _photometry(images, sciplat.open_catalog(scene / "catalog"), "4 pix").write(tmp_path / "photometry")
    assert hats.io.validation.is_valid_catalog(tmp_path / "photometry", strict=True)
    (tmp_path / "photometry" / store.store.entries[0].file.path).unlink()
    assert not hats.io.validation.is_valid_catalog(tmp_path / "photometry", strict=True)


@pytest.mark.parametrize("name", ["catalog", "photometry"])
def test_lsdb_reads_the_same_rows(lsdb, scene, name):
    ours = sciplat.open_catalog(scene / name).compute()
    _assert_same_rows(lsdb.open_catalog(scene / name).compute(), ours, [by for by in ORDER if by in ours.schema.names])


def test_nulls_stay_nulls(lsdb, scene):
    """Neither NaN nor zero: the image without a zero point has no magnitudes."""
    frame = lsdb.open_catalog(scene / "photometry").compute()
    without = (frame["image_id"] == "plain").to_numpy(dtype=bool)
    missing = frame["flux_nJy_0"].isna().to_numpy(dtype=bool)
    assert without.any()
    np.testing.assert_array_equal(missing, without)


def test_lsdb_reads_the_table_of_images(lsdb, scene):
    ours = sciplat.open_images(scene / "images").table.compute()
    assert ours.num_rows == len(CENTRES)
    _assert_same_rows(lsdb.open_catalog(scene / "images" / "images").compute(), ours, ["image_id"])


def test_lsdb_reads_light_curves_as_nested_columns(lsdb, scene):
    ours = sciplat.open_catalog(scene / "curves").compute().sort_by("source_id")
    frame = lsdb.open_catalog(scene / "curves").compute().reset_index()
    frame = frame.iloc[np.argsort(frame["source_id"].to_numpy())].reset_index(drop=True)
    head = ["_healpix_29", "source_id", "ra", "dec"]
    assert pa.Table.from_pandas(frame[head], preserve_index=False).equals(ours.select(head), check_metadata=False)
    lists = ours["light_curve"].combine_chunks()
    points, flat = pa.Table.from_struct_array(lists.flatten()), frame["light_curve"].nest.to_flat()
    assert flat.index.to_list() == pc.list_parent_indices(lists).to_pylist()
    assert max(pc.list_value_length(lists).to_pylist()) > 1
    theirs = pa.Table.from_pandas(flat, preserve_index=False)
    assert theirs.schema.names == points.schema.names
    for name in points.schema.names:
        assert theirs[name].combine_chunks().equals(points[name].combine_chunks()), name
    photometry = sciplat.open_catalog(scene / "photometry").compute()
    assert points.num_rows == photometry.num_rows
    assert points["flux_0"].null_count == photometry["flux_0"].null_count


@pytest.mark.parametrize(
    ("ra", "dec", "arcsec"), [(0, 90, 60), (0, -90, 45), (0, 0, 70), (359.99, 0, 50), (200, -33, 30)]
)
def test_cones_are_lsdb_s(lsdb, scene, ra, dec, arcsec):
    cone = Cone(f"{ra} deg", f"{dec} deg", f"{arcsec} arcsec")
    ours = sciplat.open_catalog(scene / "photometry").within(cone).compute()
    theirs = lsdb.open_catalog(scene / "photometry").cone_search(ra, dec, arcsec).compute()
    _assert_same_rows(theirs, ours, ORDER)


def test_a_new_version_is_lsdb_s_and_an_open_catalog_keeps_the_old(lsdb, hats, scene, tmp_path):
    images, catalog = sciplat.open_images(scene / "images"), sciplat.open_catalog(scene / "catalog")
    url = tmp_path / "photometry"
    old = _photometry(images, catalog, "4 pix").write(url).compute()
    opened = lsdb.open_catalog(url)
    new = _photometry(images, catalog, "5 pix").write(url, replace=True).compute()
    assert not new["area_0"].equals(old["area_0"])
    _assert_same_rows(lsdb.open_catalog(url).compute(), new, ORDER)
    _assert_same_rows(opened.compute(), old, ORDER)
    assert hats.io.validation.is_valid_catalog(url, strict=True)


def test_gaia_lies_in_the_cells_that_its_names_say(gaia, data):
    """Gaia's source_id holds the HEALPix cell of order 12 in its upper bits, from slightly earlier positions."""
    rows = gaia.compute()
    assert rows.num_rows == pq.ParquetFile(data / "allsky" / "gaia_dr3_bright.parquet").metadata.num_rows
    same = rows["_healpix_29"].to_numpy() >> 34 == rows["id"].to_numpy() >> 35
    assert same.mean() >= 0.997


def test_hats_and_lsdb_open_gaia(hats, lsdb, gaia):
    url = gaia.store.storage.url
    assert len(gaia.cells) > 12
    assert hats.io.validation.is_valid_catalog(url, strict=True)
    _assert_same_rows(lsdb.open_catalog(url).compute(), gaia.compute(), ["_healpix_29", "id"])


@pytest.mark.parametrize(("ra", "dec", "degrees"), [(15, 90, 4), (0.0, 1.0, 3), (266.4, -29.0, 2)])
def test_cones_of_gaia_are_lsdb_s(lsdb, gaia, ra, dec, degrees):
    ours = gaia.within(Cone(f"{ra} deg", f"{dec} deg", f"{degrees} deg")).compute()
    theirs = lsdb.open_catalog(gaia.store.storage.url).cone_search(ra, dec, degrees * 3600).compute()
    assert ours.num_rows > 100
    _assert_same_rows(theirs, ours, ["_healpix_29", "id"])


@pytest.mark.parametrize("name", CENTRES)
def test_zarr_and_xarray_read_the_pixels_of_the_files(rival, scene, name):
    zarr, xarray = rival("zarr"), rival("xarray")
    row = next(row for row in sciplat.open_images(scene / "images").rows.to_pylist() if row["image_id"] == name)
    group = zarr.open_group(scene / "images" / row["group"], mode="r")
    dataset = xarray.open_zarr(scene / "images" / row["group"], consolidated=False)
    with fits.open(scene / "fits" / f"{name}.fits") as file:
        for plane, extension in (("science", "SCI"), ("variance", "VAR"), ("mask", "MASK")):
            pixels = np.asarray(file[extension].data)
            np.testing.assert_array_equal(group[plane][row["index"]], pixels)
            np.testing.assert_array_equal(dataset[plane].isel(image=row["index"]), pixels)
            assert dataset[plane].dims == ("image", "y", "x")
    assert float(dataset["mjd"][row["index"]]) == row["mjd"] == 60000.0 + list(CENTRES).index(name)


def test_xarray_takes_the_dates_as_a_coordinate(rival, scene):
    row = sciplat.open_images(scene / "images").rows.to_pylist()[0]
    dataset = rival("xarray").open_zarr(scene / "images" / row["group"], consolidated=False)
    assert "mjd" in dataset.coords
    assert sorted(dataset.data_vars) == ["mask", "science", "variance"]
