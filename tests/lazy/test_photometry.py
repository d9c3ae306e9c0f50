import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sciplat
from sciplat.errors import AngleError, ArgumentError, ColumnError, StoreExists
from sciplat.io.verify import verify_files
from sciplat.sky.angle import Length
from sciplat.steps.photometry import Apertures, ImagePixels, measure, place
from sciplat.steps.wcs import ImageWcs
from tests.sky_scene import CENTRES, SIZE, WHOLE_SKY, sources, write_catalog, write_images
from tests.strategies import partitions

ARGUMENTS = {"radii": ["4 pix", "10 arcsec"], "annulus": ("8 pix", "12 pix")}
APERTURES = Apertures((Length(4, "pix"), Length(10 / 3600, "deg")), (Length(8, "pix"), Length(12, "pix")), "median")


@pytest.fixture(scope="module")
def fits_folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("scene") / "fits")


@pytest.fixture(scope="module")
def scene(tmp_path_factory, fits_folder):
    folder = tmp_path_factory.mktemp("stores")
    images = sciplat.ingest_images(fits_folder, folder / "images")
    write_catalog(folder / "catalog", sources(), WHOLE_SKY)
    return images, sciplat.open_catalog(folder / "catalog")


def brute_force(images):
    """Measure every source on every image, without cells, plans or windows."""
    catalog = sources()
    ra, dec = catalog["ra"].to_numpy(), catalog["dec"].to_numpy()
    measured = {}
    for image in images.rows.to_pylist():
        dataset = images.to_xarray(image["group"]).isel(image=image["index"])
        pixels = ImagePixels(
            0, 0, dataset.science.to_numpy(), dataset.variance.to_numpy(), dataset.mask.to_numpy(), image["mask_bad"],
            image["mask_saturated"], np.inf,
        )  # fmt: skip
        placed = place(ImageWcs(image["wcs"]), SIZE, SIZE, ra, dec)
        values = measure(pixels, placed, APERTURES, image["zero_point"])
        for i, row in enumerate(placed.row):
            identity = catalog["source_id"][int(row)].as_py(), image["image_id"]
            measured[identity] = {name: column[i] for name, column in values.items()}
    return measured


def test_every_source_is_measured_once_on_every_image_that_holds_it(scene):
    images, catalog = scene
    rows = images.photometry(catalog, **ARGUMENTS).compute()
    expected = brute_force(images)
    assert {image for _, image in expected} == set(CENTRES)
    identities = list(zip(rows["source_id"].to_pylist(), rows["image_id"].to_pylist(), strict=True))
    assert len(set(identities)) == len(identities)
    assert set(identities) == set(expected)
    for row in rows.to_pylist():
        for name, value in expected[row["source_id"], row["image_id"]].items():
            assert row[name] == value or (row[name] is None and not np.isfinite(value)), name


@settings(max_examples=25)
@given(partitions(max_splits=20, max_order=9), st.integers(0, 10))
def test_the_answer_does_not_depend_on_the_cells(tmp_path_factory, scene, fits_folder, cells, order):
    """The same bits in every column, whatever the cells of the catalog and of the images."""
    folder = tmp_path_factory.mktemp("partition")
    images = sciplat.ingest_images(fits_folder, folder / "images", order=order)
    write_catalog(folder / "catalog", sources(), cells)
    rows = images.photometry(sciplat.open_catalog(folder / "catalog"), **ARGUMENTS).compute()
    assert rows.equals(scene[0].photometry(scene[1], **ARGUMENTS).compute())


def test_a_written_result_is_the_computed_one(scene, tmp_path):
    images, catalog = scene
    plan = images.photometry(catalog, **ARGUMENTS)
    store = plan.write(tmp_path / "phot")
    assert store.compute().equals(plan.compute())
    assert sciplat.open_catalog(tmp_path / "phot").schema.equals(plan.schema, check_metadata=True)
    assert verify_files(store.store.storage, store.store.manifest) == []
    assert store.schema.field("flux_1").metadata[b"radius"] == b"10 arcsec"


def test_result_cells_are_split_as_the_catalog_s(scene, tmp_path):
    images, _ = scene
    write_catalog(tmp_path / "catalog", sources(), WHOLE_SKY, rows_per_cell=40)
    store = images.photometry(sciplat.open_catalog(tmp_path / "catalog"), **ARGUMENTS).write(tmp_path / "phot")
    assert max(entry.file.rows for entry in store.store.entries) <= 40
    assert len(store.cells) > len(images.photometry(scene[1], **ARGUMENTS).cells)
    assert store.compute().equals(images.photometry(scene[1], **ARGUMENTS).compute())


def test_a_cluster_gives_the_same_files_as_threads(scene, tmp_path):
    from distributed import Client, LocalCluster

    images, catalog = scene
    plan = images.photometry(catalog, **ARGUMENTS)
    local = plan.write(tmp_path / "threads")
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        remote = plan.write(tmp_path / "cluster")
    assert remote.store.manifest.digest == local.store.manifest.digest


def test_what_explain_says_is_about_what_happens(scene):
    images, catalog = scene
    plan = images.photometry(catalog, **ARGUMENTS)
    quoted = plan.explain()
    assert quoted.cells == quoted.tasks == len(plan.cells)
    assert 0 < quoted.reads <= quoted.stored
    assert quoted.memory >= SIZE * SIZE * 12
    assert f"{quoted.tasks:,} tasks" in str(quoted)


def test_calibrated_columns_are_null_without_a_zero_point_and_follow_it_otherwise(scene):
    rows = scene[0].photometry(scene[1], **ARGUMENTS).compute().to_pylist()
    for row in rows:
        assert bool(row["flags_0"] & 32) == (row["image_id"] == "plain") == (row["flux_nJy_0"] is None)
        if row["flux_nJy_0"] is not None and row["flux_0"] > 0:
            assert row["mag_0"] == pytest.approx(27 - 2.5 * np.log10(row["flux_0"]))
            assert row["flux_nJy_0"] == pytest.approx(10 ** ((31.4 - row["mag_0"]) / 2.5))
            assert row["mag_err_0"] == pytest.approx(1.0857362 * row["flux_err_0"] / row["flux_0"])
        elif row["flux_nJy_0"] is not None:
            assert row["mag_0"] is None


def test_bands_and_kept_columns(scene):
    images, catalog = scene
    rows = images.photometry(catalog, radii=["4 pix"], bands=["g"], keep=["dec", "ra", "dec"]).compute()
    assert set(rows["band"].to_pylist()) == {"g"}
    assert rows.schema.names[-2:] == ["dec_catalog", "ra_catalog"]
    assert rows["dec_catalog"].equals(rows["dec"])
    assert rows["background"].null_count == rows.num_rows
    few = images.photometry(catalog.select("ra"), radii=["4 pix"], bands="g", keep="ra").compute()
    assert few["flux_0"].equals(rows["flux_0"])


def test_light_curves_hold_every_measurement(scene, tmp_path):
    images, catalog = scene
    flat = images.photometry(catalog, **ARGUMENTS)
    nested = flat.nest("source_id", ["mjd", "band", "flux_0"]).write(tmp_path / "curves").compute()
    rows = flat.compute()
    ids, counts = np.unique(rows["source_id"].to_numpy(), return_counts=True)
    assert dict(zip(nested["source_id"].to_pylist(), map(len, nested["light_curve"].to_pylist()), strict=True)) == dict(
        zip(ids.tolist(), counts.tolist(), strict=True)
    )
    points = [point for curve in nested["light_curve"].to_pylist() for point in curve]
    assert points == rows.select(["mjd", "band", "flux_0"]).to_pylist()


@pytest.mark.parametrize(("columns", "name"), [([], "p"), (["mjd"], "ra"), (["mjd", "mjd"], "p")])
def test_nests_that_make_no_sense_are_refused(scene, columns, name):
    with pytest.raises(ArgumentError):
        scene[0].photometry(scene[1], **ARGUMENTS).nest("source_id", columns, name=name)


def test_a_failing_task_leaves_no_store_and_what_replay_needs(scene, tmp_path, monkeypatch):
    images, catalog = scene

    def fail(*_args):
        raise RuntimeError("broken")

    with monkeypatch.context() as broken:
        broken.setattr("sciplat.tasks.photometry.measure", fail)
        with pytest.raises(RuntimeError, match="broken"):
            images.photometry(catalog, **ARGUMENTS).write(tmp_path / "phot")
    assert [path.name for path in (tmp_path / "phot").iterdir()] == [".staging"]
    assert sorted(path.name[:4] for path in (tmp_path / "phot" / ".staging").rglob("*.json*")) == ["log-", "plan"]
    # no cell was done, so another plan is not refused, and clears it up
    images.photometry(catalog, radii=["5 pix"]).write(tmp_path / "phot")
    assert not (tmp_path / "phot" / ".staging").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"radii": [3]}, AngleError),
        ({"radii": []}, ArgumentError),
        ({"radii": "3 pix"}, ArgumentError),
        ({"radii": ["3 pix"], "annulus": ("5 pix", "5 pix")}, ArgumentError),
        ({"radii": ["3 pix"], "annulus": ("5 pix",)}, ArgumentError),
        ({"radii": ["3 pix"], "background": "mesh"}, ArgumentError),
        ({"radii": ["3 pix"], "bands": ["u"]}, ArgumentError),
        ({"radii": ["3 pix"], "keep": ["mag"]}, ColumnError),
    ],
)
def test_arguments_that_make_no_sense_are_refused(scene, arguments, error):
    with pytest.raises(error):
        scene[0].photometry(scene[1], **arguments)


def test_a_store_that_exists_and_an_empty_result_are_refused(scene, tmp_path):
    images, catalog = scene
    plan = images.photometry(catalog, **ARGUMENTS)
    first = plan.write(tmp_path / "phot")
    assert plan.write(tmp_path / "phot").store.manifest == first.store.manifest  # it is there already
    with pytest.raises(StoreExists, match=r"radii of photometry: \[\[4.0"):
        images.photometry(catalog, radii=["5 pix"]).write(tmp_path / "phot")
    assert plan.write(tmp_path / "phot", replace=True).version == 2
    write_catalog(tmp_path / "far", pa.table(sources().slice(0, 0)), WHOLE_SKY)
    with pytest.raises(ArgumentError, match="empty"):
        images.photometry(sciplat.open_catalog(tmp_path / "far"), **ARGUMENTS).write(tmp_path / "none")
    assert not (tmp_path / "none").exists()
