import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

import sciplat
from sciplat.errors import ArgumentError, StoreExists
from sciplat.io.catalog_writer import CatalogWriter
from sciplat.io.storage import LocalStorage
from sciplat.lazy.rebuild import rebuild, rerun
from sciplat.sky.cell import Cell
from tests.plan_scene import SCHEMA, brighten, stars, write_stars
from tests.sky_scene import WHOLE_SKY
from tests.strategies import partitions

OTHERS = pa.schema(
    [
        SCHEMA.field("_healpix_29"),
        pa.field("band", pa.string(), nullable=False, metadata={"description": "of the filter"}),
        pa.field("dec", pa.float64()),
        pa.field("ra", pa.float64()),
        pa.field("mag", pa.float32()),
        pa.field("source_id", pa.int32()),
    ]
)
CONE = sciplat.Cone("0 deg", "90 deg", "3 deg")


def others():
    """Return rows of other columns: the positions of some stars twice, and stars of other places."""
    rows = stars().take(pa.array(np.repeat(np.arange(0, 244, 3), 2)))
    rows = pa.concat_tables([rows, stars(20)]).sort_by("_healpix_29")
    columns = {name: rows[name] for name in ("_healpix_29", "dec", "ra")}
    columns |= {"band": pa.array(["g", "r", "i", "z", "y"] * 200).slice(0, rows.num_rows)}
    columns |= {"source_id": pa.array(range(rows.num_rows), pa.int32()), "mag": rows["mag"].cast(pa.float32())}
    return pa.table([columns[name] for name in OTHERS.names], schema=OTHERS)


def brute_force(left, right, schema):
    """Return the rows of both, sorted by position; those of one position as they come."""
    rows = sorted([*left.to_pylist(), *right.to_pylist()], key=lambda row: row["_healpix_29"])  # stable
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)


def publish(url, table, cells=WHOLE_SKY, **properties):
    about = {"position": ["ra", "dec"], "id": "source_id", "kind": "sources", "frame": "icrs", "epoch": None}
    writer = CatalogWriter.begin(LocalStorage(url), about | {"rows_per_cell": 10**6} | properties)
    index = table["_healpix_29"].to_numpy()
    bounds = [(cell, *np.searchsorted(index, [cell.start, cell.stop])) for cell in cells]
    reports = [writer.cells.write(cell, table.slice(first, last - first), 10**6) for cell, first, last in bounds]
    writer.publish(table.schema, reports)
    return sciplat.open_catalog(url)


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    write_stars(folder / "stars", WHOLE_SKY)
    quarter = [cell for base in WHOLE_SKY for cell in base.children]
    return sciplat.open_catalog(folder / "stars"), publish(folder / "others", others(), quarter)


@settings(max_examples=8)
@given(partitions(max_splits=15), partitions(max_splits=15))
def test_the_rows_of_both_stand_in_one_order_for_every_partitioning(tmp_path_factory, mine, its):
    folder = tmp_path_factory.mktemp("partition")
    write_stars(folder / "stars", mine)
    left, right = sciplat.open_catalog(folder / "stars"), publish(folder / "others", others(), its)
    plan = left.concat(right)
    assert plan.compute().equals(brute_force(stars(), others(), plan.schema))
    back = right.concat(left)
    assert back.compute().equals(brute_force(others(), stars(), back.schema))


@settings(max_examples=3)
@given(partitions(max_splits=8))
def test_parts_of_cells_give_the_rows_of_the_cells(tmp_path_factory, cells):
    folder = tmp_path_factory.mktemp("partition")
    write_stars(folder / "stars", cells)
    plan = sciplat.open_catalog(folder / "stars").concat(publish(folder / "others", others()))
    for cell in plan.cells:
        parts = [plan.node.task(part).run() for part in cell.children]
        assert pa.concat_tables(parts).equals(plan.node.task(cell).run())


def test_columns_of_one_side_are_null_on_the_other_and_types_are_widened(sides):
    left, right = sides
    schema = left.concat(right).schema
    assert schema.names == ["_healpix_29", "source_id", "ra", "dec", "mag", "band"]
    assert (schema.field("source_id").type, schema.field("mag").type) == (pa.int64(), pa.float64())
    assert schema.field("mag").metadata == {b"unit": b"mag"}
    assert schema.field("band").nullable
    assert schema.field("band").metadata == {b"description": b"of the filter"}
    rows = left.concat(right).compute()
    assert rows.schema.equals(schema, check_metadata=True)
    assert rows["band"].null_count == stars().num_rows
    assert left.concat(left).compute().num_rows == 2 * len(left)


def test_regions_functions_and_selections_stand_on_either_side(sides):
    left, right = sides
    both = left.concat(right)
    rows = both.compute()
    inside = rows.filter(pa.array(CONE.contains(rows["ra"].to_numpy(), rows["dec"].to_numpy())))
    assert both.within(CONE).compute().equals(inside)
    assert left.within(CONE).concat(right.within(CONE)).compute().equals(inside)
    bright = left.map(brighten, schema=SCHEMA).concat(right.select("source_id").within(CONE))
    near = others().filter(pa.array(CONE.contains(others()["ra"].to_numpy(), others()["dec"].to_numpy())))
    assert bright.compute().equals(brute_force(brighten(stars()), near.drop_columns(["band", "mag"]), bright.schema))
    assert bright.explain().functions
    assert left.concat(bright).explain().functions
    assert not both.explain().functions


def test_catalogs_that_do_not_meet_keep_their_cells(tmp_path):
    places, base = [Cell(0, 2), Cell(0, 4)], stars()["_healpix_29"].to_numpy() >> 58
    left, right = (
        publish(tmp_path / str(cell.index), stars().filter(pa.array(base == cell.index)), [cell]) for cell in places
    )
    assert right.concat(left).cells == places
    both = pa.concat_tables([left.compute(), right.compute()])
    assert right.concat(left).compute().equals(both)
    assert right.concat(left).head(1).equals(left.head(1))


def test_both_sides_are_quoted(sides):
    left, right = sides
    quotes = [plan.explain() for plan in (left, right, left.concat(right))]
    assert quotes[2].rows == pytest.approx(quotes[0].rows + quotes[1].rows, abs=2)
    assert quotes[2].reads > max(quotes[0].reads, quotes[1].reads)
    assert quotes[2].stored == left.stored + right.stored
    assert quotes[2].memory >= quotes[2].writes / quotes[2].cells


def test_a_written_concat_names_both_inputs_and_is_found_again(sides, tmp_path):
    left, right = sides
    plan = left.concat(right)
    store = plan.write(tmp_path / "both")
    assert store.compute().equals(plan.compute())
    assert {left.store.digest, right.store.digest} <= set(json.dumps(store.provenance).split('"'))
    again = rebuild(json.loads(json.dumps(plan.node.describe())))
    assert again.node.describe() == plan.node.describe()
    assert again.write(tmp_path / "both").store.manifest.write_id == store.store.manifest.write_id
    other, same = rerun(str(tmp_path / "both"), str(tmp_path / "other"))
    assert same
    assert other.compute().equals(store.compute())
    with pytest.raises(StoreExists, match="now"):
        right.concat(left).write(tmp_path / "both")


def test_what_both_say_of_themselves_is_kept(sides, tmp_path):
    left, right = sides
    assert left.concat(right).properties["id"] == "source_id"
    motion = {"pmra": {"column": "mag", "unit": "mas/yr"}}
    nameless = publish(tmp_path / "nameless", others(), id=None, rows_per_cell=5, motion=motion)
    properties = left.concat(nameless).properties
    assert properties["id"] is None
    assert properties["rows_per_cell"] == 10**6
    assert "motion" not in properties
    assert nameless.concat(left).properties["rows_per_cell"] == 5


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"frame": "galactic"}, r"(?s)different frames.*icrs and galactic"),
        ({"epoch": "J2016.0"}, r"(?s)different epochs.*None and J2016.0"),
        ({"position": ["dec", "ra"]}, r"(?s)different position columns.*ra, dec and dec, ra"),
        ({"kind": "measurements"}, "different kinds of rows"),
    ],
)
def test_catalogs_whose_positions_mean_different_things_are_refused(sides, tmp_path, properties, message):
    with pytest.raises(ArgumentError, match=message):
        sides[0].concat(publish(tmp_path / "odd", stars(), **properties))


def test_columns_that_do_not_fit_are_refused(sides, tmp_path):
    left, place = sides[0], SCHEMA.get_field_index("mag")
    flux = stars().set_column(place, pa.field("mag", pa.float64(), metadata={"unit": "nJy"}), stars()["mag"])
    with pytest.raises(ArgumentError, match=r"(?s)unit of 'mag'.*mag and nJy"):
        left.concat(publish(tmp_path / "flux", flux))
    texts = stars().set_column(place, "mag", stars()["mag"].cast(pa.string()))
    with pytest.raises(ArgumentError, match=r"(?s)'mag' holds other values.*double and string"):
        left.concat(publish(tmp_path / "texts", texts))
    large = stars().set_column(place, "mag", pa.array([2**53 + 1] * stars().num_rows))
    plan = left.concat(publish(tmp_path / "large", large))
    assert plan.schema.field("mag").type == pa.float64()
    with pytest.raises(ArgumentError, match="'mag' cannot be double"):
        plan.compute()
