import astropy.units as u
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sciplat
from sciplat.errors import AngleError, ArgumentError, ColumnError, StepError
from tests.plan_scene import (
    COUNTED,
    REACH,
    SCHEMA,
    brighten,
    count_neighbours,
    keep_bright,
    stars,
    sum_neighbours,
    write_stars,
)
from tests.sky_scene import WHOLE_SKY, sources, write_catalog, write_images
from tests.strategies import partitions

CONE = sciplat.Cone("0 deg", "89 deg", "2 deg")
FEW = settings(max_examples=12)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    url = tmp_path_factory.mktemp("stars") / "stars"
    write_stars(url, WHOLE_SKY)
    return sciplat.open_catalog(url)


def partitioned(tmp_path_factory, cells):
    url = tmp_path_factory.mktemp("partition") / "stars"
    write_stars(url, cells)
    return sciplat.open_catalog(url)


@FEW
@given(partitions())
def test_a_function_of_single_rows_gives_the_same_rows_for_every_partitioning(tmp_path_factory, cells):
    plan = partitioned(tmp_path_factory, cells).map(brighten, schema=SCHEMA)
    assert plan.compute().equals(brighten(stars()))
    assert plan.map(keep_bright, schema=SCHEMA).compute().equals(keep_bright(brighten(stars())))


@FEW
@given(partitions(max_splits=20))
def test_neighbours_are_those_of_the_whole_catalog_for_every_partitioning(tmp_path_factory, cells):
    plan = partitioned(tmp_path_factory, cells).map(count_neighbours, schema=COUNTED, reach=f"{REACH} deg")
    expected = count_neighbours(stars())
    assert plan.compute().equals(expected)
    assert expected["neighbours"].to_numpy().max() > 10


@settings(max_examples=6)
@given(partitions(max_splits=8), st.sampled_from([CONE, sciplat.Box(("359 deg", "1 deg"), ("-1 deg", "1 deg"))]))
def test_neighbours_in_a_region_are_those_in_the_region(tmp_path_factory, cells, region):
    """After within, the function sees the rows inside only; before it, all of them."""
    catalog = partitioned(tmp_path_factory, cells)
    table = stars()

    def inside(rows):
        return rows.filter(pa.array(region.contains(rows["ra"].to_numpy(), rows["dec"].to_numpy())))

    reach = f"{REACH} deg"
    after = catalog.within(region).map(count_neighbours, schema=COUNTED, reach=reach).compute()
    before = catalog.map(count_neighbours, schema=COUNTED, reach=reach).within(region).compute()
    assert after.equals(count_neighbours(inside(table)))
    assert before.equals(inside(count_neighbours(table)))
    assert not after.equals(before)


@settings(max_examples=6)
@given(partitions(max_splits=6))
def test_one_reach_after_another(tmp_path_factory, cells):
    reach = f"{REACH} deg"
    plan = partitioned(tmp_path_factory, cells).map(count_neighbours, schema=COUNTED, reach=reach)
    twice = plan.map(sum_neighbours, schema=COUNTED, reach=reach)
    assert twice.compute().equals(sum_neighbours(count_neighbours(stars())))


def test_limits_may_be_numbers_of_numpy(catalog, tmp_path):
    small = catalog.within(sciplat.Cone("0 deg", "90 deg", "1 arcsec"))
    plan = small.map(brighten, schema=SCHEMA, timeout=np.int64(50), memory=np.int64(2**31))
    assert len(plan.write(tmp_path / "out")) == 1


def test_a_reach_is_an_angle_of_any_unit(catalog):
    plans = [catalog.map(count_neighbours, schema=COUNTED, reach=reach) for reach in ("2 deg", 120 * u.arcmin)]
    assert plans[0].compute().equals(plans[1].compute())
    assert plans[0].node.describe() == plans[1].node.describe()


def test_a_part_of_a_cell_sees_its_surroundings_too(catalog):
    """A cell that is cut because it needs much memory gives the rows that it gives as a whole."""
    plan = catalog.map(count_neighbours, schema=COUNTED, reach="2 deg")
    for cell in plan.cells:
        parts = [plan.node.task(part).run() for part in cell.children]
        assert pa.concat_tables(parts).equals(plan.node.task(cell).run())


def test_map_after_select_and_select_after_map(catalog):
    kept = pa.schema([SCHEMA.field(name) for name in ("_healpix_29", "source_id", "ra", "dec")])
    few = catalog.select("ra").map(lambda table: table, schema=kept)
    assert few.compute().equals(stars().select(kept.names))
    counted = catalog.map(count_neighbours, schema=COUNTED, reach="2 deg").select("neighbours")
    assert counted.columns == ["_healpix_29", "source_id", "ra", "dec", "neighbours"]
    assert counted.compute()["neighbours"].equals(count_neighbours(stars())["neighbours"])
    with pytest.raises(ColumnError, match="'flux'"):
        counted.select("flux")


def test_nest_after_map_gathers_what_the_function_gave(catalog):
    def twice(table):
        return pa.concat_tables([table, brighten(table)])

    rows = catalog.map(twice, schema=SCHEMA).nest("source_id", ["mag"]).compute().sort_by("source_id")
    table = stars().sort_by("source_id")
    magnitudes = [[{"mag": value}, {"mag": value - 1}] for value in table["mag"].to_pylist()]
    assert rows["source_id"].equals(table["source_id"])
    assert rows["light_curve"].to_pylist() == magnitudes


def test_map_after_photometry_sees_all_measurements(tmp_path):
    images = sciplat.ingest_images(write_images(tmp_path / "fits"), tmp_path / "images")
    for number, cells in enumerate([WHOLE_SKY, [child for cell in WHOLE_SKY for child in cell.children]]):
        write_catalog(tmp_path / f"catalog{number}", sources(), cells)
        flat = images.photometry(sciplat.open_catalog(tmp_path / f"catalog{number}"), radii=["4 pix"])
        schema = flat.schema.append(pa.field("near", pa.int64()))

        def count(table):
            vectors = count_neighbours(table.select(["_healpix_29", "ra", "dec"]))
            return table.append_column("near", vectors["neighbours"])

        assert flat.map(count, schema=schema, reach="2 deg").compute().equals(count(flat.compute()))


def test_cells_without_rows_are_not_given_to_the_function(catalog, tmp_path):
    """Neither cells that a region leaves empty, nor those that have rows in their surroundings only."""
    seen = []

    def look(table):
        seen.append(table.num_rows)
        return table

    region = sciplat.Cone("0 deg", "90 deg", "0.001 arcsec")
    touched = catalog.within(region)
    assert touched.map(look, schema=SCHEMA, reach="2 deg").compute().num_rows == 1
    assert len(touched.cells) > 1
    assert seen == [1]


def test_an_empty_result_is_a_table_and_no_store(catalog, tmp_path):
    plan = catalog.map(lambda table: table.slice(0, 0), schema=SCHEMA)
    assert plan.compute().equals(SCHEMA.empty_table())
    assert plan.head().equals(SCHEMA.empty_table())
    with pytest.raises(ArgumentError, match="empty"):
        plan.write(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_processes_of_their_own_and_a_cluster_give_the_same_files(catalog, tmp_path):
    from distributed import Client, LocalCluster

    part = catalog.within(CONE)

    def plan(**limits):
        return part.map(count_neighbours, schema=COUNTED, reach="2 deg", **limits)

    local = plan().write(tmp_path / "threads").store.manifest.digest
    assert plan(timeout=60).write(tmp_path / "timeout").store.manifest.digest == local
    assert plan(memory="2 GiB").write(tmp_path / "memory").store.manifest.digest == local
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        assert plan().write(tmp_path / "cluster").store.manifest.digest == local


def test_a_limit_stops_the_function_alone(catalog):
    def sleep(table):
        import time

        time.sleep(60)
        return table

    with pytest.raises(StepError, match=r"test_map:.*sleep on cell"):
        catalog.within(sciplat.Cone("0 deg", "90 deg", "1 deg")).map(sleep, schema=SCHEMA, timeout=1).head(1)


NO_POSITION = pa.schema([SCHEMA.field("_healpix_29"), SCHEMA.field("ra")])
NO_INDEX = pa.schema([SCHEMA.field("ra"), SCHEMA.field("dec")])
NARROW = pa.schema([SCHEMA.field("_healpix_29"), SCHEMA.field("ra"), pa.field("dec", pa.float32())])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"schema": None}, ArgumentError, "found  NoneType"),
        ({"schema": ["ra", "dec"]}, ArgumentError, "found  list"),
        ({"schema": NO_POSITION}, ArgumentError, "lacks dec: double"),
        ({"schema": NO_INDEX}, ArgumentError, "lacks _healpix_29: int64"),
        ({"schema": NARROW}, ArgumentError, "lacks dec: double"),
        ({"schema": SCHEMA.append(SCHEMA.field("mag"))}, ArgumentError, "mag stands twice"),
        ({"schema": SCHEMA.append(SCHEMA.field("ra"))}, ArgumentError, "ra stands twice"),
        ({"reach": "20 deg"}, ArgumentError, "20 degrees"),
        ({"reach": "-1 deg"}, ArgumentError, "-1 degrees"),
        ({"reach": "0 deg"}, ArgumentError, "0 degrees"),
        ({"reach": 2.0}, AngleError, "no unit"),
        ({"reach": "far"}, AngleError, "not an angle"),
        ({"timeout": 0}, ArgumentError, "timeout"),
        ({"timeout": float("nan")}, ArgumentError, "timeout"),
        ({"memory": "much"}, ArgumentError, "memory"),
        ({"memory": 0}, ArgumentError, "memory"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(catalog, arguments, error, message):
    with pytest.raises(error, match=message):
        catalog.map(brighten, **({"schema": SCHEMA} | arguments))


def test_what_is_no_function_or_cannot_travel_is_refused(catalog):
    with pytest.raises(ArgumentError, match="no function"):
        catalog.map("brighten", schema=SCHEMA)
    with open(__file__) as file, pytest.raises(ArgumentError, match="cannot be sent"):  # noqa: PTH123
        catalog.map(lambda table: (table, file), schema=SCHEMA)


def test_a_plan_says_what_the_function_promised(catalog):
    plan = catalog.map(count_neighbours, schema=COUNTED, reach="2 deg")
    assert plan.schema.equals(COUNTED, check_metadata=True)
    assert plan.properties["id"] == "source_id"
    assert plan.map(lambda t: t.drop_columns("source_id"), schema=COUNTED.remove(1)).properties["id"] is None
    assert plan.explain().cells == len(catalog.cells)
    assert np.isfinite(plan.explain().seconds)
