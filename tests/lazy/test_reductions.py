import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

import sciplat
from sciplat import config
from sciplat.errors import ArgumentError, ColumnError, SciplatError
from sciplat.lazy import reductions
from sciplat.lazy.catalog import Catalog
from sciplat.sky.cell import healpix_29
from tests.plan_scene import SCHEMA, brighten, stars, write_stars
from tests.sky_scene import WHOLE_SKY
from tests.strategies import partitions

CALLS = itertools.count()
CONE = sciplat.Cone("0 deg", "90 deg", "2 deg")


def mixed_stars():
    """Return the stars with a band, a flux with nulls and NaN, and a wide range of numbers."""
    rng, table = np.random.default_rng(4), stars()
    n = len(table)
    flux = rng.normal(0, 1, n) * 10.0 ** rng.integers(-20, 20, n)
    flux[::17] = np.nan
    table = table.append_column("band", pa.array(rng.choice(["g", "r", "z"], n), mask=rng.uniform(size=n) < 0.1))
    unit = pa.field("flux", pa.float64(), metadata={"unit": "nJy"})
    return table.append_column(unit, pa.array(flux, mask=rng.uniform(size=n) < 0.1))


@pytest.fixture(scope="module")
def table():
    return mixed_stars()


@pytest.fixture(scope="module")
def catalog(table, tmp_path_factory):
    return Catalog.of_store(write_stars(tmp_path_factory.mktemp("stars") / "s", WHOLE_SKY, table))


def all_reductions(catalog):
    """Return the bits of one of each."""
    groups = catalog.aggregate(
        ["band"], n="count()", fluxes="count(flux)", total="sum(flux)", mean="mean(mag)", std="std(mag)", low="min(mag)"
    )
    histogram = catalog.histogram("mag", "dec", bins=(7, [-90, 0, 89, 90]))
    return [
        catalog.count(),
        groups.to_pydict(),
        histogram.counts.tolist(),
        histogram.left_out,
        catalog.quantile("mag", [0, 0.1, 0.5, 1]).tobytes(),
        catalog.sky_map(2).tobytes(),
        catalog.sky_map(5, "mean(mag)").tobytes(),
        catalog.sky_map(1, "std(mag)").tobytes(),
    ]


@settings(max_examples=3)
@given(cells=partitions())
def test_the_cells_make_no_difference(cells, catalog, table, tmp_path_factory):
    other = Catalog.of_store(write_stars(tmp_path_factory.mktemp("other") / "s", cells, table))
    assert str(all_reductions(other)) == str(all_reductions(catalog))
    assert str(all_reductions(other.within(CONE))) == str(all_reductions(catalog.within(CONE)))


def test_a_cluster_gives_the_same_bits_as_threads(catalog):
    from distributed import Client, LocalCluster

    local = all_reductions(catalog.within(CONE))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        assert str(all_reductions(catalog.within(CONE))) == str(local)


def test_a_store_knows_its_rows_and_a_plan_counts_them(catalog, table, tmp_path):
    assert catalog.count() == catalog.select("mag").count() == len(table)
    assert catalog.within(CONE).count() == catalog.within(CONE).select("mag").compute().num_rows > 0
    assert catalog.map(brighten, schema=catalog.schema).count() == len(table)
    gone = Catalog.of_store(write_stars(tmp_path / "s", WHOLE_SKY, table))
    for file in tmp_path.glob("s/**/*.parquet"):
        file.unlink()
    assert gone.count() == len(table)


def test_aggregates_are_those_of_the_rows(catalog):
    rows = catalog.within(CONE).compute()
    found = catalog.within(CONE).aggregate("band", n="count()", total="sum(flux)", mean="mean(mag)", last="max(mag)")
    assert found["band"].to_pylist() == ["g", "r", "z", None]
    for group in found.to_pylist():
        inside = [row for row in rows.to_pylist() if row["band"] == group["band"]]
        assert group["n"] == len(inside)
        assert group["last"] == max(row["mag"] for row in inside)
        assert group["mean"] == pytest.approx(math.fsum(row["mag"] for row in inside) / len(inside), rel=3e-16)
        fluxes = [row["flux"] for row in inside if row["flux"] is not None]
        assert str(group["total"]) == str(math.fsum(fluxes))
    assert found.schema.field("total").metadata == {b"unit": b"nJy"}
    (whole,) = catalog.aggregate([], n="count()", rows="count(source_id)").to_pylist()
    assert whole == {"n": catalog.count(), "rows": catalog.count()}


def test_histograms_are_those_of_numpy(catalog):
    mag, dec = (catalog.compute()[name].to_numpy() for name in ("mag", "dec"))
    for arguments in ({"bins": 13}, {"bins": 5, "range": (19, 20.5)}, {"bins": [18.0, 19.5, 20.0]}):
        found, (counts, edges) = catalog.histogram("mag", **arguments), np.histogram(mag, **arguments)
        assert (found.counts.tolist(), found.edges.tolist()) == (counts.tolist(), edges.tolist())
        assert found.left_out == len(mag) - counts.sum()
    both = catalog.histogram("mag", "dec", bins=(6, 4), range=((18, 21), None))
    counts, *edges = np.histogram2d(mag, dec, bins=(6, 4), range=((18, 21), (dec.min(), dec.max())))
    assert (both.counts == counts).all()
    assert all((one == other).all() for one, other in zip(both.edges, edges, strict=True))
    flux = catalog.compute()["flux"].drop_null().to_numpy()
    assert (catalog.histogram("flux", bins=9).counts == np.histogram(flux[~np.isnan(flux)], bins=9)[0]).all()


@pytest.mark.parametrize("few", [4_000_000, 0])
def test_quantiles_are_those_of_numpy(catalog, few, monkeypatch):
    monkeypatch.setattr(reductions, "_FEW_ROWS", few)  # none: three passes instead of two
    q = [[0.0, 0.25], [0.5, 0.987]]
    np.testing.assert_allclose(catalog.quantile("mag", q), np.quantile(catalog.compute()["mag"], q), rtol=1e-15)
    median = catalog.quantile("flux", 0.5)
    flux = catalog.compute()["flux"].drop_null().to_numpy()
    assert isinstance(median, float)
    assert median == pytest.approx(np.nanquantile(flux, 0.5), rel=1e-15)


def test_maps_are_those_of_the_positions(catalog):
    rows = catalog.compute()
    pixels = healpix_29(rows["ra"].to_numpy(), rows["dec"].to_numpy()) >> 2 * (29 - 4)
    counts = np.bincount(pixels, minlength=12 * 4**4)
    found = catalog.sky_map(4)
    assert (found.dtype, found.tolist()) == (np.int64, counts.tolist())
    means = catalog.sky_map(4, "mean(mag)")
    with np.errstate(invalid="ignore"):
        wanted = np.bincount(pixels, rows["mag"].to_numpy(), minlength=12 * 4**4) / counts
    np.testing.assert_allclose(means, wanted, rtol=1e-14)
    assert catalog.sky_map(0, "count(flux)").sum() == len(rows) - rows["flux"].null_count
    assert catalog.sky_map(4, "max(flux)").shape == counts.shape


def test_a_plan_without_rows_has_no_numbers(catalog):
    nothing = catalog.within(sciplat.Cone("77 deg", "33 deg", "0.001 arcsec"))
    assert nothing.count() == 0
    assert nothing.aggregate("band", n="count()", m="mean(mag)").num_rows == 0
    assert nothing.aggregate([], n="count()", m="mean(mag)").to_pylist() == [{"n": 0, "m": None}]
    assert nothing.histogram("mag", bins=3).counts.tolist() == [0, 0, 0]
    assert math.isnan(nothing.quantile("mag", 0.5))
    assert np.isnan(nothing.quantile("mag", [0, 1])).all()
    assert nothing.sky_map(1).sum() == 0
    assert np.isnan(nothing.sky_map(1, "min(mag)")).all()


def test_columns_that_are_not_there_are_named(catalog):
    calls = [
        lambda: catalog.aggregate("bnad", n="count()"),
        lambda: catalog.aggregate("band", n="sum(magnitude)"),
        lambda: catalog.histogram("magnitude", bins=3),
        lambda: catalog.quantile("magnitude", 0.5),
        lambda: catalog.sky_map(3, "mean(magnitude)"),
    ]
    for call in calls:
        with pytest.raises(ColumnError, match="no column"):
            call()


def test_what_makes_no_sense_is_refused_before_anything_runs(catalog):
    calls = [
        lambda: catalog.aggregate("band", n="median(mag)"),
        lambda: catalog.aggregate("band", band="count()"),
        lambda: catalog.aggregate(["band", "band"], n="count()"),
        lambda: catalog.histogram("band", bins=3),
        lambda: catalog.histogram(bins=3),
        lambda: catalog.histogram("mag", bins=0),
        lambda: catalog.histogram("mag", bins="auto"),
        lambda: catalog.histogram("mag", bins=[3, 2, 1]),
        lambda: catalog.histogram("mag", bins=[1]),
        lambda: catalog.histogram("mag", bins=[0, math.nan]),
        lambda: catalog.histogram("mag", bins=3, range=(2, 1)),
        lambda: catalog.histogram("mag", "dec", bins=(3, 4, 5)),
        lambda: catalog.histogram("mag", "dec", bins=100_000),
        lambda: catalog.quantile("band", 0.5),
        lambda: catalog.quantile("mag", 1.01),
        lambda: catalog.quantile("mag", math.nan),
        lambda: catalog.quantile("mag", "half"),
        lambda: catalog.sky_map(-1),
        lambda: catalog.sky_map(2.0),
        lambda: catalog.sky_map(3, "max(band)"),
    ]
    for call in calls:
        with pytest.raises(ArgumentError):
            call()


def test_a_map_that_does_not_fit_memory_is_refused(catalog, monkeypatch):
    monkeypatch.setattr(reductions, "settings", lambda: config.Settings(threads=1, memory=2**30))
    with pytest.raises(ArgumentError, match="does not fit memory"):
        catalog.sky_map(12)


def waver(table):
    """Return other magnitudes each time."""
    shift = pa.array(table["mag"].to_numpy() + 10.0 * next(CALLS))
    return table.set_column(table.schema.get_field_index("mag"), SCHEMA.field("mag"), shift)


def test_a_function_that_gives_other_rows_each_time_has_no_quantiles(catalog):
    wavering = catalog.select("mag").map(waver, schema=SCHEMA)
    with pytest.raises(SciplatError, match="other rows each time"):
        wavering.quantile("mag", 0.5)


@pytest.mark.parametrize("bins", [10**9, 10**13, np.int64(10**9), np.broadcast_to(1.0, 10**9), range(10**9)])
def test_too_many_bins_are_refused_before_there_are_any(catalog, bins):
    with pytest.raises(ArgumentError, match="there are more than 100,000,000 bins"):
        catalog.histogram("mag", bins=bins)
    with pytest.raises(ArgumentError, match="there are more than 100,000,000 bins"):
        catalog.histogram("mag", "dec", bins=(bins, 2), range=((0, 1), (0, 1)))


def test_groups_are_made_by_names(catalog):
    for wrong in (5, None):
        with pytest.raises(ArgumentError, match="groups are made by a column"):
            catalog.aggregate(wrong, n="count()")
    named = catalog.aggregate("band", self="count()")
    assert named["self"].to_pylist() == catalog.aggregate("band", n="count()")["n"].to_pylist()
