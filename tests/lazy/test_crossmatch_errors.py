"""Cross-matches that know errors and motions: brute force and one answer for any cells of either side."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sciplat
from sciplat.sky.cell import healpix_29, split_cells
from sciplat.sky.frame import turned
from tests import reference
from tests.match_scene import check_numbers, left_table, matched_rows, publish, right_table
from tests.sky_scene import WHOLE_SKY
from tests.strategies import PLACES, Side, moved, partitions_of, side_of

MAS = 1 / 3.6e6  # degrees
FINDS, HOWS = ["nearest", "mutual", "all"], ["inner", "left", "right", "outer", "anti", "xor"]
ERRORS = {"ra": {"column": "e_ra", "unit": "mas"}, "dec": {"column": "e_dec", "unit": "arcsec"}}
CORRELATED = ERRORS | {"corr": {"column": "corr", "unit": ""}}
MOTION = {"pmra": {"column": "pmra", "unit": "mas/yr"}, "pmdec": {"column": "pmdec", "unit": "arcsec/yr"}}
YEARS = 24.75


@dataclass(frozen=True)
class Known:
    """A side with two more numbers for each row: errors, or motions; milliarcseconds."""

    side: Side
    east: np.ndarray
    north: np.ndarray
    corr: np.ndarray

    @property
    def errors(self):
        return np.stack([self.east * MAS, self.north * MAS, self.corr])


def clumps(rng, width, counts=(25, 40)):
    """Return two sides in a few clumps, half of the right rows counterparts of left ones, and some at one place."""
    places = np.array(PLACES)[rng.integers(0, len(PLACES), 2)]
    left = moved(rng, places[rng.integers(0, 2, counts[0])], width)
    right = moved(rng, places[rng.integers(0, 2, counts[1])], width)
    right[: counts[0]] = moved(rng, left, width / 10)
    left[:3] = right[:3] = left[0]
    return side_of(left), side_of(right)


def with_numbers(rng, side, typical):
    east, north = typical * 10 ** rng.uniform(-1, 0.3, (2, len(side.ra)))
    return Known(side, east, north, rng.uniform(-0.9, 0.9, len(side.ra)))


def publish_errors(folder, known, table, cells=WHOLE_SKY):
    numbers = {"e_ra": known.east, "e_dec": known.north / 1000, "corr": known.corr}
    for name, values in numbers.items():
        table = table.append_column(name, pa.array(values))
    return publish(folder, table, cells, errors=CORRELATED), table


def publish_motion(folder, known, table, cells=WHOLE_SKY, **properties):
    table = table.append_column("pmra", pa.array(known.east)).append_column("pmdec", pa.array(known.north / 1000))
    return publish(folder, table, cells, motion=MOTION, **properties), table


def equal_columns(rows, expected):
    return [name for name in expected.column_names if not rows[name].equals(expected[name])] == []


@settings(max_examples=6)
@given(st.data())
def test_error_ellipses_are_brute_force_for_any_cells(tmp_path_factory, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    width = 10 ** data.draw(st.floats(1, 7))  # mas
    left, right = (with_numbers(rng, side, width / 10) for side in clumps(rng, width * MAS))
    sigma = reference.normalised_separations(left.side.position, right.side.position, left.errors, right.errors)
    limit = data.draw(st.floats(0.5, 5))
    while np.any(np.abs(sigma - limit) < 1e-6 * limit):
        limit *= 0.99999
    find, how = data.draw(st.sampled_from(FINDS)), data.draw(st.sampled_from(HOWS))
    separation = reference.separations(left.side.position, right.side.position)
    pairs = reference.crossmatch(separation, sigma <= limit, left.side.index, right.side.index, find, how)
    folder = tmp_path_factory.mktemp("partition")
    results = []
    for name in ("cut", "whole"):
        cells = [data.draw(partitions_of(each.side.index)) if name == "cut" else WHOLE_SKY for each in (left, right)]
        mine, first = publish_errors(folder / f"left-{name}", left, left_table(left.side), cells[0])
        its, second = publish_errors(folder / f"right-{name}", right, right_table(right.side), cells[1])
        results.append(mine.crossmatch(its, n_sigma=limit, find=find, how=how).compute())
    assert results[0].equals(results[1])
    assert equal_columns(results[0], matched_rows(first, second, pairs, how))
    if how in ("inner", "left", "right", "outer"):
        assert results[0].column_names[-2:] == ["separation", "sigma"]
        expected = [None if None in pair else float(sigma[pair]) for pair in pairs]
        check_numbers(results[0]["sigma"], expected, rel=1e-6, abs=1e-9)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    rng = np.random.default_rng(15)
    left, right = (with_numbers(rng, side, 300) for side in clumps(rng, 1 / 3600, (60, 90)))
    folder = tmp_path_factory.mktemp("errors")
    sides = publish_errors(folder / "left", left, left_table(left.side))[0]
    return left, right, sides, publish_errors(folder / "right", right, right_table(right.side))[0]


def test_with_a_radius_too_a_pair_lies_within_both(known):
    mine, its = known[2:]
    both = mine.crossmatch(its, n_sigma=3, radius="0.5 arcsec", find="all").compute()
    ellipses = mine.crossmatch(its, n_sigma=3, find="all").compute()
    near = ellipses["separation"].to_numpy() <= 0.5
    assert 0 < near.sum() < len(near)
    assert both.equals(ellipses.filter(pa.array(near)))


@settings(max_examples=3)
@given(st.data())
def test_probabilities_add_up_and_do_not_depend_on_cells(tmp_path_factory, known, data):
    left, right, mine, its = known
    arguments = {"n_sigma": 5, "probability": True, "find": "all", "how": "outer"}
    rows = mine.crossmatch(its, **arguments).compute()
    assert rows.column_names[-4:] == ["separation", "sigma", "match_probability", "no_match_probability"]
    total = {}
    for row in rows.select(["source_id", "match_probability", "no_match_probability"]).to_pylist():
        if row["source_id"] is not None:
            assert 0 < row["no_match_probability"] <= 1
            sums = total.setdefault(row["source_id"], [row["no_match_probability"]])
            sums += [] if row["match_probability"] is None else [row["match_probability"]]
    assert list(map(sum, total.values())) == pytest.approx([1] * 60, abs=1e-12)
    folder = tmp_path_factory.mktemp("partition")
    cells = [data.draw(partitions_of(each.side.index)) for each in (left, right)]
    cut = publish_errors(folder / "left", left, left_table(left.side), cells[0])[0]
    its_cut = publish_errors(folder / "right", right, right_table(right.side), cells[1])[0]
    assert cut.crossmatch(its_cut, **arguments).compute().equals(rows)
    nearest = cut.crossmatch(its_cut, radius="1 arcsec", probability=True)
    assert nearest.compute().equals(mine.crossmatch(its, radius="1 arcsec", probability=True).compute())


@settings(max_examples=6)
@given(st.data())
def test_moving_stars_are_found_for_any_cells(tmp_path_factory, data):
    """Stars of up to 20 arcsec a year, met after 24.75 years within a radius far smaller than their way."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    still, _ = clumps(rng, 0.1)
    stars = with_numbers(rng, still, 10_000)
    stars = Known(still, stars.east * rng.choice([-1, 1], len(stars.east)), stars.north, stars.corr)
    there = np.stack(reference.moved(*still.position, stars.east, stars.north, YEARS), axis=1)
    right = side_of(moved(rng, np.concatenate([there, there[:10], np.transpose(still.position)[:10]]), 0.5 / 3600))
    find, how = data.draw(st.sampled_from(FINDS)), data.draw(st.sampled_from(HOWS))
    is_left = data.draw(st.booleans())  # or the right side moves, to the left one's epoch
    folder = tmp_path_factory.mktemp("partition")
    cells = [data.draw(partitions_of(side.index)) for side in (still, right)]
    fast, table = publish_motion(folder / "fast", stars, left_table(still), cells[0], epoch="J1991.25")
    slow = publish(folder / "slow", right_table(right), cells[1], epoch="J2016.0")
    moved_there = reference.moved(*still.position, stars.east, stars.north, YEARS)
    separation = reference.separations(moved_there, right.position)
    near = separation <= 1 / 3600
    if np.any(np.abs(separation - 1 / 3600) < 1e-9):
        return
    if is_left:
        plan = fast.crossmatch(slow, radius="1 arcsec", find=find, how=how)
        pairs = reference.crossmatch(separation, near, still.index, right.index, find, how)
        expected = matched_rows(table, right_table(right), pairs, how)
    else:
        plan = slow.crossmatch(fast, radius="1 arcsec", find=find, how=how)
        pairs = reference.crossmatch(separation.T, near.T, right.index, still.index, find, how)
        expected = matched_rows(right_table(right), table, pairs, how)
        separation = separation.T
    rows = plan.compute()
    assert equal_columns(rows, expected)
    if how in ("inner", "left", "right", "outer"):
        assert rows.column_names[-2:] == ["separation", "motion_missing"]
        told = [None if None in pair else float(separation[pair] * 3600) for pair in pairs]
        check_numbers(rows["separation"], told, abs=1e-7)
        assert sum(each is not None for each in told) >= (15 if find != "mutual" else 10)


@pytest.fixture(scope="module")
def barnard(tmp_path_factory):
    """Barnard's star in 1991.25 and 2016.0, a star without motion, and one whose motion is not known."""
    folder = tmp_path_factory.mktemp("motion")
    places = np.array([[269.45402305, 4.66828815], [100.0, 20.0], [200.0, -20.0]])
    old = side_of(places)
    motions = pa.array([-797.84, 0.0, None]), pa.array([10.32693, 0.0, 3.0])
    order = [places[:, 0].tolist().index(ra) for ra in old.ra]
    table = left_table(old)
    for name, values in zip(("pmra", "pmdec"), motions, strict=True):
        table = table.append_column(name, values.take(pa.array(order)))
    now = places.copy()
    now[0] = np.ravel(reference.moved(*places[0], -797.84, 10326.93, YEARS))
    hip = publish(folder / "hip", table, motion=MOTION, epoch="J1991.25")
    return hip, publish(folder / "gaia", right_table(side_of(now)), epoch="J2016.0")


def test_barnards_star_is_found_256_arcsec_away(barnard):
    hip, gaia = barnard
    rows = hip.crossmatch(gaia, radius="0.5 arcsec").compute().to_pylist()
    assert len(rows) == 3
    assert sorted(row["motion_missing"] for row in rows) == [False, False, True]
    assert [row["ra"] for row in rows if row["motion_missing"]] == [200.0]
    star = next(row for row in rows if row["pmdec"] and row["pmdec"] > 5)
    assert star["separation"] < 1e-6
    assert star["ra"] == 269.45402305  # where it was, not where it is
    assert hip.crossmatch(gaia, radius="0.5 arcsec", motion=False).count() == 2
    assert hip.crossmatch(gaia, radius="260 arcsec", motion=False).count() == 3
    assert gaia.crossmatch(hip, radius="0.5 arcsec").count() == 3


def test_a_common_epoch_may_be_given(barnard):
    hip, gaia = barnard
    apart = hip.crossmatch(gaia, radius="60 arcsec", epoch="J2015.0").compute()
    assert max(apart["separation"].to_pylist()) == pytest.approx(10.3577, abs=1e-3)  # a year on the way
    assert hip.crossmatch(gaia, radius="0.5 arcsec", epoch="J1991.25").count() == 2
    both = hip.crossmatch(hip, radius="1 mas", epoch="J2100.0").compute()
    assert both.num_rows == 3
    assert max(both["separation"].to_pylist()) == 0
    assert "motion_missing" in both.column_names


def test_rows_of_one_epoch_stay(barnard):
    hip, _ = barnard
    same = hip.crossmatch(hip, radius="1 mas")
    assert "motion_missing" not in same.columns
    assert same.count() == 3


def test_motion_is_known_after_a_filter_and_lost_with_its_columns(barnard):
    hip, gaia = barnard
    cone = sciplat.Cone("269.454 deg", "4.668 deg", "1 arcmin")  # of 1991: it has left it since
    assert hip.within(cone).crossmatch(gaia, radius="0.5 arcsec").count() == 1
    assert "motion_missing" not in hip.select("mag").crossmatch(gaia, radius="0.5 arcsec").columns


def round_table(ra, dec, east, north=None):
    """Return stars in the order of the sky, with errors in mas."""
    index = healpix_29(ra, dec)
    errors = {"e_ra": east, "e_dec": (east if north is None else north) / 1000}
    table = pa.table({"_healpix_29": index, "star": np.arange(len(ra)), "ra": ra, "dec": dec, **errors})
    return table.take(pa.array(np.argsort(index, kind="stable")))


def publish_round(folder, table, rows_per_cell=10**6, frame="icrs"):
    cells = [cell for cell, _, _ in split_cells(table["_healpix_29"].to_numpy(), rows_per_cell)]
    return publish(folder, table, cells, errors=ERRORS, frame=frame)


def test_needles_of_another_frame_find_their_counterparts(tmp_path):
    """Galactic rows that scatter by 100 mas in longitude and 1 mas in latitude, up to both galactic poles."""
    rng = np.random.default_rng(3)
    count = 2000
    lon, lat = rng.uniform(0, 360, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count)))
    lat[:20] = [89.99, -89.99] * 10
    ones, long = np.ones(count), np.full(count, 100.0)
    east, north = rng.normal(0, 100 * MAS, count), rng.normal(0, MAS, count)
    its = publish_round(
        tmp_path / "its", round_table(lon + east / np.cos(np.radians(lat)), lat + north, long, ones), 300, "galactic"
    )
    galactic = publish_round(tmp_path / "galactic", round_table(lon, lat, ones), frame="galactic")
    icrs = publish_round(tmp_path / "icrs", round_table(*turned(lon, lat, "galactic", "icrs"), ones), 300)
    found = []
    for mine in (galactic, icrs):
        rows = mine.crossmatch(its, n_sigma=5, find="all").compute()
        assert rows["star"].equals(rows["star_other"])
        found.append(rows.sort_by("star"))
    assert found[0]["star"].to_pylist() == list(range(count))
    assert found[1]["star"].equals(found[0]["star"])
    assert found[1]["sigma"].to_numpy() == pytest.approx(found[0]["sigma"].to_numpy(), abs=1e-4)
    assert np.median(found[1]["sigma"].to_numpy()) == pytest.approx(1.1, abs=0.15)


def test_large_errors_in_one_place_of_another_frame_are_found_for_any_cells(tmp_path):
    rng = np.random.default_rng(3)
    count = 2500
    ra, dec = rng.uniform(150, 154, count), rng.uniform(20, 24, count)
    lon, lat = turned(ra, dec, "icrs", "galactic")
    large = (np.abs(ra - 152) < 0.4) & (np.abs(dec - 22) < 0.4)
    right = round_table(lon, lat + np.where(large, 0.7, 0), np.where(large, 0.2 / MAS, 1.0))
    left = round_table(ra, dec, np.ones(count))
    results = []
    for name, mine, its in (("whole", 10**6, 10**6), ("cut", 300, 40)):
        sides = publish_round(tmp_path / f"left-{name}", left, mine), publish_round(
            tmp_path / f"right-{name}", right, its, "galactic"
        )
        results.append(sides[0].crossmatch(sides[1], n_sigma=5, find="all").compute())
    assert len(sides[1].cells) > 80
    assert results[1].equals(results[0])
    same = results[0]["star"].to_numpy() == results[0]["star_other"].to_numpy()
    assert same.sum() == count
    assert results[0].num_rows > 20 * large.sum()


COUNTERPARTS = 0.7


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """Return two sides and how many left rows have a counterpart, 70 %: among twice as many other candidates."""
    rng = np.random.default_rng(21)
    count, error = 8000, 1000.0
    width = np.sqrt(count * 2 / 0.03) * error * MAS  # degrees
    ra, dec = 100 + rng.uniform(0, width, count), rng.uniform(-width / 2, width / 2, count)
    has = rng.random(count) < COUNTERPARTS
    its = np.stack([100 + rng.uniform(0, width, count), rng.uniform(-width / 2, width / 2, count)])
    scatter = rng.normal(0, np.sqrt(2) * error * MAS, (2, count))
    its = np.where(has, np.stack([ra, dec]) + scatter, its)
    folder, errors = tmp_path_factory.mktemp("crowded"), np.full(count, error)
    left, right = round_table(ra, dec, errors), round_table(*its, errors)
    return publish_round(folder / "left", left, 2000), publish_round(folder / "right", right, 1500), int(has.sum())


CUTS = [{"n_sigma": 1}, {"n_sigma": 2}, {"n_sigma": 5}, {"radius": "2.5 arcsec"}, {"n_sigma": 3, "radius": "2 arcsec"}]


@pytest.fixture(scope="module")
def cut_rows(crowded):
    mine, its, _ = crowded
    given = {"probability": True, "find": "all", "how": "left"}
    return [mine.crossmatch(its, **given, **cut).compute() for cut in CUTS]


def columns_of(rows, *names):
    return zip(*(rows[name].to_pylist() for name in names), strict=True)


def test_a_pair_is_as_probable_whatever_the_cut(cut_rows):
    names = "star", "star_other", "sigma", "match_probability", "no_match_probability"
    widest = {(mine, its): numbers for mine, its, *numbers in columns_of(cut_rows[2], *names) if its is not None}
    for rows in cut_rows:
        pairs = [row for row in columns_of(rows, *names) if row[1] is not None]
        assert len(pairs) > 2000
        assert all(widest[mine, its] == numbers for mine, its, *numbers in pairs)
    assert len(set(map(len, cut_rows))) == len(CUTS)


def test_the_number_of_counterparts_is_known_whatever_the_cut(crowded, cut_rows):
    true = crowded[2]
    sums = [
        sum(1 - none for none in dict(columns_of(rows, "star", "no_match_probability")).values()) for rows in cut_rows
    ]
    assert sums == pytest.approx([sums[0]] * len(CUTS), rel=1e-12)
    assert sums[0] == pytest.approx(true, rel=0.04)


def test_more_sigmas_list_farther_pairs(crowded, cut_rows):
    mine, its, _ = crowded
    far = mine.crossmatch(its, n_sigma=8, probability=True, find="all", how="left").compute()
    assert 7.9 < max(value or 0 for value in far["sigma"].to_pylist()) <= 8
    names = "star", "star_other", "match_probability", "no_match_probability"
    told = {(one, other): numbers for one, other, *numbers in columns_of(far, *names)}
    matched = [row for row in columns_of(cut_rows[2], *names) if row[1] is not None]
    assert len(matched) < 0.6 * len(told)
    assert all(told[one, other] == pytest.approx(numbers, abs=1e-3) for one, other, *numbers in matched)


def test_rows_without_candidates_surely_have_no_counterpart(crowded, tmp_path):
    """Left rows of a wider area than the right ones: with `how="left"` each has its probability."""
    mine, its, _ = crowded
    rng = np.random.default_rng(1)
    away = round_table(rng.uniform(99, 99.5, 50), rng.uniform(-1, 1, 50), np.full(50, 1000.0))
    alone = publish_round(tmp_path / "alone", away)
    for side in (mine, alone):
        rows = side.crossmatch(its, n_sigma=5, probability=True, find="all", how="left").compute()
        assert rows["no_match_probability"].null_count == 0
        no_match = dict(columns_of(rows, "star", "no_match_probability"))
        total, is_matched = dict(no_match), dict.fromkeys(no_match, False)
        for star, match in columns_of(rows, "star", "match_probability"):
            total[star] += match or 0.0
            is_matched[star] |= match is not None
        lonely = [star for star, found in is_matched.items() if not found]
        assert {no_match[star] for star in lonely} == {1.0}
        assert list(total.values()) == pytest.approx([1.0] * len(side), abs=1e-12)
        assert len(lonely) == 50 or 0 < len(lonely) < 2000
