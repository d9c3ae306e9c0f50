"""Ways out: every library gets the rows that `compute` gives."""

import datetime as dt
import importlib
import pickle
import subprocess
import sys
import textwrap

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from astropy.table import Table

import sciplat
from sciplat import Cone
from sciplat.errors import ArgumentError
from sciplat.lazy.exits import astropy_table
from sciplat.sky.cell import healpix_29
from tests.conftest import required
from tests.plan_scene import SCHEMA, stars, write_stars
from tests.sky_scene import WHOLE_SKY

lsdb_warns = [
    pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option is deprecated"),
    pytest.mark.filterwarnings("ignore:The inplace keyword in NestedFrame"),
]
SKY = Cone("0 deg", "0 deg", "40 deg")


def named_stars():
    """Return the stars with texts, truth values and missing numbers."""
    table = stars()
    n = len(table)
    names = pa.array([None if i % 7 == 0 else f"HD {i}" for i in range(n)])
    counts = pa.array([None if i % 5 == 0 else i for i in range(n)], pa.int64())
    for name, values in (("name", names), ("visits", counts), ("seen", pa.array([True] * n))):
        table = table.append_column(name, values)
    return table


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exits")
    write_stars(folder / "stars", WHOLE_SKY, named_stars())
    return sciplat.open_catalog(folder / "stars")


@pytest.fixture(scope="module")
def lsdb():
    return importlib.import_module("lsdb") if required("rivals") else pytest.importorskip("lsdb")


def test_an_astropy_table_takes_dates_and_times():
    day, second = dt.date(2020, 2, 29), dt.time(23, 59, 59)
    columns = {
        "day": pa.array([day, None], pa.date32()),
        "time": pa.array([second, None], pa.time32("s")),
        "fine": pa.array([second, None], pa.time64("us")),
        "taken": pa.array([np.datetime64("2020-02-29T01:00", "ms"), None], pa.timestamp("ms")),
        "took": pa.array([dt.timedelta(seconds=3), None], pa.duration("s")),
        "half": pa.array(np.array([1.5, 0], np.float16), mask=np.array([False, True])),
    }
    odd = pa.field("flux", pa.float32(), metadata={b"description": b"in \xb5Jy"})
    table = astropy_table(pa.table(columns).append_column(odd, pa.array([1, None], pa.float32())))
    assert [table[name][0] for name in ("day", "time", "fine")] == [day, second, second]
    assert table["taken"][0] == np.datetime64("2020-02-29T01:00")
    assert table["took"][0] == np.timedelta64(3, "s")
    assert table["half"][0] == 1.5
    assert all(table[name].mask.tolist() == [False, True] for name in table.colnames)
    assert table["flux"].description == "in \ufffdJy"


def test_an_astropy_table_has_texts_units_and_masks(catalog):
    table, rows = catalog.to_astropy(), catalog.compute()
    assert table["name"].dtype.kind == "U"
    assert table["name"].mask.tolist() == rows["name"].is_null().to_pylist()
    assert table["name"][~table["name"].mask].tolist() == rows["name"].drop_null().to_pylist()
    assert str(table["mag"].unit) == "mag"
    assert table["visits"].mask.sum() == rows["visits"].null_count


INTEGERS = [getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)]
ENDS = {kind: (np.iinfo(str(kind)).min, np.iinfo(str(kind)).max) for kind in map(str, INTEGERS)}


def awkward(kind):
    """Return integers that stand where astropy, or a careless choice, would put what is missing."""
    drawn = [*ENDS[str(kind)], 0, 1, 63, 16959 if kind.bit_width > 8 else 7, 999999 if kind.bit_width > 16 else 8]
    return pa.array([*drawn, None], kind)


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_integers_come_back_from_fits(kind, tmp_path):
    rows = pa.table({"odd": awkward(kind), "full": awkward(kind).fill_null(5), "none": pa.nulls(8, kind)})
    astropy_table(rows).write(tmp_path / "rows.fits")
    back = Table.read(tmp_path / "rows.fits")
    for name in rows.schema.names:
        assert [None if value is np.ma.masked else int(value) for value in back[name]] == rows[name].to_pylist()


@pytest.mark.parametrize(("kind", "wider"), [("int8", "i2"), ("uint8", "i2"), ("int16", "i4"), ("uint16", "i4")])
def test_integers_that_leave_no_number_free_become_wider(kind, wider, tmp_path):
    least, most = ENDS[kind]
    rows = pa.table({"n": pa.array([*range(least, most + 1), None], kind)})
    astropy_table(rows).write(tmp_path / "rows.fits")
    back = Table.read(tmp_path / "rows.fits")["n"]
    assert back.dtype.newbyteorder("=") == wider
    assert back.mask.nonzero()[0].tolist() == [most - least + 1]
    assert back[:-1].tolist() == rows["n"].to_pylist()[:-1]


def test_integers_keep_their_values_in_pandas_beside_missing_ones(catalog):
    plan = catalog.with_columns(long="9007199254740993 + visits", whole="9007199254740993 + source_id")
    frame, rows = plan.to_pandas(), plan.compute()
    assert frame.columns.tolist() == rows.schema.names
    assert [None if value is pd.NA else value for value in frame["long"]] == rows["long"].to_pylist()
    assert frame["whole"].tolist() == rows["whole"].to_pylist()
    assert frame[["long", "whole", "seen", "mag"]].dtypes.tolist() == ["Int64", "int64", "bool", "float64"]


class TestDask:
    def test_it_has_a_partition_for_each_cell_and_the_rows_of_compute(self, catalog):
        frame = catalog.to_dask()
        assert isinstance(frame, dd.DataFrame)
        assert frame.npartitions == len(catalog.cells)
        computed = frame.compute(scheduler="sync")
        expected = catalog.to_pandas().set_index("_healpix_29")
        pd.testing.assert_frame_equal(computed.astype(expected.dtypes), expected)

    def test_its_columns_are_known_before_anything_is_read(self, catalog):
        frame = catalog.select("name", "mag", "seen").to_dask()
        expected = catalog.select("name", "mag", "seen").to_pandas().set_index("_healpix_29")
        assert list(frame.columns) == list(expected.columns)
        assert frame.dtypes.to_dict() == expected.dtypes.to_dict() | {"source_id": "Int64", "seen": "boolean"}
        assert frame.index.name == "_healpix_29"

    def test_its_types_are_those_of_every_partition_and_long_integers_keep_their_values(self, catalog):
        plan = catalog.with_columns(long="case when seen and visits > 9 then 9007199254740993 + visits end")
        frame = plan.to_dask()
        parts = [frame.partitions[number].compute(scheduler="sync") for number in range(frame.npartitions)]
        assert all(part.dtypes.to_dict() == frame.dtypes.to_dict() for part in parts)
        assert parts[0].index.dtype == "int64"
        longs = [None if value is pd.NA else value for part in parts for value in part["long"]]
        assert longs == plan.compute()["long"].to_pylist()
        assert max(filter(None, longs)) % 2**53 > 100

    def test_its_divisions_hold(self, catalog):
        frame = catalog.select("mag").to_dask()
        assert frame.known_divisions
        for number in range(frame.npartitions):
            index = frame.partitions[number].compute(scheduler="sync").index
            assert frame.divisions[number] <= index.min()
            assert index.max() < frame.divisions[number + 1]
        cell = catalog.cells[3]
        part = frame.loc[cell.start : cell.stop - 1].compute(scheduler="sync")
        assert len(part) == len(frame.partitions[3])

    def test_a_plan_goes_out_too(self, catalog):
        plan = catalog.within(SKY).select("mag")
        computed = plan.to_dask().compute(scheduler="sync")
        expected = plan.to_pandas().set_index("_healpix_29")
        pd.testing.assert_frame_equal(computed.astype(expected.dtypes), expected)
        assert plan.to_dask()["mag"].mean().compute(scheduler="sync") == pytest.approx(plan.to_pandas()["mag"].mean())

    def test_its_tasks_travel(self, catalog):
        frame = pickle.loads(pickle.dumps(catalog.within(SKY).select("mag").to_dask()))
        with dask.config.set(scheduler="processes", num_workers=1):
            assert len(frame) == catalog.within(SKY).compute().num_rows

    def test_nothing_is_an_empty_frame(self, catalog):
        nothing = catalog.within(Cone("0 deg", "0 deg", "1e-9 deg")).select("mag")
        assert nothing.to_dask().compute(scheduler="sync").columns.tolist() == ["source_id", "ra", "dec", "mag"]
        assert len(nothing.to_dask()) == nothing.compute().num_rows

    def test_without_pandas_it_says_so(self):
        script = """
        import sys
        sys.modules["pandas"] = None
        from sciplat.errors import MissingDependency
        from sciplat.lazy.exits import Exits
        try:
            Exits().to_dask()
        except MissingDependency as error:
            assert "sciplat[pandas]" in error.hint
        else:
            raise SystemExit("no error")
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


class TestLsdb:
    pytestmark = lsdb_warns

    def test_a_store_is_opened_as_it_stands(self, lsdb, catalog):
        opened = catalog.to_lsdb()
        assert isinstance(opened, lsdb.catalog.Catalog)
        assert opened.npartitions == len(catalog.cells)
        assert_same_rows(opened.compute(), catalog.compute())

    def test_an_older_version_stays_the_one_that_is_open(self, lsdb, tmp_path):
        write_stars(tmp_path / "stars", WHOLE_SKY)
        old = sciplat.open_catalog(tmp_path / "stars")
        rows = old.compute()
        old.within(SKY).write(tmp_path / "stars", replace=True)
        assert_same_rows(old.to_lsdb().compute(), rows)
        assert len(sciplat.open_catalog(tmp_path / "stars").to_lsdb().compute()) < len(rows)

    def test_a_plan_is_computed(self, lsdb, catalog):
        plan = catalog.within(SKY).select("name", "visits")
        assert_same_rows(plan.to_lsdb().compute(), plan.compute())

    def test_nothing_is_refused(self, lsdb, catalog):
        with pytest.raises(ArgumentError, match="no row"):
            catalog.within(Cone("33 deg", "1 deg", "0.001 arcsec")).to_lsdb()


def assert_same_rows(frame, ours):
    theirs = pa.Table.from_pandas(frame.reset_index(), preserve_index=False).select(ours.schema.names)
    order = [("_healpix_29", "ascending"), ("source_id", "ascending")]
    assert theirs.cast(ours.schema).sort_by(order).equals(ours.sort_by(order))


class TestPlotSky:
    def test_a_store_is_drawn_from_its_sky_map(self, catalog):
        figure = catalog.plot_sky(2)
        axes, bar = figure.axes
        shown = axes.images[0].get_array()
        assert axes.get_title() == f"stars: {len(stars()):,} rows"
        assert "square degree" in bar.get_xlabel()
        counts = np.bincount(healpix_29(stars()["ra"], stars()["dec"]) >> 2 * 27, minlength=192)
        density = counts / (41252.961 / 192)
        drawn = np.unique(shown.compressed())
        assert drawn == pytest.approx(np.unique(density[counts > 0]), rel=1e-6)
        assert (shown.mask.sum() > 0) == (counts.min() == 0)

    def test_a_plan_is_drawn_from_its_rows(self, catalog):
        plan = catalog.within(SKY)
        figure = plan.plot_sky(2)
        assert figure.axes[0].get_title() == f"{plan.compute().num_rows:,} rows"
        whole = catalog.plot_sky(2).axes[0].images[0].get_array()
        assert figure.axes[0].images[0].get_array().count() < whole.count()

    def test_any_number_of_the_sky_map_is_drawn(self, catalog):
        figure = catalog.plot_sky(2, what="mean(mag)")
        axes, bar = figure.axes
        shown = axes.images[0].get_array()
        assert bar.get_xlabel() == "mean(mag) (mag)"
        assert axes.get_title() == f"stars: {len(stars()):,} rows"
        assert shown.min() == pytest.approx(np.nanmin(catalog.sky_map(2, "mean(mag)")))
        assert shown.max() == pytest.approx(np.nanmax(catalog.sky_map(2, "mean(mag)")))

    def test_pixels_are_no_finer_than_the_rows_allow(self, catalog):
        few = catalog.plot_sky().axes[0].images[0].get_array()
        assert len(np.unique(few.compressed())) < 50

    def test_right_ascension_increases_to_the_left(self, tmp_path):
        rows = pa.table({"source_id": [1], "ra": [45.0], "dec": [10.0], "mag": [1.0]})
        table = rows.add_column(0, "_healpix_29", pa.array(healpix_29([45.0], [10.0]))).cast(SCHEMA)
        write_stars(tmp_path / "one", WHOLE_SKY[:1], table)
        shown = sciplat.open_catalog(tmp_path / "one").plot_sky(3).axes[0].images[0].get_array()
        rows_drawn, columns_drawn = np.nonzero(~shown.mask)
        height, width = shown.shape
        assert columns_drawn.max() < width / 2
        assert rows_drawn.min() > height / 2  # the first row is the lowest

    @pytest.mark.parametrize("order", ["x", 2.0, -1, 30, True])
    def test_what_is_no_order_is_refused(self, catalog, order):
        for drawn in (catalog, catalog.select("mag")):
            with pytest.raises(ArgumentError, match="order of a map"):
                drawn.plot_sky(order)

    def test_axes_may_be_given(self, catalog):
        from matplotlib.figure import Figure

        figure = Figure()
        axes = figure.add_subplot(projection="mollweide")
        assert catalog.plot_sky(1, ax=axes) is figure
        with pytest.raises(ArgumentError, match=r"(?s)axes of matplotlib.*found  5"):
            catalog.plot_sky(1, ax=5)
        with pytest.raises(ArgumentError, match="Mollweide"):
            catalog.plot_sky(1, ax=Figure().add_subplot())
