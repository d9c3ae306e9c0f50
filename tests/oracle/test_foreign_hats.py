"""Catalogs that hats-import and lsdb make open here, with the rows that lsdb reads of them."""

import numpy as np
import pyarrow as pa
import pytest

import sciplat
from sciplat import Cone
from tests.oracle.conftest import survey

pytestmark = [
    # lsdb and nested-pandas use what pandas 3 calls deprecated, hats-import what Dask does; the warnings are theirs
    pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option is deprecated"),
    pytest.mark.filterwarnings("ignore:The inplace keyword in NestedFrame"),
]
CONE = (120.0, 10.0, 20.0)


@pytest.fixture(scope="module")
def lsdb(rival):
    return rival("lsdb")


def _theirs(frame, schema):
    table = pa.Table.from_pandas(frame.reset_index(), preserve_index=False)
    return pa.table([table[name] for name in schema.names], names=schema.names).sort_by("objid")


def _assert_equal_rows(lsdb, url):
    """Compare all rows and those of a cone, column by column, whatever the order of rows with equal indices."""
    catalog, other = sciplat.open_catalog(url), lsdb.open_catalog(url, columns="all")
    ra, dec, degrees = CONE
    pairs = [
        (catalog.compute(), other.compute()),
        (
            catalog.within(Cone(f"{ra} deg", f"{dec} deg", f"{degrees} deg")).compute(),
            other.cone_search(ra, dec, degrees * 3600).compute(),
        ),
    ]
    for ours, frame in pairs:
        theirs = _theirs(frame, ours.schema)
        assert np.all(np.diff(ours["_healpix_29"].to_numpy()) >= 0)
        assert theirs.num_rows == ours.num_rows > 20
        sorted_ours = ours.sort_by("objid")
        for name in ours.schema.names:
            assert theirs[name].combine_chunks().equals(sorted_ours[name].combine_chunks()), name
    return catalog


@pytest.mark.parametrize(
    "options",
    [{}, {"npix_suffix": "/", "npix_parquet_name": "part0.parquet", "create_metadata": False}],
    ids=["files", "folders without a summary"],
)
def test_catalogs_of_hats_import_open_here(lsdb, by_hats_import, options):
    url = by_hats_import("stars", **options)
    catalog = _assert_equal_rows(lsdb, url)
    assert (len(catalog), len(catalog.cells) > 12, catalog.properties["id"]) == (2000, True, "objid")
    assert catalog.schema.field("band").type == pa.string() or catalog.schema.field("band").type == pa.large_string()


def test_a_catalog_without_schema_files_opens_here(by_hats_import):
    url = by_hats_import("bare")
    whole = sciplat.open_catalog(url).compute()
    for name in ("_metadata", "_common_metadata"):
        (url / "dataset" / name).unlink()
    assert sciplat.open_catalog(url).compute().equals(whole)
    (url / "partition_info.csv").unlink()
    assert sciplat.open_catalog(url).compute().equals(whole)


@pytest.fixture(scope="module")
def collection(lsdb, tmp_path_factory):
    """Return the folder of a collection with a margin that lsdb wrote."""
    url = tmp_path_factory.mktemp("lsdb") / "stars"
    frame = lsdb.from_dataframe(survey(), ra_column="ra", dec_column="dec", margin_threshold=7200, partition_rows=200)
    frame.write_catalog(url, catalog_name="stars")
    return url


def test_a_collection_of_lsdb_opens_here_without_its_margin(lsdb, collection):
    catalog = _assert_equal_rows(lsdb, collection)
    assert len(catalog) == 2000
    margin = next(path for path in collection.iterdir() if path.name.startswith("stars_"))
    with pytest.raises(sciplat.errors.InputError, match="margin"):
        sciplat.open_catalog(margin)


def test_nested_columns_of_lsdb_stay_arrow_s(lsdb, tmp_path):
    import nested_pandas

    objects = survey(300).set_index("objid")
    rng = np.random.default_rng(0)
    points = objects.loc[rng.integers(0, 300, 900), []].assign(mjd=rng.uniform(0, 9, 900), flux=rng.normal(size=900))
    frame = nested_pandas.NestedFrame(objects).join_nested(points, "curve").reset_index()
    lsdb.from_dataframe(frame, ra_column="ra", dec_column="dec", margin_threshold=None).write_catalog(
        tmp_path / "curves", catalog_name="curves", as_collection=False
    )
    rows = sciplat.open_catalog(tmp_path / "curves").compute()
    for row, curve in zip(rows["objid"].to_pylist(), rows["curve"].to_pylist(), strict=True):
        mine = points.loc[points.index == row]
        assert sorted((curve or {"flux": []})["flux"]) == sorted(mine["flux"].tolist())
