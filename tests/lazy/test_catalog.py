import numpy as np
import pyarrow as pa
import pytest

import sciplat
from sciplat.errors import ArgumentError, ColumnError, StoreNotFound
from sciplat.sky.cell import cell_ranges, healpix_29


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(11)
    n = 5000
    mag = pa.array(rng.normal(20, 1, n), mask=rng.uniform(size=n) < 0.1)
    dec = np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    schema = pa.schema(
        [
            pa.field("source_id", pa.int64()),
            pa.field("ra", pa.float64(), metadata={"unit": "deg"}),
            pa.field("dec", pa.float64(), metadata={"unit": "deg"}),
            pa.field("mag", pa.float64(), metadata={"unit": "mag", "description": "in no band"}),
            pa.field("name", pa.string()),
        ]
    )
    return pa.table([np.arange(n), rng.uniform(0, 360, n), dec, mag, [f"s{i}" for i in range(n)]], schema=schema)


@pytest.fixture(scope="module")
def catalog(table, tmp_path_factory):
    return sciplat.ingest_catalog(table, tmp_path_factory.mktemp("cat") / "cat", rows_per_cell=400)


def by_id(table):
    return table.sort_by("source_id")


def test_what_is_ingested_is_computed(catalog, table):
    rows = catalog.compute()
    assert by_id(rows).drop_columns(["_healpix_29"]).equals(table)
    index = rows["_healpix_29"].to_numpy()
    assert (np.diff(index) >= 0).all()
    assert (index == healpix_29(rows["ra"].to_numpy(), rows["dec"].to_numpy())).all()
    assert rows.schema.field("mag").metadata == {b"unit": b"mag", b"description": b"in no band"}


def test_select_keeps_position_and_index(catalog):
    assert catalog.select("mag").columns == ["_healpix_29", "source_id", "ra", "dec", "mag"]
    assert len(catalog.select("mag")) == len(catalog)
    assert catalog.select("mag").compute()["mag"].equals(catalog.compute()["mag"])
    with pytest.raises(ColumnError, match="'magnitude'"):
        catalog.select("magnitude")


@pytest.mark.parametrize(
    "region",
    [
        sciplat.Cone("0 deg", "90 deg", "20 deg"),
        sciplat.Cone("0 deg", "0 deg", "100 deg"),
        sciplat.Box(("350 deg", "20 deg"), ("-30 deg", "10 deg")),
        sciplat.Polygon((("10 deg", "0 deg"), ("50 deg", "0 deg"), ("30 deg", "40 deg"))),
        sciplat.Moc("1/3-7 3/500"),
    ],
    ids=lambda region: type(region).__name__,
)
def test_within_keeps_exactly_the_rows_inside(catalog, region):
    rows = catalog.compute()
    inside = rows.filter(pa.array(region.contains(rows["ra"].to_numpy(), rows["dec"].to_numpy())))
    assert 0 < inside.num_rows < rows.num_rows
    assert catalog.within(region).compute().equals(inside)
    assert (
        catalog.select("mag")
        .within(region)
        .compute()
        .equals(inside.select(["_healpix_29", "source_id", "ra", "dec", "mag"]))
    )
    assert catalog.within(region).within(region).select("mag").compute()["mag"].equals(inside["mag"])


def test_a_region_prunes_cells(catalog):
    cone = catalog.within(sciplat.Cone("0 deg", "90 deg", "1 deg"))
    assert 0 < len(cone.cells) < len(catalog.cells)
    assert cone.explain().reads < catalog.explain().reads


def test_head_and_limit_are_the_first_rows(catalog):
    assert catalog.head(7).equals(catalog.compute().slice(0, 7))
    assert catalog.compute(limit=900).equals(catalog.compute().slice(0, 900))
    assert catalog.compute(limit=0).num_rows == 0
    assert catalog.head(np.int64(2)).num_rows == 2
    for wrong in (-1, 1.5, "5", True):
        with pytest.raises(ArgumentError, match="a whole number, not negative"):
            catalog.head(wrong)


def test_open_takes_columns_region_and_version(catalog):
    url, cone = catalog.store.storage.url, sciplat.Cone("0 deg", "90 deg", "20 deg")
    opened = sciplat.open_catalog(url, columns=["mag"], region=cone, version=1)
    assert opened.compute().equals(catalog.select("mag").within(cone).compute())
    with pytest.raises(StoreNotFound, match="version 5"):
        sciplat.open_catalog(url, version=5)


def test_written_parts_are_catalogs(catalog, tmp_path):
    part = catalog.within(sciplat.Cone("0 deg", "90 deg", "20 deg")).write(tmp_path / "part")
    assert len(part) == part.compute().num_rows
    assert part.properties["rows_per_cell"] == 400
    assert (part.version, len(sciplat.open_catalog(tmp_path / "part"))) == (1, len(part))


def test_the_expected_rows_are_those_in_the_cells(catalog):
    index = catalog.compute()["_healpix_29"].to_numpy()
    cells = [sciplat.Cell(0, 4), sciplat.Cell(3, 100), sciplat.Cell(8, int(index[0] >> 42))]
    inside = sum(((index >= cell.start) & (index < cell.stop)).sum() for cell in cells)
    # a row may count for either side of an edge
    assert catalog.store.expected_rows(cell_ranges(cells)).sum() == pytest.approx(inside, abs=2 * len(cells))
    region = sciplat.Moc(cells)
    assert catalog.within(region).explain().rows == pytest.approx(catalog.within(region).compute().num_rows, abs=1)


def test_exits(catalog, table):
    astropy = catalog.to_astropy()
    assert str(astropy["mag"].unit) == "mag"
    assert astropy["mag"].mask.sum() == table["mag"].null_count
    assert astropy["name"][0] == catalog.compute()["name"][0].as_py()
    assert catalog.to_pandas()["source_id"].tolist() == catalog.compute()["source_id"].to_pylist()


def test_what_a_notebook_shows(catalog):
    assert "5,000 rows" in repr(catalog)
    assert "<td>mag</td>" in catalog._repr_html_()
    lazy = catalog.within(sciplat.Cone("0 deg", "90 deg", "20 deg"))
    assert lazy
    assert "lazy" in repr(lazy)
    with pytest.raises(TypeError, match="not known before"):
        len(lazy)


def test_catalogs_live_on_object_storage_too(table, tmp_path):
    local = sciplat.ingest_catalog(table, tmp_path / "cat", rows_per_cell=1000)
    remote = sciplat.ingest_catalog(table, f"memory://{tmp_path.name}/cat", rows_per_cell=1000)
    assert remote.store.manifest.digest == local.store.manifest.digest
    assert remote.compute().equals(local.compute())
