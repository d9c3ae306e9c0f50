"""Cross-matches as parts of plans: before and after other operations, written, quoted, rebuilt, refused in time."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pytest

import sciplat
from sciplat.errors import StoreExists, TaskTooLarge
from sciplat.io.verify import verify_files
from sciplat.lazy.catalog import Catalog
from sciplat.lazy.rebuild import rebuild, rerun
from sciplat.lazy.replay import write_replay
from sciplat.sky.cell import Cell, positions_29
from tests import reference
from tests.match_scene import (
    LEFT,
    fixed_scene,
    left_table,
    matched_rows,
    publish,
    publish_scene,
    right_table,
)
from tests.sky_scene import WHOLE_SKY
from tests.strategies import PLACES, Scene, side_of

RADIUS = "1 arcsec"
CONE = sciplat.Cone("0 deg", "90 deg", "3 deg")


@pytest.fixture(scope="module")
def scene():
    return fixed_scene()


@pytest.fixture(scope="module")
def sides(tmp_path_factory, scene):
    return publish_scene(tmp_path_factory.mktemp("stores"), scene)


def brute_force(left, right, find="nearest", how="inner", suffix="_other", radius=1 / 3600):
    """Return the cross-match of two tables with positions called ra and dec."""
    positions = [(table["ra"].to_numpy(), table["dec"].to_numpy()) for table in (left, right)]
    separation = reference.separations(*positions)
    index = [table["_healpix_29"].to_numpy() for table in (left, right)]
    pairs = reference.crossmatch(separation, separation <= radius, *index, find, how)
    return matched_rows(left, right, pairs, how, suffix)


def same_rows(rows, expected):
    """Compare all columns but the separation, which brute force has to fewer bits."""
    rows = rows.drop_columns([name for name in rows.column_names if name.startswith("separation")])
    assert rows.column_names == expected.column_names
    return all(rows[name].equals(expected[name]) for name in rows.column_names)


def near_pole(table):
    return table.filter(pa.array(CONE.contains(table["ra"].to_numpy(), table["dec"].to_numpy())))


@pytest.mark.parametrize("how", ["inner", "left", "outer"])
def test_filters_before_a_match_choose_who_may_be_a_match(sides, scene, how):
    left, right = sides
    few = right.where("mag < 19").within(CONE)
    rows = left.where("mag > 18.2").crossmatch(few, radius=RADIUS, how=how).compute()
    mine, its = left_table(scene.left), near_pole(right_table(scene.right))
    mine, its = mine.filter(pa.array(mine["mag"].to_numpy() > 18.2)), its.filter(pa.array(its["mag"].to_numpy() < 19))
    assert 5 < its.num_rows < len(right) / 4
    assert same_rows(rows, brute_force(mine, its, how=how))


@pytest.mark.parametrize("how", ["inner", "left", "right", "outer", "anti", "xor"])
def test_filters_after_a_match_choose_among_its_rows(sides, scene, how):
    """None of them goes past the match, where it would change who is whose nearest."""
    plan = sides[0].crossmatch(sides[1], radius=RADIUS, how=how)
    rows = plan.compute()
    assert plan.within(CONE).compute().equals(near_pole(rows))
    bright = pa.array([each is not None and each < 19 for each in rows["mag"].to_pylist()])
    assert plan.where("mag < 19").compute().equals(rows.filter(bright))
    if how == "anti":
        return
    its = pa.array([each is not None and each > 18 for each in rows["mag_other"].to_pylist()])
    assert plan.where("mag_other > 18").compute().equals(rows.filter(its))
    alone = pa.array([each is None for each in rows["bands"].to_pylist()])
    assert plan.where("bands is null").compute().equals(rows.filter(alone))


@pytest.mark.parametrize("how", ["inner", "left", "outer", "anti", "xor"])
def test_columns_that_nobody_asked_for_are_not_read(sides, how):
    plan = sides[0].crossmatch(sides[1], radius=RADIUS, how=how)
    rows = plan.compute()
    chosen = ["mag"] if how == "anti" else ["mag_other", "star"]
    few = plan.select(*chosen)
    assert few.columns[-len(chosen) :] == chosen
    assert few.compute().equals(rows.select(few.columns))
    assert few.explain().requests < plan.explain().requests  # bytes of a small store are read as a whole
    narrow = sides[0].select("source_id").crossmatch(sides[1].select("star"), radius=RADIUS, how=how)
    assert narrow.compute().equals(rows.select(narrow.columns))


def test_catalogs_that_are_put_together_first(sides, scene):
    left, right = sides
    both = left_table(scene.left).slice(0, 100), left_table(scene.left)
    rows = left.where("source_id < 100").concat(left).crossmatch(right, radius=RADIUS, find="all").compute()
    assert same_rows(rows, brute_force(pa.concat_tables(both).sort_by("_healpix_29"), right_table(scene.right), "all"))


def test_three_catalogs_one_after_the_other(sides, scene):
    left, right = sides
    one = left.crossmatch(right, radius=RADIUS, how="left")
    plan = one.crossmatch(left, radius="2 deg", find="mutual", how="outer", suffix="_third")
    first = brute_force(left_table(scene.left), right_table(scene.right), how="left")
    expected = brute_force(first, left_table(scene.left), "mutual", "outer", "_third", radius=2.0)
    rows = plan.compute()
    assert "separation" in rows.column_names
    assert "separation_third" in rows.column_names
    assert same_rows(rows, expected)
    back = right.crossmatch(one.select("star"), radius=RADIUS, how="anti")
    assert same_rows(back.compute(), brute_force(right_table(scene.right), first, how="anti"))


def test_functions_stand_on_either_side(sides, scene):
    left, right = sides

    def same(table):
        return table

    plan = left.map(same, schema=LEFT).crossmatch(right, radius=RADIUS, find="all", how="outer")
    assert plan.compute().equals(left.crossmatch(right, radius=RADIUS, find="all", how="outer").compute())
    assert plan.explain().functions
    after = left.crossmatch(right, radius=RADIUS)
    assert after.map(same, schema=after.schema).compute().equals(after.compute())
    assert not after.explain().functions


@pytest.mark.parametrize("how", ["inner", "right", "outer", "anti"])
def test_a_written_match_is_the_computed_one_and_can_be_repeated(sides, how, tmp_path):
    left, right = sides
    plan = left.crossmatch(right, radius=RADIUS, find="all", how=how)
    store = plan.write(tmp_path / "match")
    assert store.compute().equals(plan.compute())
    assert store.schema.equals(plan.schema, check_metadata=True)
    assert verify_files(store.store.storage, store.store.manifest) == []
    assert {left.store.digest, right.store.digest} <= set(json.dumps(store.provenance).split('"'))
    again = rebuild(json.loads(json.dumps(plan.node.describe())))
    assert again.node.describe() == plan.node.describe()
    assert again.schema.equals(plan.schema, check_metadata=True)
    assert again.write(tmp_path / "match").store.manifest.write_id == store.store.manifest.write_id
    other, same = rerun(str(tmp_path / "match"), str(tmp_path / "other"))
    assert same
    assert other.store.manifest.digest == store.store.manifest.digest
    with pytest.raises(StoreExists, match=r"find of crossmatch: \"all\", now \"mutual\""):
        left.crossmatch(right, radius=RADIUS, find="mutual", how=how).write(tmp_path / "match")


def test_every_argument_is_part_of_the_record(sides):
    records = set()
    choices = [
        {}, {"radius": "2 arcsec"}, {"find": "mutual"}, {"find": "all"}, {"neighbours": 2}, {"how": "left"},
        {"suffix": "_b"},
    ]  # fmt: skip
    for choice in choices:
        plan = sides[0].crossmatch(sides[1], **{"radius": RADIUS} | choice)
        records.add(json.dumps(plan.node.describe(), sort_keys=True))
        assert rebuild(json.loads(json.dumps(plan.node.describe()))).node.describe() == plan.node.describe()
    assert len(records) == len(choices)


def test_without_motions_nothing_moves_either_way(sides):
    plans = [sides[0].crossmatch(sides[1], radius=RADIUS, motion=motion) for motion in (True, False)]
    assert plans[0].node.describe() == plans[1].node.describe()


def test_tasks_travel(sides):
    plan = sides[0].crossmatch(sides[1], radius="1 deg", find="all", how="outer")
    there = [pickle.loads(pickle.dumps(plan.node.task(cell))) for cell in plan.cells]
    assert pa.concat_tables([task.run() for task in there]).equals(plan.compute())
    assert max(len(pickle.dumps(task)) for task in there) < 30_000


def test_both_sides_are_quoted(sides):
    left, right = sides
    quotes = [plan.explain() for plan in (left, right, left.crossmatch(right, radius=RADIUS, how="outer"))]
    assert quotes[2].cells == 12
    assert quotes[2].reads >= quotes[0].reads + quotes[1].reads
    assert quotes[2].stored == left.stored + right.stored
    assert max(len(left), len(right)) <= quotes[2].rows <= 2 * (len(left) + len(right))
    assert quotes[2].memory > quotes[0].memory
    assert "tasks" in str(quotes[2])


def test_cells_without_anything_to_match_are_not_read(sides):
    left, right = sides
    few = right.within(sciplat.Cone("200.1 deg", "-33 deg", "1 arcsec"))
    assert len(left.crossmatch(few, radius=RADIUS).cells) < 8  # a face and those beside it
    assert left.crossmatch(few, radius=RADIUS, how="left").cells == left.cells
    assert left.crossmatch(few, radius=RADIUS).explain().reads < left.crossmatch(right, radius=RADIUS).explain().reads


@pytest.mark.parametrize("find", ["nearest", "mutual", "all"])
@pytest.mark.parametrize("how", ["inner", "right", "xor"])
def test_the_report_says_what_became_of_the_left_rows(tmp_path, find, how):
    """Half of the left rows lie where the right catalog has nothing for 20 degrees around."""
    rng = np.random.default_rng(3)
    common, north, south = (np.stack([rng.uniform(0, 360, n), rng.uniform(*dec, n)], axis=1) for n, dec in (
        (50, (-60, -50)), (100, (30, 50)), (60, (-60, -50)),
    ))  # fmt: skip
    left, right = side_of(np.concatenate([common, north])), side_of(np.concatenate([common[:30], south]))
    sides = publish(tmp_path / "left", left_table(left)), publish(tmp_path / "right", right_table(right))
    plan = sides[0].crossmatch(sides[1], radius="1 mas", find=find, how=how)
    told = plan.write(tmp_path / "match").report["completeness"]
    assert told["rows"] == 150
    assert told["matched"] == 30
    assert told["matched"] + told["unmatched"] + told["out_of_coverage"] == 150
    assert 80 <= told["out_of_coverage"] <= 120  # no less than what has nothing within a large cell


FIRST_PIXEL, PATCHES = 4 << 16, 70  # of order 8, the first of face 4


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """Return a function that publishes two catalogs in cells of given orders.

    The right one has rows in every third pixel of order 8. The left one has a row in all of them, of which those in the
    right one's have a counterpart, and there another one that has none.
    """
    pixels = FIRST_PIXEL + np.arange(3 * PATCHES)
    ra, dec = positions_29(4 * pixels + 3 << 40)  # the lower corner of a pixel's upper quarter: its centre
    places, north = np.stack([ra, dec], axis=1), np.stack([ra, dec + 0.05], axis=1)
    left = side_of(np.concatenate([places, north[::3]]))
    right = side_of(np.repeat(places[::3], 10, axis=0))

    def published(mine, its):
        folder = tmp_path_factory.mktemp("patches")
        cells = [[Cell(order, int(cell)) for cell in np.unique(pixels >> 2 * (8 - order))] for order in (mine, its)]
        return publish_scene(folder, Scene(left, right, 1 / 3600), *cells)

    return published


@pytest.mark.parametrize(
    ("mine", "its", "how"), [(0, 0, "inner"), (0, 7, "left"), (7, 0, "xor"), (6, 6, "anti"), (8, 7, "inner")]
)
def test_the_counts_of_the_report_do_not_depend_on_cells(patches, tmp_path, mine, its, how):
    """The right rows stand in more ranges of the sky than tasks carry of other coverages."""
    left, right = patches(mine, its)
    told = left.crossmatch(right, radius=RADIUS, how=how).write(tmp_path / "match").report["completeness"]
    expected = {"matched": PATCHES, "unmatched": PATCHES, "out_of_coverage": 2 * PATCHES}
    assert told == {"rows": 4 * PATCHES, **expected}


@pytest.mark.parametrize("choices", [{"how": "left"}, {"find": "mutual"}])
def test_counts_of_all_rows_are_not_told_of_some(sides, tmp_path, choices):
    plan = sides[0].crossmatch(sides[1], radius=RADIUS, **choices)
    some = plan.where("mag < 19").select("mag"), plan.within(CONE), plan.sample(0.5, seed=1)
    for number, each in enumerate(some):
        assert "completeness" not in each.write(tmp_path / str(number)).report
    every = plan.with_columns(twice="2 * mag").select("twice").write(tmp_path / "every")
    assert every.report["completeness"]["rows"] == len(sides[0])


ERRORS = {"ra": {"column": "e_ra", "unit": "arcsec"}, "dec": {"column": "e_dec", "unit": "arcsec"}}


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Return two catalogs with position errors that are sparse but for one dense spot."""
    folder = tmp_path_factory.mktemp("uneven")
    cells = [Cell(2, index) for index in range(192)]
    for name, seed in (("left", 1), ("right", 2)):
        rng = np.random.default_rng(seed)
        wide, spot = rng.uniform((0, -20), (90, 20), (600, 2)), rng.normal((10, 5), 0.2, (1200, 2))
        table = left_table(side_of(np.concatenate([wide, spot])))
        for column in ("e_ra", "e_dec"):
            table = table.append_column(column, pa.array(np.full(table.num_rows, 20.0)))
        publish(folder / name, table, cells, errors=ERRORS, id="source_id")
    return [sciplat.open_catalog(folder / name) for name in ("left", "right")]


def test_a_prior_is_estimated_in_the_same_cells_when_a_match_is_repeated(uneven, tmp_path, monkeypatch):
    """A bundle has copies of a part of the rows, which alone would ask for other cells."""
    asked = {"n_sigma": 5, "probability": True, "find": "all"}
    plan = uneven[0].crossmatch(uneven[1], **asked)
    order = plan.node.matching.density_order
    assert plan.node.describe()["density_order"] == order
    assert rebuild(json.loads(json.dumps(plan.node.describe()))).node.matching.density_order == order
    store = plan.write(tmp_path / "match")
    other, same = rerun(str(tmp_path / "match"), str(tmp_path / "other"))
    assert same
    assert other.store.manifest.digest == store.store.manifest.digest
    cell = max(plan.cells, key=lambda cell: plan.node.task(cell).run().num_rows)
    folder = write_replay(str(tmp_path / "match"), f"{cell.order}/{cell.index}", str(tmp_path / "bundle"))
    monkeypatch.chdir(folder)
    again = rebuild(json.loads((folder / "plan.json").read_text())).node
    assert again.matching.density_order == order
    assert again.task(cell).run().equals(plan.node.task(cell).run())
    anew = Catalog(again.inner, None).crossmatch(Catalog(again.other, None), **asked)
    assert anew.node.matching.density_order > order


def test_a_match_at_the_epoch_of_both_catalogs_is_repeated(scene, tmp_path):
    """Nothing moves, so the columns of the motions need not be read."""
    motion = {name: {"column": name, "unit": "mas/yr"} for name in ("pmra", "pmdec")}
    catalogs = []
    for table in (left_table(scene.left), right_table(scene.right)):
        still = table
        for column in motion:
            still = still.append_column(column, pa.array(np.full(table.num_rows, 100.0)))
        catalogs.append(publish(tmp_path / table.column_names[1], still, motion=motion, epoch="J2016.0"))
    plan = catalogs[0].crossmatch(catalogs[1], radius=RADIUS, epoch="J2016.0").select("mag_other")
    store = plan.write(tmp_path / "match")
    assert rebuild(json.loads(json.dumps(plan.node.describe()))).node.describe() == plan.node.describe()
    other, same = rerun(str(tmp_path / "match"), str(tmp_path / "other"))
    assert same
    assert other.store.manifest.digest == store.store.manifest.digest


PILE = 200_000


@pytest.fixture(scope="module")
def pile(tmp_path_factory):
    """A catalog of very many rows at one position."""
    ra, dec = PLACES[4]
    side = side_of(np.tile([ra, dec], (PILE, 1)))
    table = left_table(side)
    return publish(tmp_path_factory.mktemp("pile") / "pile", table, id="source_id")


def test_a_pile_has_one_nearest_row(pile):
    rows = pile.crossmatch(pile, radius=RADIUS).compute()
    assert rows.num_rows == PILE
    assert set(rows["source_id_other"].to_pylist()) == {0}
    assert pile.crossmatch(pile, radius=RADIUS, find="mutual").compute()["source_id"].to_pylist() == [0]
    assert pile.crossmatch(pile, radius=RADIUS, how="anti").compute().num_rows == 0


def test_all_pairs_of_a_pile_are_refused_before_anything_runs(pile, tmp_path):
    plan = pile.crossmatch(pile, radius=RADIUS, find="all")
    for run in (plan.compute, plan.explain, lambda: plan.write(tmp_path / "pairs")):
        with pytest.raises(TaskTooLarge, match=r"(?s)crossmatch of cell .* needs about .* on one worker"):
            run()
    assert not (tmp_path / "pairs").exists()


def test_a_pile_among_others_is_refused_too(pile, sides):
    """Its rows stand in a small part of a cell, whose mean density says nothing of them."""
    both = pile.concat(sides[0])
    with pytest.raises(TaskTooLarge):
        both.crossmatch(both, radius=RADIUS, find="all").compute()


def test_cells_of_both_sides_make_up_the_result_cells(tmp_path, scene):
    left, right = left_table(scene.left), right_table(scene.right)
    quarter = [cell for base in WHOLE_SKY for cell in base.children]
    mine = publish(tmp_path / "left", left, [Cell(0, 2), *(cell for cell in quarter if cell.index >> 2 == 4)])
    index = mine.compute()["_healpix_29"].to_numpy()
    its = publish(tmp_path / "right", right)
    plan = mine.crossmatch(its, radius=RADIUS, how="outer")
    ranges = np.array([(cell.start, cell.stop) for cell in plan.cells])
    assert (ranges[1:, 0] >= ranges[:-1, 1]).all()
    assert set(mine.cells) <= set(plan.cells)
    rows = plan.compute()
    kept = np.isin(left["_healpix_29"].to_numpy(), index)
    assert same_rows(rows, brute_force(left.filter(pa.array(kept)), right, how="outer"))
