"""Gaia, Tycho-2 and Hipparcos, whole: hats and lsdb read what the files hold, and numpy finds the same numbers."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sciplat
from sciplat import Cone, Motion

pytestmark = [
    # lsdb and nested-pandas use what pandas 3 calls deprecated; the warnings are theirs
    pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option is deprecated"),
    pytest.mark.filterwarnings("ignore:The inplace keyword in NestedFrame"),
]
FILES = {"gaia": "gaia_dr3_bright", "tycho": "tycho2", "hipparcos": "hip2"}
OPTIONS = {
    "gaia": {"epoch": "J2016.0", "rows_per_cell": 40_000},
    "tycho": {"epoch": "J2000.0"},
    "hipparcos": {
        "epoch": "J1991.25",
        "rows_per_cell": 5_000,
        "motion": Motion("pmra", "pmdec", parallax="plx"),
        "citation": "van Leeuwen 2007",
    },
}
ANDROMEDA, POLE, RIGHT_ASCENSION_0 = (10.7, 41.3, 3.0), (0.0, 90.0, 4.0), (0.0, 1.0, 5.0)  # degrees


@pytest.fixture(scope="module")
def tables(data):
    """Return what the files hold."""
    return {name: pq.read_table(data / "allsky" / f"{file}.parquet") for name, file in FILES.items()}


@pytest.fixture(scope="module")
def catalogs(data, tmp_path_factory):
    """Ingest the files; return the catalogs."""
    folder = tmp_path_factory.mktemp("allsky")
    return {
        name: sciplat.ingest_catalog(data / "allsky" / f"{file}.parquet", folder / name, frame="icrs", **OPTIONS[name])
        for name, file in FILES.items()
    }


@pytest.fixture(scope="module")
def lsdb(rival):
    return rival("lsdb")


def _assert_same_rows(rows, expected):
    """Compare every value of the columns that are expected; identities tell the rows."""
    assert rows.num_rows == expected.num_rows > 0
    order, others = (np.argsort(table["id"].to_numpy(), kind="stable") for table in (rows, expected))
    for field in expected.schema:
        assert rows.schema.field(field.name).type == field.type
        assert rows[field.name].null_count == expected[field.name].null_count == 0
        np.testing.assert_array_equal(rows[field.name].to_numpy()[order], expected[field.name].to_numpy()[others])


def _as_arrow(frame):
    return pa.Table.from_pandas(frame.reset_index(), preserve_index=False)


def _in_cone(table, ra, dec, radius):
    """Return which rows lie within a radius, by the haversine formula; all in degrees."""
    lon, lat = np.radians(table["ra"].to_numpy() - ra), np.radians(table["dec"].to_numpy())
    half = np.sin((lat - np.radians(dec)) / 2) ** 2 + np.cos(lat) * np.cos(np.radians(dec)) * np.sin(lon / 2) ** 2
    return np.degrees(2 * np.arcsin(np.sqrt(half))) <= radius


@pytest.mark.parametrize("name", FILES)
def test_a_catalog_holds_the_rows_of_its_file(catalogs, tables, name):
    catalog = catalogs[name]
    rows = catalog.compute()
    assert len(catalog) == catalog.count() == catalog.report["rows"] == tables[name].num_rows
    assert np.all(np.diff(rows["_healpix_29"].to_numpy()) >= 0)
    _assert_same_rows(rows, tables[name])


@pytest.mark.parametrize("name", FILES)
def test_hats_finds_every_catalog_valid(rival, catalogs, name):
    is_valid = rival("hats.io.validation").is_valid_catalog
    store = catalogs[name].store
    assert is_valid(f"{store.storage.url}/{store.manifest.folder}", strict=True)
    assert is_valid(store.storage.url, strict=True)


@pytest.mark.parametrize("name", FILES)
def test_lsdb_reads_the_rows_of_the_file(lsdb, catalogs, tables, name):
    opened = lsdb.open_catalog(catalogs[name].store.storage.url, columns="all")
    _assert_same_rows(_as_arrow(opened.compute()), tables[name])
    ra, dec, radius = ANDROMEDA
    inside = tables[name].filter(pa.array(_in_cone(tables[name], ra, dec, radius)))
    _assert_same_rows(_as_arrow(opened.cone_search(ra, dec, radius * 3600).compute()), inside)


def test_gaia_lies_in_the_cells_that_its_names_say(catalogs, capsys):
    """Gaia's source_id holds the HEALPix cell of order 12 in its upper bits, from slightly earlier positions."""
    rows = catalogs["gaia"].select("id").compute()
    share = np.mean(rows["_healpix_29"].to_numpy() >> 34 == rows["id"].to_numpy() >> 35)
    with capsys.disabled():
        print(f" {share:.4%} of Gaia in the cells of its names")
    assert share >= 0.997


def test_properties_say_frame_epoch_and_motion(catalogs):
    assert [catalogs[name].properties["epoch"] for name in FILES] == ["J2016.0", "J2000.0", "J1991.25"]
    about = catalogs["hipparcos"].properties
    assert (about["frame"], about["id"], about["citations"]) == ("icrs", "id", ["van Leeuwen 2007"])
    assert about["motion"] == {
        "pmra": {"column": "pmra", "unit": "mas/yr"},
        "pmdec": {"column": "pmdec", "unit": "mas/yr"},
        "parallax": {"column": "plx", "unit": "mas"},
    }


def test_computed_columns_move_hipparcos_to_its_positions_of_2016(catalogs):
    """To first order, within a milliarcsecond of what the file has for J2016 wherever the motion is not extreme."""
    moved = catalogs["hipparcos"].with_columns(
        ra_then="ra + pmra / cos(radians(dec)) / 3600000 * (2016 - 1991.25)",
        dec_then="dec + pmdec / 3600000 * (2016 - 1991.25)",
    )
    rows = moved.where("abs(dec) < 80").compute()
    assert rows.num_rows > 100_000
    for coordinate in ("ra", "dec"):
        offset = rows[f"{coordinate}_then"].to_numpy() - rows[f"{coordinate}_j2016"].to_numpy()
        offset = (offset + 180) % 360 - 180
        assert np.percentile(np.abs(offset), 99) * 3_600_000 < 1


@pytest.mark.parametrize("cone", [ANDROMEDA, POLE, RIGHT_ASCENSION_0], ids=["Andromeda", "pole", "RA 0"])
def test_a_cone_with_a_condition_is_what_numpy_selects(catalogs, tables, cone):
    table, (ra, dec, radius) = tables["gaia"], cone
    mag, blue, red = (table[name].to_numpy() for name in ("mag", "bp_mag", "rp_mag"))
    expected = table.filter(pa.array(_in_cone(table, ra, dec, radius) & (mag < 9.5) & (blue - red > 1)))
    region = Cone(f"{ra} deg", f"{dec} deg", f"{radius} deg")
    rows = catalogs["gaia"].within(region).where("mag < 9.5 and bp_mag - rp_mag > 1").compute()
    _assert_same_rows(rows, expected)


@pytest.mark.parametrize("name", FILES)
def test_counts_maps_and_quantiles_are_those_of_numpy(catalogs, tables, name):
    catalog, mag = catalogs[name], tables[name]["mag"].to_numpy()
    sky = catalog.sky_map(5)
    assert (sky.shape, int(sky.sum())) == ((12 * 4**5,), len(mag))
    pixels = catalog.select("id").compute()["_healpix_29"].to_numpy() >> 2 * (29 - 5)
    np.testing.assert_array_equal(sky, np.bincount(pixels, minlength=len(sky)))
    for q in (0.5, [0, 0.25, 0.9, 1]):
        np.testing.assert_array_equal(catalog.quantile("mag", q), np.quantile(mag.astype(np.float64), q))
    counts = catalog.histogram("mag", bins=20, range=(0, 15)).counts
    np.testing.assert_array_equal(counts, np.histogram(mag, bins=20, range=(0, 15))[0])


def test_half_of_gaia_appended_to_the_other_half_is_gaia(catalogs, tables, tmp_path):
    gaia = tables["gaia"]
    half = gaia.num_rows // 2
    first = sciplat.ingest_catalog(gaia.slice(0, half), tmp_path / "gaia", **OPTIONS["gaia"])
    both = sciplat.ingest_catalog(gaia.slice(half), tmp_path / "gaia", mode="append")
    assert (both.version, both.versions, len(first), len(both)) == (2, [1, 2], half, gaia.num_rows)
    assert both.cells == catalogs["gaia"].cells
    assert both.compute().equals(catalogs["gaia"].compute())
    _assert_same_rows(sciplat.open_catalog(tmp_path / "gaia", version=1).compute(), gaia.slice(0, half))


def test_what_lsdb_writes_of_gaia_opens_here(lsdb, catalogs, tables, tmp_path):
    lsdb.open_catalog(catalogs["gaia"].store.storage.url, columns="all").write_catalog(
        tmp_path / "copy", catalog_name="gaia"
    )
    copy = sciplat.open_catalog(tmp_path / "copy")
    assert (len(copy), copy.version, copy.properties["id"]) == (tables["gaia"].num_rows, None, "id")
    _assert_same_rows(copy.compute(), tables["gaia"])
    ra, dec, radius = RIGHT_ASCENSION_0
    region = Cone(f"{ra} deg", f"{dec} deg", f"{radius} deg")
    assert copy.within(region).compute().equals(catalogs["gaia"].within(region).compute())
