"""Cross-matches of stores: every find and how is brute force, whatever the cells of either side."""

import numpy as np
import pyarrow as pa
import pytest
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.match_scene import (
    LEFT,
    NAMES,
    check_numbers,
    fixed_scene,
    left_table,
    matched_rows,
    pair_separations,
    publish,
    publish_scene,
    right_table,
)
from tests.sky_scene import WHOLE_SKY
from tests.strategies import grids, partitions_of, scenes, side_of

FINDS = [("nearest", 1), ("nearest", 3), ("mutual", 1), ("all", 1)]
HOWS = ["inner", "left", "right", "outer", "anti", "xor"]
WITH_PAIRS = HOWS[:4]


def crossmatched(left, right, scene, **arguments):
    return left.crossmatch(right, radius=f"{scene.radius!r} deg", **arguments)


def check(plan, scene, pairs, how):
    """Compare all columns of a plan's rows with those of some pairs."""
    rows = plan.compute()
    assert rows.schema.equals(plan.schema, check_metadata=True)
    expected = matched_rows(left_table(scene.left), right_table(scene.right), pairs, how)
    separation = ["separation"] if how in WITH_PAIRS else []
    assert rows.column_names == expected.column_names + separation
    for name in expected.column_names:
        assert rows[name].equals(expected[name]), name
    if separation:
        check_numbers(rows["separation"], pair_separations(scene, pairs), rel=4e-15, abs=1e-10)
    check_cells(plan, rows)
    return rows


def check_cells(plan, rows):
    """Check that the rows lie in the plan's cells, which are disjoint and in the order of the sky."""
    bounds = np.array([(cell.start, cell.stop) for cell in plan.cells], np.int64).reshape(-1, 2)
    index = rows["_healpix_29"].to_numpy()
    assert (bounds[1:, 0] >= bounds[:-1, 1]).all()
    assert (np.diff(index) >= 0).all()
    if len(index):
        assert (index < bounds[np.searchsorted(bounds[:, 0], index, side="right") - 1, 1]).all()


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(("find", "neighbours"), FINDS)
@settings(max_examples=3)
@given(st.data())
def test_every_find_and_how_is_brute_force_for_any_cells(tmp_path_factory, find, neighbours, how, data):
    """The same bits in every column as with the twelve largest cells on both sides, too."""
    scene = data.draw(scenes() | grids())
    folder = tmp_path_factory.mktemp("partition")
    cells = [data.draw(partitions_of(side.index)) for side in (scene.left, scene.right)]
    sides, whole = publish_scene(folder / "cut", scene, *cells), publish_scene(folder / "whole", scene)
    arguments = {"find": find, "neighbours": neighbours, "how": how}
    rows = check(crossmatched(*sides, scene, **arguments), scene, scene.expected(find, how, neighbours), how)
    assert rows.equals(crossmatched(*whole, scene, **arguments).compute())


@pytest.fixture(scope="module")
def scene():
    return fixed_scene()


@pytest.fixture(scope="module")
def sides(tmp_path_factory, scene):
    quarter = [cell for base in WHOLE_SKY for cell in base.children]
    return publish_scene(tmp_path_factory.mktemp("stores"), scene, its=quarter)


def test_the_fixed_scene_has_all_kinds_of_rows(scene):
    counts = {how: len(scene.expected("all", how)) for how in HOWS}
    assert counts["anti"] > 40
    assert counts["xor"] > counts["anti"] + 80
    assert counts["inner"] > 250
    assert len(scene.expected("mutual")) < len(scene.expected("nearest")) < len(scene.expected("all"))


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("find", ["mutual", "all"])
def test_parts_of_cells_give_the_rows_of_the_cells(sides, scene, find, how):
    """As cells are cut that need too much memory."""
    plan = crossmatched(*sides, scene, find=find, how=how)
    parts = [part for cell in plan.cells for part in cell.children]
    rows = pa.concat_tables([plan.node.task(part).run() for part in parts])
    assert rows.equals(check(plan, scene, scene.expected(find, how), how))


def test_cells_that_need_too_much_memory_are_cut(sides, scene, tmp_path, monkeypatch):
    plan = crossmatched(*sides, scene, find="all", how="outer")
    expected = plan.compute()
    largest = max(plan.node.cost(cell).memory for cell in plan.cells)
    monkeypatch.setattr("sciplat.tasks.workers._local_share", lambda: 0.6 * largest)
    assert plan.explain().tasks > len(plan.cells)
    store = plan.write(tmp_path / "cut")
    assert store.report["cells"] > len(plan.cells)
    assert store.compute().equals(expected)


@pytest.mark.parametrize("how", HOWS)
def test_columns_keep_their_names_unless_these_are_taken(sides, scene, how):
    left, right = sides
    schema = crossmatched(left, right, scene, how=how).schema
    if how == "anti":
        assert schema.equals(LEFT, check_metadata=True)
        return
    assert schema.names == NAMES + (["separation"] if how != "xor" else [])
    assert schema.field("mag_other").metadata == {b"unit": b"mag"}
    assert schema.field("mag_other").type == pa.float32()
    assert schema.field("mag_other").nullable == (how in ("left", "outer", "xor"))
    assert schema.field("mag").nullable == (how in ("right", "outer", "xor"))
    if how != "xor":
        assert schema.field("separation").metadata[b"unit"] == b"arcsec"
    twice = crossmatched(left, right, scene, how=how, suffix="_b").schema.names
    assert twice == [name.replace("_other", "_b") for name in schema.names]


@pytest.mark.parametrize("how", HOWS)
def test_positions_of_other_names_stay_beside_the_own_ones(sides, scene, tmp_path, how):
    table = left_table(scene.left).rename_columns(["_healpix_29", "source_id", "RAJ2000", "DEJ2000", "mag"])
    left = publish(tmp_path / "left", table, position=["RAJ2000", "DEJ2000"], id="source_id")
    plan, same = (crossmatched(side, sides[1], scene, how=how) for side in (left, sides[0]))
    rows, expected = plan.compute(), same.compute()
    if how == "anti":
        assert rows.equals(expected.rename_columns(table.column_names))
        return
    names = ["_healpix_29", "ra", "dec", "source_id", "RAJ2000", "DEJ2000", "mag", "star"]
    assert rows.column_names[:8] == names
    assert plan.properties["position"] == same.properties["position"] == ["ra", "dec"]
    # the right catalog's ra and dec are taken by the own ones all the same
    assert rows.drop_columns(["RAJ2000", "DEJ2000"]).equals(expected)
    alone = rows["source_id"].is_null()
    for own, name in (("ra", "RAJ2000"), ("dec", "DEJ2000")):
        assert rows[name].is_null().equals(alone)
        assert rows[name].filter(rows[name].is_valid()).equals(rows[own].filter(rows[name].is_valid()))


def test_a_catalog_with_itself(sides, scene):
    left, _ = sides
    rows = crossmatched(left, left, scene).compute()
    assert rows["source_id"].to_pylist() == list(range(len(left)))
    assert set(rows["separation"].to_pylist()) == {0.0}
    first = np.unique(np.stack(scene.left.position, axis=1), axis=0, return_inverse=True)[1]
    others = rows["source_id_other"].to_numpy()
    assert (first[others] == first).all()  # at the same place,
    assert len(set(others.tolist())) == len(left) - 10  # the first of them
    assert crossmatched(left, left, scene, how="anti").compute().num_rows == 0


@pytest.mark.parametrize("how", HOWS)
def test_catalogs_that_do_not_meet(tmp_path, scene, how):
    """Cells of the right side that no left cell covers are result cells where its rows are asked for."""
    north, south = (WHOLE_SKY[:4], WHOLE_SKY[8:])
    tables = [left_table(scene.left), right_table(scene.right)]
    parts = []
    for table, cells in zip(tables, (north, south), strict=True):
        index = table["_healpix_29"].to_numpy()
        kept = (index >= cells[0].start) & (index < cells[-1].stop)
        parts.append(table.filter(pa.array(kept)))
    left, right = publish(tmp_path / "left", parts[0], north), publish(tmp_path / "right", parts[1], south)
    plan = crossmatched(left, right, scene, how=how)
    pairs = {
        "inner": [],
        "left": [(row, None) for row in range(parts[0].num_rows)],
        "right": [(None, its) for its in range(parts[1].num_rows)],
    }
    pairs |= {"anti": pairs["left"], "outer": pairs["left"] + pairs["right"], "xor": pairs["left"] + pairs["right"]}
    expected = matched_rows(*parts, pairs[how], how)
    rows = plan.compute()
    assert rows.select(expected.column_names).equals(expected.cast(rows.select(expected.column_names).schema))
    if how in ("outer", "xor"):
        assert plan.cells == north + south


def test_rows_of_another_frame_are_brought_to_the_left_one(tmp_path, scene):
    left = publish(tmp_path / "left", left_table(scene.left), id="source_id")
    icrs = SkyCoord(scene.right.ra, scene.right.dec, unit="deg")
    turned = side_of(np.stack([icrs.galactic.l.deg, icrs.galactic.b.deg], axis=1))
    right = publish(tmp_path / "right", right_table(turned), frame="galactic")
    back = SkyCoord(turned.ra, turned.dec, unit="deg", frame="galactic").icrs
    rows = crossmatched(left, right, scene, how="outer", find="all").compute()
    assert crossmatched(left, right, scene, how="outer", find="all").properties["frame"] == "icrs"
    pairs = rows["separation"].is_valid().to_numpy()
    assert pairs.sum() == len(scene.expected("all"))
    assert rows.num_rows == len(scene.expected("all", "outer"))
    alone = rows["source_id"].is_null().to_numpy(zero_copy_only=False)
    own = SkyCoord(rows["ra"].to_numpy(), rows["dec"].to_numpy(), unit="deg")
    numbers = dict(zip(right_table(turned)["ra"].to_pylist(), range(len(turned.ra)), strict=True))
    its = [numbers[value] for value in rows["ra_other"].filter(pa.array(alone)).to_pylist()]
    assert (own[alone].separation(back[its]).arcsec < 1e-6).all()
    assert sorted(rows["separation"].drop_null().to_pylist()) == pytest.approx(
        sorted(each for each in pair_separations(scene, scene.expected("all"))), abs=1e-7
    )
