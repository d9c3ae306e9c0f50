import json
import pickle
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sciplat
from sciplat.errors import AngleError, ArgumentError, StoreExists
from sciplat.lazy.rebuild import rebuild, rerun
from sciplat.sky.cell import Cell, healpix_29
from tests.kernels.test_groups import PLACES, brute_force, scatter
from tests.lazy.test_concat import publish
from tests.plan_scene import SCHEMA
from tests.reference import separations
from tests.sky_scene import WHOLE_SKY
from tests.strategies import partitions

RADIUS, REACH = 0.3, 8.0
LINKS = {"radius": "0.3 deg", "reach": "8 deg"}
OWN = ["_healpix_29", "ra", "dec"]
FEW = settings(max_examples=6)


def scene(seed=0):
    """Return rows around the places that are awkward, in groups of some ten at most."""
    ra, dec = np.concatenate([scatter(place, 40, 1.5, seed + n) for n, place in enumerate(PLACES)], axis=1)
    columns = [healpix_29(ra, dec), np.arange(len(ra)), ra, dec, np.arange(len(ra)) / 10]
    rows = pa.table(columns, schema=SCHEMA)
    return rows.take(pa.array(np.argsort(columns[0], kind="stable")))


def others(seed, names=("source_id", "ra", "dec", "band")):
    """Return other rows of which half are near rows of the scene."""
    old, new = scene(), scene(seed)
    near = np.random.default_rng(seed).uniform(size=old.num_rows) < 0.5
    ra = np.where(near, (old["ra"].to_numpy() + 0.01) % 360, new["ra"].to_numpy())
    dec = np.where(near, old["dec"].to_numpy(), new["dec"].to_numpy())
    index = healpix_29(ra, dec)
    bands = [f"{seed}-{number}" for number in range(len(ra))]
    values = dict(zip(("source_id", "ra", "dec", "band"), (np.arange(len(ra)), ra, dec, bands), strict=True))
    table = pa.table({"_healpix_29": index, **{name: values[name] for name in names}})
    return table.take(pa.array(np.argsort(index, kind="stable")))


def expected_groups(rows):
    """Return the rows with their groups, by the distances of all pairs."""
    first = brute_force(rows["ra"].to_numpy(), rows["dec"].to_numpy(), RADIUS)
    columns = rows["_healpix_29"].to_numpy()[first], np.bincount(first)[first]
    fields = [pa.field(name, pa.int64(), nullable=False) for name in ("group_id", "group_size")]
    return pa.table([*rows.columns, *map(pa.array, columns)], schema=pa.schema([*rows.schema, *fields]))


def expected_match(tables, schema):
    """Return one row for each group of the tables' rows, by the distances of all pairs."""
    lists = enumerate(table.to_pylist() for table in tables)
    rows = [(row["_healpix_29"], k, n, row) for k, each in lists for n, row in enumerate(each)]
    rows.sort(key=lambda row: row[:3])
    ra, dec = (np.array([row[3][name] for row in rows]) for name in ("ra", "dec"))
    away = separations((ra, dec), (ra, dec))
    first = brute_force(ra, dec, RADIUS)
    found = []
    for root in np.unique(first):
        members = [n for n in range(len(rows)) if first[n] == root]
        shown = {}
        for n in sorted(members, key=lambda n: (away[n, root], n)):
            shown.setdefault(rows[n][1], rows[n][3])
        row = {name: shown[min(shown)][name] for name in OWN}
        for k, its in shown.items():
            row |= {renamed(name, k + 1): value for name, value in its.items() if name != "_healpix_29"}
        row |= {"group_id": rows[root][0], "group_size": len(members), "catalogs": len(shown)}
        found.append(row)
    return pa.Table.from_pylist(sorted(found, key=lambda row: row["_healpix_29"]), schema=schema)


def renamed(name, number):
    taken = number > 1 and name in ("source_id", "band") and not (name == "band" and number == 2)
    return f"{name}_{number}" if taken or name in ("ra", "dec") else name


@pytest.fixture(scope="module")
def catalogs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    quarter = [cell for base in WHOLE_SKY for cell in base.children]
    plain = publish(folder / "plain", scene(), WHOLE_SKY)
    return [plain, *(publish(folder / f"other{seed}", others(seed), quarter) for seed in (100, 200))]


@pytest.fixture(scope="module")
def matched(catalogs):
    """Return the tables, and the groups of all."""
    return expected_match([scene(), others(100), others(200)], sciplat.crossmatch_many(catalogs, **LINKS).schema)


@pytest.fixture(scope="module")
def grouped():
    """Return the rows of the scene with their groups."""
    return expected_groups(scene())


@pytest.fixture(scope="module")
def widest(grouped):
    """Return the largest angle between a row of the scene and the first row of its group."""
    position = grouped["ra"].to_numpy(), grouped["dec"].to_numpy()
    first = np.searchsorted(grouped["_healpix_29"].to_numpy(), grouped["group_id"].to_numpy())
    return separations(position, position)[np.arange(len(first)), first].max()


def test_the_scene_has_groups_of_all_kinds_on_all_edges(matched, grouped):
    sizes = grouped["group_size"].to_numpy()
    assert {1, 2, 3, 5} <= set(sizes.tolist()) <= set(range(20))
    assert len(np.unique(grouped["group_id"].to_numpy() >> 58)) == 10
    crossing = (grouped["group_id"].to_numpy() >> 58) != (grouped["_healpix_29"].to_numpy() >> 58)
    assert crossing.sum() > 10
    assert set(matched["catalogs"].to_pylist()) == {1, 2, 3}
    assert max(matched["group_size"].to_pylist()) > 10


@FEW
@given(partitions(max_splits=15))
def test_groups_do_not_depend_on_the_cells(tmp_path_factory, grouped, cells):
    catalog = publish(tmp_path_factory.mktemp("partition") / "stars", scene(), cells)
    assert catalog.groups(**LINKS).compute().equals(grouped)


@FEW
@given(st.lists(partitions(max_splits=10), min_size=3, max_size=3))
def test_a_match_of_many_does_not_depend_on_the_cells_of_any(tmp_path_factory, matched, cells):
    folder = tmp_path_factory.mktemp("partition")
    tables = [scene(), others(100), others(200)]
    stores = [publish(folder / str(n), rows, part) for n, (rows, part) in enumerate(zip(tables, cells, strict=True))]
    assert sciplat.crossmatch_many(stores, **LINKS).compute().equals(matched)


def test_parts_of_cells_give_the_rows_of_the_cells(catalogs):
    for plan in (catalogs[0].groups(**LINKS), sciplat.crossmatch_many(catalogs, **LINKS)):
        for cell in plan.cells[::3]:
            parts = [plan.node.task(part).run() for part in cell.children]
            assert pa.concat_tables(parts).equals(plan.node.task(cell).run())


@settings(max_examples=4)
@given(partitions(max_splits=12))
def test_a_group_that_is_too_wide_is_an_error_for_every_partitioning(tmp_path_factory, widest, cells):
    catalog = publish(tmp_path_factory.mktemp("partition") / "stars", scene(), cells)
    enough, little = (f"{float(2 * widest * share + RADIUS)!r} deg" for share in (1.001, 0.999))
    assert catalog.groups(radius="0.3 deg", reach=enough).compute().num_rows == len(catalog)
    for plan in (
        catalog.groups(radius="0.3 deg", reach=little),
        sciplat.crossmatch_many([catalog, catalog], radius="0.3 deg", reach=little),
    ):
        with pytest.raises(ArgumentError, match=r"(?s)the group around ra .* reaches farther than .*try    reach="):
            plan.compute()


def test_columns_keep_their_names_unless_these_are_taken(catalogs):
    plan = sciplat.crossmatch_many(catalogs, **LINKS)
    assert plan.columns == [
        *OWN, "source_id", "ra_1", "dec_1", "mag",
        "source_id_2", "ra_2", "dec_2", "band", "source_id_3", "ra_3", "dec_3", "band_3",
        "group_id", "group_size", "catalogs",
    ]  # fmt: skip
    assert plan.schema.field("mag").metadata == {b"unit": b"mag"}
    assert plan.properties["position"] == ["ra", "dec"]
    assert plan.properties["id"] is None
    assert plan.compute().schema.equals(plan.schema, check_metadata=True)
    grouped = catalogs[0].groups(radius="1 mas")
    assert grouped.columns == [*catalogs[0].columns, "group_id", "group_size"]
    again = sciplat.crossmatch_many([grouped, grouped], radius="1 mas").compute()
    assert again["group_size"].to_pylist() == [2 * n for n in again["group_size_1"].to_pylist()]


def test_fewer_columns_are_read_and_have_the_same_names(catalogs, matched, grouped):
    plan = sciplat.crossmatch_many(catalogs, **LINKS).select("source_id_3", "band_3", "group_size")
    assert plan.compute().equals(matched.select(plan.columns))
    assert plan.explain().requests < sciplat.crossmatch_many(catalogs, **LINKS).explain().requests
    few = catalogs[0].groups(**LINKS).select("group_size")
    assert few.compute().equals(grouped.select(few.columns))
    assert "mag" not in few.node.inner.inner.schema.names
    assert "mag" not in few.node.inner.places.schema.names


def test_groups_are_those_of_the_rows_that_are_left(catalogs, matched):
    """After a filter the others do not link any more; a filter after the grouping changes no group."""
    bright = catalogs[0].where("mag < 14")
    rows = scene().filter(pa.array(scene()["mag"].to_numpy() < 14))
    assert bright.groups(**LINKS).compute().equals(expected_groups(rows))
    cone = sciplat.Cone("0 deg", "90 deg", "1 deg")
    whole = catalogs[0].groups(**LINKS)
    inside = whole.compute()
    inside = inside.filter(pa.array(cone.contains(inside["ra"].to_numpy(), inside["dec"].to_numpy())))
    assert 0 < inside.num_rows < 40
    assert whole.within(cone).compute().equals(inside)
    assert not catalogs[0].within(cone).groups(**LINKS).compute().equals(inside)
    many = sciplat.crossmatch_many(catalogs, **LINKS)
    assert many.where("catalogs > 1").compute().num_rows == sum(n > 1 for n in matched["catalogs"].to_pylist())
    function = catalogs[0].map(lambda table: table, schema=SCHEMA)
    assert function.groups(**LINKS).compute().equals(whole.compute())
    assert sciplat.crossmatch_many([function, *catalogs[1:]], **LINKS).compute().equals(matched)
    assert sciplat.crossmatch_many([catalogs[1], function], **LINKS).explain().functions
    assert not many.explain().functions


def test_all_catalogs_are_quoted(catalogs):
    many, alone = sciplat.crossmatch_many(catalogs, **LINKS).explain(), [each.explain() for each in catalogs]
    assert many.rows == pytest.approx(sum(map(len, catalogs)), abs=3)
    assert many.stored == sum(each.stored for each in catalogs)
    assert many.cells >= max(each.cells for each in alone)
    one = catalogs[0].groups(**LINKS).explain()
    assert (one.rows, one.cells) == (alone[0].rows, alone[0].cells)
    assert one.memory > alone[0].memory


@pytest.mark.parametrize("kind", ["groups", "many", "few columns of many"])
def test_a_written_result_names_its_inputs_and_is_found_again(catalogs, tmp_path, kind):
    plan = catalogs[0].groups(**LINKS) if kind == "groups" else sciplat.crossmatch_many(catalogs, **LINKS)
    plan = plan.select("source_id_3") if kind.startswith("few") else plan
    inputs = catalogs[:1] if kind == "groups" else catalogs
    store = plan.write(tmp_path / "out")
    assert store.compute().equals(plan.compute())
    assert {each.store.digest for each in inputs} <= set(json.dumps(store.provenance).split('"'))
    again = rebuild(json.loads(json.dumps(plan.node.describe())))
    assert again.node.describe() == plan.node.describe()
    assert again.schema.equals(plan.schema, check_metadata=True)
    assert again.write(tmp_path / "out").store.manifest.write_id == store.store.manifest.write_id
    other, same = rerun(str(tmp_path / "out"), str(tmp_path / "other"))
    assert same
    assert other.compute().equals(store.compute())


def test_another_radius_is_another_plan(catalogs, tmp_path):
    catalogs[0].groups(radius="1 arcsec").write(tmp_path / "out")
    with pytest.raises(StoreExists, match="radius of groups"):
        catalogs[0].groups(radius="2 arcsec", reach="30 arcsec").write(tmp_path / "out")


def test_tasks_travel(catalogs, matched):
    plan = sciplat.crossmatch_many([catalogs[0].groups(**LINKS), *catalogs[1:]], **LINKS)
    tasks = [pickle.loads(pickle.dumps(plan.node.task(cell))) for cell in plan.cells]
    rows = pa.concat_tables(task.run() for task in tasks)
    assert rows["group_id"].equals(matched["group_id"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"radius": 1.0}, AngleError, "radius: 1.0 has no unit"),
        ({"radius": "1 arcsec", "reach": 30}, AngleError, "reach: 30 has no unit"),
        ({"radius": "0.9 mas"}, ArgumentError, r"(?s)radius of groups is 2\.5e-07 degrees.*at least 1 mas"),
        ({"radius": "0 deg"}, ArgumentError, "radius of groups is 0 degrees"),
        ({"radius": "-1 arcsec"}, ArgumentError, "radius of groups is -0.000"),
        ({"radius": "3.4 deg"}, ArgumentError, r"at most 3\.3 deg"),
        ({"radius": "1 deg", "reach": "2.9 deg"}, ArgumentError, "at least 3 radii and at most 10 deg"),
        ({"radius": "1 deg", "reach": "11 deg"}, ArgumentError, r"reach of groups is 11 degrees, with a radius of 1"),
    ],
)
def test_angles_that_make_no_sense_are_refused(catalogs, arguments, error, message):
    for make in (catalogs[0].groups, lambda **kw: sciplat.crossmatch_many(catalogs, **kw)):
        with pytest.raises(error, match=message):
            make(**arguments)


def test_what_cannot_be_grouped_is_refused(catalogs, tmp_path):
    with pytest.raises(ArgumentError, match=r"(?s)two or more catalogs.*Catalog.*a\.groups"):
        sciplat.crossmatch_many(catalogs[:1], radius="1 arcsec")
    for wrong in (None, "stars.parquet", scene()):
        with pytest.raises(ArgumentError, match="two or more catalogs"):
            sciplat.crossmatch_many([catalogs[0], wrong], radius="1 arcsec")
    some = (each for each in catalogs)
    for wrong, found in ((some, "generator"), (None, "NoneType"), (catalogs[0], "Catalog"), ({}, "dict"), ([], "list")):
        with pytest.raises(ArgumentError, match=f"(?s)a list of two or more catalogs.*{found}"):
            sciplat.crossmatch_many(wrong, radius="1 arcsec")
    assert len(list(some)) == len(catalogs)  # nothing of it is used up
    with pytest.raises(ArgumentError, match="has a column 'group_id' already"):
        catalogs[0].groups(radius="1 arcsec").groups(radius="2 arcsec")
    galactic = publish(tmp_path / "galactic", others(300), frame="galactic")
    with pytest.raises(ArgumentError, match=r"(?s)different frames.*icrs and galactic"):
        sciplat.crossmatch_many([catalogs[0], galactic], radius="1 arcsec")
    with pytest.raises(ArgumentError, match="two columns 'band_2'"):
        sciplat.crossmatch_many([catalogs[1].with_columns(band_2="band"), catalogs[2]], radius="1 arcsec")


def test_a_whole_sky_of_cells_is_covered_once(catalogs):
    cells = sciplat.crossmatch_many(catalogs, **LINKS).cells
    assert all(isinstance(cell, Cell) for cell in cells)
    assert all(a.stop <= b.start for a, b in pairwise(cells))
