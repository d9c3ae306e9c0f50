"""Cross-matches that make no sense: one clear error each, where the call is made or before a wrong row is written."""

import re

import astropy.units as u
import numpy as np
import pyarrow as pa
import pytest

import sciplat
from sciplat.errors import AngleError, ArgumentError, SciplatError
from sciplat.ingest.properties import FRAMES
from tests.match_scene import fixed_scene, left_table, publish, publish_scene, right_table

ERRORS = {"ra": {"column": "e_ra", "unit": "mas"}, "dec": {"column": "e_dec", "unit": "mas"}}
MOTION = {"pmra": {"column": "pmra", "unit": "mas/yr"}, "pmdec": {"column": "pmdec", "unit": "mas/yr"}}


@pytest.fixture(scope="module")
def scene():
    return fixed_scene()


@pytest.fixture(scope="module")
def sides(tmp_path_factory, scene):
    return publish_scene(tmp_path_factory.mktemp("stores"), scene)


def with_columns(table, **columns):
    """Return a table with further columns of numbers; one number stands for all rows."""
    for name, values in columns.items():
        each = values if isinstance(values, list) else [values] * table.num_rows
        table = table.append_column(name, pa.array(each, pa.float64(), from_pandas=False))
    return table


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ArgumentError, "radius"),
        ({"radius": "0 arcsec"}, ArgumentError, "(?s)radius.*10 deg"),
        ({"radius": "-1 arcsec"}, ArgumentError, "(?s)radius.*10 deg"),
        ({"radius": "10.001 deg"}, ArgumentError, "(?s)radius.*10 deg"),
        ({"radius": 11 * u.deg}, ArgumentError, "(?s)radius.*10 deg"),
        ({"radius": 1.0}, AngleError, '(?s)radius: 1.0 has no unit.*"1.0 arcsec"'),
        ({"radius": "1"}, AngleError, "radius: '1' has no unit"),
        ({"radius": "1 pc"}, AngleError, "radius: '1 pc' is not an angle"),
        ({"radius": "nan deg"}, AngleError, "radius"),
        ({"radius": "1 arcsec", "find": "best"}, ArgumentError, r'(?s)find=.best. is unknown.*"mutual"'),
        ({"radius": "1 arcsec", "find": None}, ArgumentError, "find=None is unknown"),
        ({"radius": "1 arcsec", "find": ["all"]}, ArgumentError, r"find=\['all'\] is unknown"),
        ({"radius": "1 arcsec", "how": "cross"}, ArgumentError, r'(?s)how=.cross. is unknown.*"xor"'),
        ({"radius": "1 arcsec", "how": {}}, ArgumentError, "how={} is unknown"),
        ({"radius": "1 arcsec", "find": np.array(["all", "mutual"])}, ArgumentError, "find=array.* is unknown"),
        ({"radius": "1 arcsec", "find": np.array(["all"])}, ArgumentError, "find=array.* is unknown"),
        ({"radius": "1 arcsec", "how": np.array(["inner", "left"])}, ArgumentError, "how=array.* is unknown"),
        ({"radius": "1 arcsec", "neighbours": 0}, ArgumentError, "neighbours"),
        ({"radius": "1 arcsec", "neighbours": -1}, ArgumentError, "neighbours"),
        ({"radius": "1 arcsec", "neighbours": 1.5}, ArgumentError, "neighbours"),
        ({"radius": "1 arcsec", "neighbours": True}, ArgumentError, "neighbours"),
        ({"radius": "1 arcsec", "neighbours": "2"}, ArgumentError, "neighbours"),
        ({"radius": "1 arcsec", "neighbours": 2, "find": "all"}, ArgumentError, "neighbours"),
        ({"radius": "1 arcsec", "neighbours": 2, "find": "mutual"}, ArgumentError, "neighbours"),
        ({"radius": "1 arcsec", "suffix": None}, ArgumentError, "suffix"),
        ({"radius": "1 arcsec", "suffix": ""}, ArgumentError, "two columns '(ra|dec|mag)'"),
        ({"radius": "1 arcsec", "epoch": "yesterday"}, ArgumentError, "yesterday"),
        ({"radius": "1 arcsec", "epoch": 2016.0}, ArgumentError, "2016.0"),
        ({"n_sigma": 5}, ArgumentError, "errors"),
        ({"radius": "1 arcsec", "n_sigma": 5}, ArgumentError, "errors"),
        ({"radius": "1 arcsec", "probability": True}, ArgumentError, "errors"),
        ({"n_sigma": 0}, ArgumentError, "n_sigma"),
        ({"n_sigma": -3}, ArgumentError, "n_sigma"),
        ({"n_sigma": float("nan")}, ArgumentError, "n_sigma"),
        ({"n_sigma": "5"}, ArgumentError, "n_sigma"),
        ({"n_sigma": True}, ArgumentError, "n_sigma"),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_refused(sides, arguments, error, message):
    with pytest.raises(error, match=message) as caught:
        sides[0].crossmatch(sides[1], **arguments)
    assert isinstance(caught.value, SciplatError)


@pytest.mark.parametrize("radius", ["1 mas", "10 deg", 1 * u.arcsec, "1e-3 arcsec"])
def test_radii_that_make_sense_are_taken(sides, radius):
    assert sides[0].crossmatch(sides[1], radius=radius).columns[-1] == "separation"


@pytest.mark.parametrize("other", [None, "stars.parquet", pa.table({"ra": [1.0], "dec": [2.0]}), sciplat.open_catalog])
def test_only_catalogs_are_matched(sides, other):
    with pytest.raises(ArgumentError, match=r"(?s)takes a catalog.*ingest_catalog"):
        sides[0].crossmatch(other, radius="1 arcsec")


@pytest.mark.parametrize("frame", ["fk4", "ecliptic"])
def test_frames_that_cannot_be_brought_together_are_refused(sides, scene, tmp_path, frame):
    other = publish(tmp_path / "other", right_table(scene.right), frame=frame)
    for pair in ((sides[0], other), (other, sides[0])):
        with pytest.raises(ArgumentError, match=f"(?i){frame}"):
            pair[0].crossmatch(pair[1], radius="1 arcsec")


@pytest.mark.parametrize("frame", FRAMES)
def test_all_frames_that_are_ingested_are_brought_together(sides, scene, tmp_path, frame):
    other = publish(tmp_path / "other", right_table(scene.right), frame=frame)
    for pair in ((sides[0], other), (other, sides[0]), (other, other)):
        plan = pair[0].crossmatch(pair[1], radius="1 arcsec")
        assert plan.properties["frame"] == pair[0].properties["frame"]


def test_columns_that_would_stand_twice_are_refused(sides, scene, tmp_path):
    table = left_table(scene.left)
    taken = publish(tmp_path / "taken", table.append_column("mag_other", table["mag"]))
    with pytest.raises(ArgumentError, match=r"(?s)two columns 'mag_other'.*suffix"):
        taken.crossmatch(sides[1], radius="1 arcsec")
    assert "mag_b" in taken.crossmatch(sides[1], radius="1 arcsec", suffix="_b").columns
    # columns that are not in the result are in nobody's way
    assert taken.crossmatch(sides[1], radius="1 arcsec", how="anti").columns == taken.columns


def moving(folder, table, **properties):
    return publish(folder, with_columns(table, pmra=10.0, pmdec=-5.0), motion=MOTION, **properties)


def test_motion_without_an_epoch_is_refused(sides, scene, tmp_path):
    """Of the side that moves, or of the one that it is moved to."""
    moves = left_table(scene.left)
    timeless = moving(tmp_path / "timeless", moves)
    dated = moving(tmp_path / "dated", moves, epoch="J1991.25")
    still, its = sides[1], publish(tmp_path / "its", right_table(scene.right), epoch="J2016.0")
    for pair in ((timeless, its), (its, timeless), (timeless, dated), (dated, still), (still, dated)):
        with pytest.raises(ArgumentError, match=r"(?s)epoch.*motion=False"):
            pair[0].crossmatch(pair[1], radius="1 arcsec")
        assert "motion_missing" not in pair[0].crossmatch(pair[1], radius="1 arcsec", motion=False).columns
    with pytest.raises(ArgumentError, match="epoch"):
        timeless.crossmatch(its, radius="1 arcsec", epoch="J2016.0")  # from when to that epoch?
    assert "motion_missing" in dated.crossmatch(still, radius="1 arcsec", epoch="J2000.0").columns
    assert "motion_missing" in dated.crossmatch(its, radius="1 arcsec").columns


def uncertain(folder, table, e_ra=50.0, e_dec=60.0):
    return publish(folder, with_columns(table, e_ra=e_ra, e_dec=e_dec), errors=ERRORS)


@pytest.mark.parametrize("arguments", [{"n_sigma": 5}, {"radius": "1 arcsec", "probability": True}])
def test_errors_that_a_store_does_not_know_are_refused_where_they_are_asked_for(sides, scene, tmp_path, arguments):
    left = uncertain(tmp_path / "left", left_table(scene.left))
    for pair in ((left, sides[1]), (sides[1], left), (left.select("mag"), left)):
        with pytest.raises(ArgumentError, match="errors"):
            pair[0].crossmatch(pair[1], **arguments)


@pytest.mark.parametrize("bad", [-1.0, 0.0, np.nan, np.inf, None])
@pytest.mark.parametrize("arguments", [{"n_sigma": 5}, {"radius": "1 arcsec", "probability": True}])
def test_errors_that_are_negative_or_missing_are_refused_when_they_are_read(scene, tmp_path, bad, arguments):
    good = uncertain(tmp_path / "good", left_table(scene.left))
    table = right_table(scene.right)
    values = [50.0] * table.num_rows
    values[7] = bad
    wrong = uncertain(tmp_path / "wrong", table, e_dec=values)
    assert good.crossmatch(good, **arguments).compute().num_rows > 0
    for pair in ((good, wrong), (wrong, good)):
        plan = pair[0].crossmatch(pair[1], **arguments)
        with pytest.raises(ArgumentError, match=r"(?s)error.*e_dec|e_dec.*error"):
            plan.compute()


def renamed(table, ra, dec):
    return table.rename_columns([{"ra": ra, "dec": dec}.get(name, name) for name in table.column_names])


@pytest.mark.parametrize("names", [("RA", "dec"), ("ra", "decl"), ("RA", "DE")])
def test_left_positions_with_other_names_are_matched(sides, scene, tmp_path, names):
    """Of which one may be the name of a position of the result."""
    left = publish(tmp_path / "left", renamed(left_table(scene.left), *names), position=list(names))
    plain = sides[0].crossmatch(sides[1], radius="1 arcsec").compute()
    rows = left.crossmatch(sides[1], radius="1 arcsec").compute()
    assert rows.select(plain.column_names).equals(plain)
    others = [name for name in names if name not in ("ra", "dec")]
    assert set(rows.column_names) == {*plain.column_names, *others}
    for name in others:
        assert rows[name].equals(rows["ra" if name == "RA" else "dec"])


def test_left_positions_with_each_others_names_are_refused(sides, scene, tmp_path):
    left = publish(tmp_path / "left", renamed(left_table(scene.left), "dec", "ra"), position=["dec", "ra"])
    with pytest.raises(ArgumentError, match=r"(?s)has a '(ra|dec)' of its own.*declination are dec and ra.*ingest it"):
        left.crossmatch(sides[1], radius="1 arcsec")
    assert left.crossmatch(sides[1], radius="1 arcsec", how="anti").columns == left.columns


@pytest.mark.parametrize("column", ["pmra", "pmdec"])
def test_a_filter_limits_how_far_rows_may_move(sides, scene, tmp_path, column):
    table = with_columns(right_table(scene.right), pmra=10.0, pmdec=-5.0)
    values = table[column].to_pylist()
    values[7] = 1e20
    wrong = table.set_column(table.column_names.index(column), column, pa.array(values, pa.float64()))
    stores = [
        publish(tmp_path / name, rows, motion=MOTION, epoch="J2000.0")
        for name, rows in (("wrong", wrong), ("good", table.filter(pa.array(np.arange(table.num_rows) != 7))))
    ]
    for swapped in (False, True):
        plans = [(store, sides[0]) if swapped else (sides[0], store) for store in stores]
        with pytest.raises(ArgumentError, match=r"(?s)farther than .* deg from it.*by motions"):
            plans[0][0].crossmatch(plans[0][1], radius="1 arcsec", epoch="J2016.0").compute()
        few = stores[0].where("pmra between -10000 and 10000 and pmdec between -10000 and 10000")
        pair = (few, sides[0]) if swapped else (sides[0], few)
        rows = pair[0].crossmatch(pair[1], radius="1 arcsec", epoch="J2016.0").compute()
        assert rows.num_rows > 50
        assert rows.equals(plans[1][0].crossmatch(plans[1][1], radius="1 arcsec", epoch="J2016.0").compute())


@pytest.mark.parametrize(("bad", "column"), [(1e30, "e_ra"), (np.inf, "e_ra"), (np.inf, "e_dec")])
def test_filters_leave_out_errors_that_are_refused(scene, tmp_path, bad, column):
    """With bounds of one's own for errors that are much too large, and as the message says for others."""
    good = uncertain(tmp_path / "good", left_table(scene.left))
    table, values = right_table(scene.right), [50.0] * len(scene.right.index)
    values[7] = bad
    wrong = uncertain(tmp_path / "wrong", table, **{column: values})
    with pytest.raises(ArgumentError) as caught:
        good.crossmatch(wrong, n_sigma=5).compute()
    hint = re.search(r"\.where\('(.*)'\)", str(caught.value))
    condition = hint.group(1) if hint else f"{column} < 10000"
    assert (hint is None) == (bad == 1e30)
    rows = good.crossmatch(wrong.where(condition), n_sigma=5).compute()
    few = uncertain(tmp_path / "few", table.filter(pa.array(np.arange(table.num_rows) != 7)), **{column: 50.0})
    assert rows.num_rows > 10
    assert rows.equals(good.crossmatch(few, n_sigma=5).compute())


def test_what_was_measured_twice_gets_the_suffix_twice(sides):
    left, right = sides
    both = left.crossmatch(right, radius="1 arcsec"), right.crossmatch(left, radius="1 arcsec")
    plan = both[0].crossmatch(both[1], radius="1 arcsec", suffix="_z")
    assert [name for name in plan.columns if "separation" in name] == ["separation", "separation_z", "separation_z_z"]
    rows = plan.compute()
    assert rows.num_rows == both[0].compute().num_rows
    assert max(rows["separation_z_z"].to_pylist()) <= 1.0
    assert rows["separation"].equals(both[0].compute()["separation"])
    with pytest.raises(ArgumentError, match="two columns"):
        both[0].crossmatch(both[1], radius="1 arcsec", suffix="")
