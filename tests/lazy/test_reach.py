"""How far around its cells a match looks: the fastest star, the largest error, and what nobody can know in advance."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sciplat
from sciplat.errors import ArgumentError
from sciplat.sky.cell import Cell, healpix_29, positions_29
from sciplat.sky.frame import ra_dec, rotated, rotation, unit_vectors
from sciplat.sky.surroundings import surroundings
from sciplat.steps.crossmatch import SURE
from tests import reference
from tests.match_scene import publish
from tests.sky_scene import WHOLE_SKY
from tests.strategies import partitions_of

MOTION = {name: {"column": name, "unit": "mas/yr"} for name in ("pmra", "pmdec")}
RADIAL = MOTION | {"parallax": {"column": "plx", "unit": "mas"}, "rv": {"column": "rv", "unit": "km/s"}}
ERRORS = {"ra": {"column": "e_ra", "unit": "arcsec"}, "dec": {"column": "e_dec", "unit": "arcsec"}}
ARCSEC = 1 / 3600
YEARS = 25.0
FAST = 12_000.0  # mas/yr: 5 arcmin in this time
QUARTERS = [cell for base in WHOLE_SKY for cell in base.children]


def rows(ra, dec, **columns):
    """Return a table of rows at some places, zeros in columns that are not given."""
    ra, dec = np.asarray(ra, float), np.asarray(dec, float)
    index = healpix_29(ra, dec)
    order = np.argsort(index, kind="stable")
    names = ("pmra", "pmdec", "plx", "rv", "e_ra", "e_dec", "corr", "year")
    given = {name: pa.array(columns.get(name, [0.0] * len(ra)), pa.float64()) for name in names}
    table = pa.table({"_healpix_29": index, "star": np.arange(len(ra)), "ra": ra, "dec": dec, **given})
    return table.take(pa.array(order))


def one_in_each_cell(**columns):
    """Return a row in the middle of every quarter of a face."""
    centres = np.array([cell.start + 3 * (cell.stop - cell.start) // 4 for cell in QUARTERS])
    return rows(*positions_29(centres), **columns)


def but_one(value, usual, count=48, place=20):
    return [value if number == place else usual for number in range(count)]


def reaches(left, right, **arguments):
    """Return how far a match looks around each of its cells, in arcsec."""
    node = left.crossmatch(right, **{"radius": "1 arcsec"} | arguments).node
    return {cell: node._reach(cell) / ARCSEC for cell in left.cells}


def check_reaches(found, inside, elsewhere):
    """Check how far a match looks in the cell of the extreme row and beside it, and in all others."""
    place = list(found)[20]
    near = surroundings(place, 1.0)
    for cell, reach in found.items():
        expected = inside if near.meets(cell.start, cell.stop) else elsewhere
        assert reach == pytest.approx(expected, rel=1e-6), cell
    assert 4 <= sum(reach > elsewhere * 1.5 for reach in found.values()) <= 9


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """A catalog without motions, of 2016."""
    return publish(tmp_path_factory.mktemp("still") / "still", one_in_each_cell(), QUARTERS, epoch="J2016.0")


def moving(folder, table, **about):
    return publish(folder, table, QUARTERS, **{"motion": MOTION, "epoch": "J1991.0"} | about)


def without_statistics(monkeypatch):
    """Write files whose footers say nothing of the values."""
    write = pq.write_table

    def plain(*arguments, **how):
        write(*arguments, **how | {"write_statistics": False})

    monkeypatch.setattr(pq, "write_table", plain)


@pytest.mark.parametrize("statistics", [True, False])
def test_the_fastest_star_makes_its_own_cell_and_those_beside_it_look_far(still, tmp_path, monkeypatch, statistics):
    if not statistics:
        without_statistics(monkeypatch)
    table = one_in_each_cell(pmra=but_one(-FAST, 40.0), pmdec=but_one(0.0, 30.0))
    stars = moving(tmp_path / "stars", table)
    footer = pq.read_metadata(next((tmp_path / "stars").rglob("Npix=*.parquet")))
    assert footer.row_group(0).column(4).is_stats_set == statistics
    check_reaches(reaches(stars, still), 1 + 300, 1 + 0.05 * YEARS)
    # and so do those whose right rows move
    check_reaches(reaches(still, stars), 1 + 300, 1 + 0.05 * YEARS)


def test_unknown_motions_do_not_hide_the_known_ones(still, tmp_path):
    """NaN and null among the motions; where all of them are, nothing moves."""
    motions = [[np.nan, None, 0.0][number % 3] for number in range(48)]
    motions[20] = FAST
    stars = moving(tmp_path / "stars", one_in_each_cell(pmra=motions, pmdec=but_one(0.0, np.nan)))
    check_reaches(reaches(stars, still), 301, 1)


def test_epochs_in_a_column_count_from_the_earliest_and_the_latest(still, tmp_path):
    years = but_one(1991.0, 2015.0)
    years[3] = np.nan
    table = one_in_each_cell(pmra=[FAST] * 48, year=years)
    stars = moving(tmp_path / "stars", table, epoch={"column": "year", "unit": "yr"})
    check_reaches(reaches(stars, still), 1 + 300, 1 + 12)
    later = moving(tmp_path / "later", one_in_each_cell(pmra=[FAST] * 48, year=but_one(2041.0, 2017.0)),
                   epoch={"column": "year", "unit": "yr"})  # fmt: skip
    check_reaches(reaches(later, still), 1 + 300, 1 + 12)


def test_a_star_that_comes_nearer_moves_faster(still, tmp_path):
    table = one_in_each_cell(pmra=[100.0] * 48, plx=but_one(700.0, 1.0), rv=but_one(-30_000.0, 10.0))
    stars = moving(tmp_path / "stars", table, motion=RADIAL)
    found = reaches(stars, still)
    assert max(found.values()) > 3.6 + 1e-3
    assert min(found.values()) == pytest.approx(3.5, rel=1e-4)
    assert reaches(moving(tmp_path / "flat", table), still)[QUARTERS[20]] == pytest.approx(3.5)


@pytest.mark.parametrize("corr", [False, True])
def test_the_largest_error_makes_its_own_cell_and_those_beside_it_look_far(tmp_path, corr):
    about = {"errors": ERRORS | ({"corr": {"column": "corr", "unit": ""}} if corr else {})}
    table = one_in_each_cell(e_ra=but_one(30.0, 0.3), e_dec=but_one(40.0, 0.4))
    small = one_in_each_cell(e_ra=[0.3] * 48, e_dec=[0.4] * 48)
    left, right = (publish(tmp_path / name, each, QUARTERS, **about) for name, each in (("l", table), ("r", small)))
    one = 50.0 if corr else 40.0  # of a correlated ellipse the long axis may be any direction
    expected = [5 * np.hypot(one / down, one / 100) * SURE for down in (1, 100)]
    for sides in ((left, right), (right, left)):
        check_reaches(reaches(*sides, radius=None, n_sigma=5), *expected)
        # a radius as well
        check_reaches(reaches(*sides, radius="60 arcsec", n_sigma=5), 60, expected[1])


def test_catalogs_that_are_put_together_count_both(still, tmp_path):
    slow = moving(tmp_path / "slow", one_in_each_cell(pmra=[40.0] * 48, pmdec=[30.0] * 48))
    coarse = publish(tmp_path / "fast", one_in_each_cell(pmra=but_one(-FAST, 0.0)), motion=MOTION, epoch="J1991.0")
    for both in (slow.concat(coarse), coarse.concat(slow)):
        found = reaches(both, still)
        # all four quarters of the face on which the fast star is known to be, and those beside
        far = [cell for cell, reach in found.items() if reach > 100]
        near = surroundings(Cell(0, 5), 1.0)
        assert all(near.meets(cell.start, cell.stop) for cell in far)
        assert {cell for cell in found if cell.start >> 58 == 5} <= set(far)
        assert min(found.values()) == pytest.approx(1 + 0.05 * YEARS, rel=1e-6)
    empty = coarse.within(sciplat.Cone("200 deg", "-85 deg", "1 arcsec"))
    assert max(reaches(slow.concat(empty), still).values()) < 10


def test_cells_of_another_frame_are_looked_for_in_it(still, tmp_path):
    """The fast star's cell has other numbers in the frame of the left catalog."""
    table = one_in_each_cell(pmra=but_one(-FAST, 0.0))
    stars = moving(tmp_path / "stars", table, frame="galactic")
    row = int(np.argmin(table["pmra"].to_numpy()))
    place = unit_vectors(*(table[name].to_numpy()[row : row + 1] for name in ("ra", "dec")))
    index = int(healpix_29(*ra_dec(rotated(place, rotation("galactic", "icrs"))))[0])
    found = reaches(still, stars)
    home = next(cell for cell in found if cell.start <= index < cell.stop)
    assert home.index != QUARTERS[20].index
    assert found[home] == pytest.approx(301)
    assert 1 <= sum(reach > 2 for reach in found.values()) < 24


def test_motions_that_are_computed_are_refused(still, tmp_path):
    stars = moving(tmp_path / "stars", one_in_each_cell(pmra=[40.0] * 48, pmdec=[30.0] * 48))
    whole = reaches(stars, still)
    kept = [
        stars.where("star < 1000"),
        stars.sample(0.999),
        stars.select("pmra", "pmdec"),
        stars.with_columns(twice="2 * pmra"),
        stars.groups(radius="1 arcsec"),
        stars.crossmatch(still.select("star"), radius="1 arcsec", suffix="_s", how="left"),
    ]
    for plan in kept:
        assert reaches(plan, still) == whole
    computed = [stars.with_columns(pmra="2 * pmra"), stars.map(lambda table: table, schema=stars.schema)]
    for plan in (*computed, *(each.where("star >= 0") for each in computed)):
        for sides in ((plan, still), (still, plan)):
            match = sides[0].crossmatch(sides[1], radius="1 arcsec")
            with pytest.raises(ArgumentError, match=r"(?s)not known before its plan has run.*pmra.*\.write") as caught:
                match.compute()
            assert ("left" if sides[0] is plan else "right") in str(caught.value)
            assert sides[0].crossmatch(sides[1], radius="1 arcsec", motion=False).count() == 48


@pytest.mark.parametrize(("radius", "fits"), [("9 deg", True), ("10 deg", False)])
def test_a_reach_beyond_eleven_degrees_is_refused(still, tmp_path, radius, fits):
    far = 1.2 * 3.6e6 / YEARS  # mas/yr: 1.2 degrees
    stars = moving(tmp_path / "stars", one_in_each_cell(pmra=but_one(far, 0.0)))
    for left, right in ((stars, still), (still, stars)):
        plan = left.crossmatch(right, radius=radius)
        if fits:
            assert plan.explain().cells == 48
            continue
        with pytest.raises(ArgumentError, match=r"(?s)farther than 11 deg.*11\.2 deg, of which 1\.2 deg by motions"):
            plan.explain()


def test_errors_that_reach_too_far_need_a_radius(tmp_path):
    left, right = (
        publish(tmp_path / str(size), one_in_each_cell(e_ra=[size] * 48, e_dec=[size] * 48), QUARTERS, errors=ERRORS)
        for size in (1.0, 4 * 3600.0)
    )
    with pytest.raises(ArgumentError, match=r"(?s)farther than 11 deg.*20 deg.*radius="):
        left.crossmatch(right, n_sigma=5).explain()
    assert left.crossmatch(right, n_sigma=5, radius="1 arcmin").count() == 48


@settings(max_examples=12)
@given(st.data())
def test_a_star_that_crosses_cells_is_found_for_any_partition(tmp_path_factory, data):
    """It moves 5 arcmin over corners of the largest cells; of the other frame the right catalog may be."""
    folder = tmp_path_factory.mktemp("partition")
    ra, dec = data.draw(st.sampled_from([(45.0, 0.0), (0.0, 41.8103), (10.0, 89.97), (120.3, -41.9), (359.99, 0.02)]))
    angle = np.radians(data.draw(st.integers(0, 359)))
    crowd = np.random.default_rng(1).uniform(-0.3, 0.3, (2, 60))
    dec = 90 - np.abs(90 - dec - np.append(0.0, crowd[1]))
    ra = (ra + np.append(0.0, crowd[0])) % 360
    pmra, pmdec = (np.append(FAST * turn(angle), np.zeros(60)) for turn in (np.cos, np.sin))
    stars = rows(ra, dec, pmra=pmra, pmdec=pmdec)
    there = rows(*reference.moved(ra, dec, pmra, pmdec, YEARS))
    frame = data.draw(st.sampled_from(["icrs", "galactic"]))
    if frame != "icrs":
        turned = ra_dec(rotated(unit_vectors(there["ra"].to_numpy(), there["dec"].to_numpy()), rotation("icrs", frame)))
        there = _named(turned, there)
    cells = [data.draw(partitions_of(each["_healpix_29"].to_numpy())) for each in (stars, there)]
    moved = publish(folder / "stars", stars, cells[0], motion=MOTION, epoch="J1991.0")
    resting = publish(folder / "still", there, cells[1], epoch="J2016.0", frame=frame)
    found = moved.crossmatch(resting, radius="0.01 arcsec").compute()
    assert found["star"].to_pylist() == found["star_other"].to_pylist()
    assert sorted(found["star"].to_pylist()) == list(range(61))
    assert resting.crossmatch(moved, radius="0.01 arcsec").count() == 61
    assert moved.crossmatch(resting, radius="0.01 arcsec", motion=False).count() == 60


def _named(position, table):
    """Return rows at other places that keep their names."""
    named = rows(*position)
    return named.set_column(1, "star", table["star"].take(named["star"].combine_chunks()))
