import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from astropy.coordinates import angular_separation
from hypothesis import given, settings
from hypothesis import strategies as st

import sciplat
from sciplat.errors import AngleError, ArgumentError, ColumnError, PlanChanged, StoreExists
from sciplat.lazy.fingerprint import fingerprint
from sciplat.lazy.rebuild import rebuild, rerun
from sciplat.sky.cell import healpix_29
from tests.lazy.test_concat import publish
from tests.plan_scene import SCHEMA, brighten, stars, write_stars
from tests.sky_scene import WHOLE_SKY
from tests.strategies import partitions

REACH = "2 deg"
CONE = sciplat.Cone("0 deg", "90 deg", "3 deg")
EPOCHS = pa.schema(
    [
        pa.field("_healpix_29", pa.int64()),
        pa.field("star", pa.int32()),
        pa.field("ra", pa.float64()),
        pa.field("dec", pa.float64()),
        pa.field("mag", pa.float32(), nullable=False, metadata={"unit": "mag"}),
        pa.field("bands", pa.list_(pa.string())),
    ]
)


TAKEN = {"ra": "ra_other", "dec": "dec_other", "mag": "mag_other"}


def epochs():
    """Return up to four rows for most stars: about a degree away, on the far side of the sky, or without a key."""
    rng, table = np.random.default_rng(8), stars()
    star = np.repeat(np.arange(table.num_rows), rng.integers(0, 5, table.num_rows))
    count = len(star)
    dec = np.clip(table["dec"].to_numpy()[star] + rng.normal(0, 0.8, count), -90, 90)
    ra = (table["ra"].to_numpy()[star] + rng.normal(0, 0.8, count) / np.cos(np.radians(dec))) % 360
    dec = np.where(rng.uniform(size=count) < 0.1, -dec, dec)
    key = pa.array(table["source_id"].to_numpy()[star], pa.int32(), mask=rng.uniform(size=count) < 0.1)
    bands = [["g"] * int(length) for length in rng.integers(0, 3, count)]
    columns = [healpix_29(ra, dec), key, ra, dec, rng.normal(20, 1, count).astype(np.float32), bands]
    return pa.table(columns, schema=EPOCHS).sort_by("_healpix_29")


def brute_force(left, right, how, schema):
    """Return all pairs of rows of one key within the reach."""
    rows, others = [], right.to_pylist()
    for row in left.to_pylist():
        found = [its for its in others if its["star"] == row["source_id"] and separation(row, its) <= 2]
        rows += [row | {TAKEN.get(name, name): its[name] for name in EPOCHS.names[2:]} for its in found]
        rows += [row] if how == "left" and not found else []
    return pa.Table.from_pylist(rows, schema=schema)


def separation(row, its):
    return np.degrees(angular_separation(*np.radians([row["ra"], row["dec"], its["ra"], its["dec"]])))


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    write_stars(folder / "stars", WHOLE_SKY)
    quarter = [cell for base in WHOLE_SKY for cell in base.children]
    return sciplat.open_catalog(folder / "stars"), publish(folder / "epochs", epochs(), quarter, id=None)


@pytest.fixture(scope="module")
def expected(sides):
    left, right = sides
    schemas = {how: joined(left, right, how).schema for how in ("inner", "left")}
    return {how: brute_force(stars(), epochs(), how, schema) for how, schema in schemas.items()}


def joined(left, right, how="inner"):
    return left.join(right, on=("source_id", "star"), how=how, reach=REACH)


def test_the_scene_has_all_kinds_of_rows(expected):
    index = expected["left"]["source_id"].to_numpy()
    assert expected["left"]["mag_other"].null_count > 30
    assert max(np.unique(index, return_counts=True)[1]) == 4
    assert 200 < expected["inner"].num_rows < epochs().num_rows - 50


@settings(max_examples=8)
@given(partitions(max_splits=15), partitions(max_splits=15), st.sampled_from(["inner", "left"]))
def test_the_answer_does_not_depend_on_the_cells_of_either_side(tmp_path_factory, expected, mine, its, how):
    folder = tmp_path_factory.mktemp("partition")
    write_stars(folder / "stars", mine)
    left, right = sciplat.open_catalog(folder / "stars"), publish(folder / "epochs", epochs(), its, id=None)
    assert joined(left, right, how).compute().equals(expected[how])


@settings(max_examples=8)
@given(partitions(max_splits=15), st.sampled_from(["inner", "left"]))
def test_a_table_is_joined_by_its_key_alone(tmp_path_factory, cells, how):
    url = tmp_path_factory.mktemp("partition") / "stars"
    write_stars(url, cells)
    table = pa.table({"source_id": pa.array([5, 7, 7, None, 9999], pa.int16()), "name": list("abcde")})
    rows = sciplat.open_catalog(url).join(table, on="source_id", how=how).compute()
    names, unmatched = {5: ["a"], 7: ["b", "c"]}, [None] if how == "left" else []
    pairs = [(row, name) for row in stars().to_pylist() for name in names.get(row["source_id"], unmatched)]
    assert rows.drop_columns("name").to_pylist() == [row for row, _ in pairs]
    assert rows["name"].to_pylist() == [name for _, name in pairs]


def test_parts_of_cells_give_the_rows_of_the_cells(sides):
    for plan in (joined(*sides, "left"), sides[0].join(epochs(), on=("source_id", "star"))):
        for cell in plan.cells:
            parts = [plan.node.task(part).run() for part in cell.children]
            assert pa.concat_tables(parts).equals(plan.node.task(cell).run())


def test_rows_beyond_the_reach_are_no_match_even_where_they_are_read(sides):
    """One arcminute by default: a tenth of a degree away is another source, in whatever cell it lies."""
    left, right = sides
    pairs = left.join(right, on=("source_id", "star")).compute()
    ra, dec, its_ra, its_dec = (np.radians(pairs[name].to_numpy()) for name in ("ra", "dec", "ra_other", "dec_other"))
    assert (np.degrees(angular_separation(ra, dec, its_ra, its_dec)) * 60 <= 1).all()
    assert pairs.num_rows < joined(left, right).compute().num_rows
    assert left.join(left, on="source_id", reach="1e-6 arcsec").compute().num_rows == len(left)


def test_columns_keep_their_names_unless_these_are_taken(sides):
    schema = joined(*sides).schema
    assert schema.names == [*SCHEMA.names, "ra_other", "dec_other", "mag_other", "bands"]
    assert schema.field("mag_other") == pa.field("mag_other", pa.float32(), nullable=False)
    assert schema.field("mag_other").metadata == {b"unit": b"mag"}
    assert joined(*sides, "left").schema.field("mag_other").nullable
    twice = sides[0].join(sides[1], on=("source_id", "star"), suffix="_b", reach=REACH)
    assert twice.schema.names[5:8] == ["ra_b", "dec_b", "mag_b"]
    assert twice.compute().schema.equals(twice.schema, check_metadata=True)
    assert twice.properties == sides[0].properties


def test_regions_functions_and_selections_stand_on_either_side(sides, expected):
    left, right = sides
    rows = expected["left"]
    inside = rows.filter(pa.array(CONE.contains(rows["ra"].to_numpy(), rows["dec"].to_numpy())))
    assert 0 < inside.num_rows < rows.num_rows
    assert joined(left, right, "left").within(CONE).compute().equals(inside)
    assert joined(left.within(CONE), right, "left").compute().equals(inside)
    assert joined(left, right.select("star", "mag", "bands"), "left").compute().equals(rows)
    function = right.map(lambda table: table, schema=EPOCHS)
    assert joined(left, function, "left").compute().equals(rows)
    assert joined(left, function).explain().functions
    assert not joined(left, right).explain().functions
    bright = joined(left.map(brighten, schema=SCHEMA), right).select("mag").compute()
    assert bright["mag"].to_pylist() == [mag - 1 for mag in expected["inner"]["mag"].to_pylist()]


def test_joins_follow_each_other(sides, expected):
    left, right = sides
    names = pa.table({"star": pa.array(range(400), pa.int64()), "name": [f"s{n}" for n in range(400)]})
    right = right.join(names, on="star", how="left")
    rows = joined(left, right).compute()
    assert rows.drop_columns("name").equals(expected["inner"])
    assert rows["name"].to_pylist() == [f"s{n}" for n in rows["source_id"].to_pylist()]


def test_several_keys(sides):
    table = stars().select(["source_id", "mag"]).append_column("text", pa.array(["x", "y"] * 122))
    keys = stars().append_column("text", pa.array(["x"] * 244))
    rows = sides[0].join(keys.select(["source_id", "text"]), on="source_id").join(table, on=["source_id", "text"])
    assert rows.compute()["mag_other"].to_pylist() == stars()["mag"].to_pylist()[::2]


def test_a_dataframe_is_a_table(sides):
    table = pa.table({"id": [5, 7, 9], "name": ["a", None, "c"]})
    plans = [sides[0].join(other, on=("source_id", "id")) for other in (table, table.to_pandas())]
    assert plans[0].compute().to_pylist() == plans[1].compute().to_pylist()
    assert plans[0].compute().num_rows == 3


def test_cells_without_anything_to_join_are_not_read(sides):
    left, right = sides
    few = right.within(sciplat.Cone("0 deg", "90 deg", "1 arcsec"))
    assert len(joined(left, few).cells) == 4
    assert joined(left, few, "left").cells == left.cells
    assert joined(left, few).explain().reads < joined(left, right).explain().reads


def test_both_sides_are_quoted(sides):
    left, right = sides
    quotes = [plan.explain() for plan in (left, right, joined(left, right))]
    assert quotes[2].cells == quotes[0].cells
    assert quotes[2].reads > quotes[0].reads
    assert quotes[2].stored == left.stored + right.stored
    assert len(right) <= quotes[2].rows <= 1.5 * len(right)
    assert quotes[2].memory > quotes[0].memory
    table = pa.table({"source_id": [1, 1, 1], "x": [1.0, 2.0, 3.0]})
    assert left.join(table, on="source_id").explain().rows == pytest.approx(3 * len(left), abs=3)


def test_a_written_join_names_both_inputs_and_is_found_again(sides, expected, tmp_path):
    left, right = sides
    plan = joined(left, right, "left")
    store = plan.write(tmp_path / "joined")
    assert store.compute().equals(expected["left"])
    assert {left.store.digest, right.store.digest} <= set(json.dumps(store.provenance).split('"'))
    again = rebuild(json.loads(json.dumps(plan.node.describe())))
    assert again.node.describe() == plan.node.describe()
    assert again.schema.equals(plan.schema, check_metadata=True)
    assert again.write(tmp_path / "joined").store.manifest.write_id == store.store.manifest.write_id
    other, same = rerun(str(tmp_path / "joined"), str(tmp_path / "other"))
    assert same
    assert other.compute().equals(expected["left"])
    with pytest.raises(StoreExists, match=r'how of join: "left", now "inner"'):
        joined(left, right).write(tmp_path / "joined")


def test_a_table_is_known_by_its_content(sides, tmp_path):
    table = pa.table({"source_id": [5, 7, 7], "name": ["a", "b", None]})
    plan = sides[0].join(table, on="source_id")
    store = plan.write(tmp_path / "joined")
    chunks = pa.concat_tables([table.slice(0, 2), table.slice(2)])
    longer = pa.concat_tables([table, table]).slice(3)
    for same in (chunks, longer, table.replace_schema_metadata({"pandas": "{}"})):
        again = sides[0].join(same, on="source_id")
        assert fingerprint(again.node.describe()) == fingerprint(plan.node.describe())
        assert again.write(tmp_path / "joined").store.manifest.write_id == store.store.manifest.write_id
    with pytest.raises(StoreExists, match="content of table of join"):
        sides[0].join(table.set_column(1, "name", [["a", "b", "c"]]), on="source_id").write(tmp_path / "joined")
    with pytest.raises(PlanChanged, match=r"(?s)table in memory.*as Python"):
        rebuild(json.loads(json.dumps(plan.node.describe())))


def test_a_cluster_gives_the_same_files_as_threads(sides, tmp_path):
    from distributed import Client, LocalCluster

    table = pa.table({"source_id": pa.array(range(300)), "name": [f"s{n}" for n in range(300)]})
    plan = joined(sides[0].join(table, on="source_id", how="left"), sides[1].sample(0.7)).concat(sides[0])
    local = plan.write(tmp_path / "threads")
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        remote = plan.write(tmp_path / "cluster")
    assert remote.store.manifest.digest == local.store.manifest.digest


def test_neither_acero_nor_dataset_is_loaded():
    code = """
import sys, pyarrow as pa, sciplat.tasks.concat, sciplat.tasks.sample
from sciplat.steps.join import Joining, join
table = pa.table({"k": [1, 2], "x": [[1], None]})
join(table, table, Joining((("k", "k"),), "left", (("x", "y"),)))
print([name for name in sys.modules if name in ("pyarrow.acero", "pyarrow.dataset")])
"""
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


LARGE = pa.table({"source_id": np.zeros(1_300_000, np.int64)})
TABLE = pa.table({"source_id": [1], "mag": [1.0], "flag": [True], "name": ["a"], "mag_other": [2.0]})


@pytest.mark.parametrize(
    ("other", "arguments", "error", "message"),
    [
        (TABLE, {"on": "id"}, ColumnError, r"(?s)no column 'id' to join on.*source_id"),
        (TABLE, {"on": ("source_id", "id")}, ColumnError, r"(?s)no column 'id' to join on.*flag"),
        (TABLE, {"on": "mag"}, ArgumentError, r"(?s)'mag' cannot be a key.*double.*integers or texts"),
        (TABLE, {"on": ("source_id", "flag")}, ArgumentError, "'flag' cannot be a key"),
        (TABLE, {"on": ("source_id", "name")}, ArgumentError, "holds integers, and 'name' of the other side texts"),
        (TABLE, {"on": "source_id"}, ArgumentError, "two columns 'mag_other'"),
        (TABLE, {"on": "source_id", "suffix": ""}, ArgumentError, "two columns 'mag'"),
        (TABLE, {"on": []}, ArgumentError, "on= names the key"),
        (TABLE, {"on": ("a", "b", "c")}, ArgumentError, "on= names the key"),
        (TABLE, {"on": None}, ArgumentError, "on= names the key"),
        (TABLE, {"on": "source_id", "how": "outer"}, ArgumentError, '"inner" or "left"'),
        (TABLE.rename_columns(list("iaabc")), {"on": ("source_id", "i")}, ArgumentError, "'a' stands twice"),
        ("stars.parquet", {"on": "source_id"}, ArgumentError, "found  str"),
        (None, {"on": "source_id"}, ArgumentError, "found  NoneType"),
        (LARGE, {"on": "source_id"}, ArgumentError, r"(?s)10\.4 MB, at most 10 MB.*ingest_catalog"),
    ],
)  # fmt: skip
def test_what_cannot_be_joined_is_refused(sides, other, arguments, error, message):
    with pytest.raises(error, match=message):
        sides[0].join(other, **arguments)


def test_catalogs_that_cannot_be_joined_are_refused(sides, tmp_path):
    left, right = sides
    with pytest.raises(ArgumentError, match=r"(?s)different frames.*icrs and galactic"):
        joined(left, publish(tmp_path / "galactic", epochs(), id=None, frame="galactic"))
    with pytest.raises(ArgumentError, match="20 degrees"):
        left.join(right, on=("source_id", "star"), reach="20 deg")
    with pytest.raises(AngleError, match="no unit"):
        left.join(right, on=("source_id", "star"), reach=1.0)
