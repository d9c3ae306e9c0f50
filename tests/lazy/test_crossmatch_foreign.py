"""Cross-matches with catalogs of other writers, who do not promise a position for every row."""

import numpy as np
import pyarrow as pa
import pytest

import sciplat
from sciplat.sky.cell import healpix_29, split_cells
from tests.io.test_foreign import stars, without, write_hats

RADIUS = "3 arcsec"  # some three rows of the field
ROWS = 600
FINDS = [{}, {"neighbours": 3}, {"find": "mutual"}, {"find": "all"}]


def field(seed):
    """Return a small field that is full of rows, sorted along the sky."""
    east, dec = np.random.default_rng(seed).uniform(0, 0.02, (2, ROWS))
    ra = 200 + east
    index = healpix_29(ra, dec)
    order = np.argsort(index)
    return pa.table({"_healpix_29": index[order], "objid": np.arange(ROWS), "ra": ra[order], "dec": dec[order]})


def lost(table):
    """Say which rows lose their position: one in ten."""
    return table["objid"].to_numpy() % 10 == 0


def with_lost_positions(table):
    """Let right ascensions and declinations be missing, not a number, infinite, or beyond a pole."""
    turn = np.where(lost(table), table["objid"].to_numpy() // 10 % 5, -1)
    ra, dec = (table[name].to_numpy().copy() for name in ("ra", "dec"))
    ra[turn == 0], dec[turn == 1], dec[turn == 2] = np.nan, np.inf, 91.0
    columns = pa.array(ra, mask=turn == 3), pa.array(dec, mask=turn == 4)
    return table.set_column(2, "ra", columns[0]).set_column(3, "dec", columns[1])


def publish(folder, table):
    return sciplat.open_catalog(write_hats(folder, table, hats_nrows=table.num_rows))


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Return a field of which some rows have no position, the same without these rows, and another field."""
    folder, table = tmp_path_factory.mktemp("fields"), field(1)
    tables = with_lost_positions(table), table.filter(pa.array(~lost(table))), field(2)
    return [publish(folder / str(number), each) for number, each in enumerate(tables)]


@pytest.mark.parametrize("arguments", FINDS)
def test_rows_without_a_position_match_nothing_and_hide_nothing(fields, arguments):
    holes, whole, others = fields
    for pair, alike in (((others, holes), (others, whole)), ((holes, others), (whole, others))):
        found, expected = (a.crossmatch(b, radius=RADIUS, **arguments).compute() for a, b in (pair, alike))
        assert expected.num_rows > ROWS / 3
        assert found.equals(expected)


@pytest.mark.parametrize("how", ["left", "right", "outer", "anti", "xor"])
@pytest.mark.parametrize("name", ["objid", "objid_other"])
def test_rows_without_a_position_are_among_the_unmatched(fields, how, name):
    holes, whole, others = fields
    plans = [(each, others) if name == "objid" else (others, each) for each in (holes, whole)]
    kept = ("left", "outer", "anti", "xor") if name == "objid" else ("right", "outer", "xor")
    for find in ("nearest", "mutual"):
        found, expected = (a.crossmatch(b, radius=RADIUS, find=find, how=how).compute() for a, b in plans)
        names = found[name if name in found.column_names else "objid"].to_pylist()
        alone = np.array([how in kept and row is not None and row % 10 == 0 for row in names], dtype=bool)
        assert alone.sum() == (ROWS / 10 if how in kept else 0)
        assert found.filter(pa.array(~alone)).equals(expected)
        if "separation" in found.column_names:
            assert found["separation"].filter(pa.array(alone)).null_count == alone.sum()


def test_rows_without_a_position_are_counted_as_unmatched(fields, tmp_path):
    holes, whole, others = fields
    told = [each.crossmatch(others, radius=RADIUS).write(tmp_path / str(len(each))) for each in (holes, whole)]
    counts = [each.report["completeness"] for each in told]
    assert counts[0]["rows"] == ROWS
    assert counts[0]["matched"] == counts[1]["matched"]
    assert sum(counts[0].values()) == 2 * ROWS


def test_rows_without_a_position_are_groups_of_their_own(fields):
    holes, whole, others = fields
    links = {"radius": "1 arcsec"}
    rows = holes.groups(**links).compute()
    alone = lost(rows)
    assert rows.filter(pa.array(~alone)).equals(whole.groups(**links).compute())
    assert set(rows["group_size"].to_numpy()[alone]) == {1}
    assert rows["group_id"].to_numpy()[alone].tolist() == rows["_healpix_29"].to_numpy()[alone].tolist()
    found, expected = (sciplat.crossmatch_many([others, each], **links).compute() for each in (holes, whole))
    alone = np.array([row is not None and row % 10 == 0 for row in found["objid_2"].to_pylist()])
    assert found.filter(pa.array(~alone)).equals(expected)
    assert found.filter(pa.array(alone))["group_size"].to_pylist() == [1] * (ROWS // 10)


@pytest.fixture(scope="module")
def stray(tmp_path_factory):
    """Return a catalog without an index, a row of which lies one rounding step outside its cell, its table, the row."""
    table = stars()
    cell, first, last = list(split_cells(table["_healpix_29"].to_numpy(), 200))[5]
    row = (first + last) // 2
    ra, dec = table["ra"].to_numpy().copy(), table["dec"].to_numpy()
    inside, outside = ra[row], ra[row] + 60  # along its parallel, to where that leaves the cell
    while (middle := (inside + outside) / 2) not in (inside, outside):
        is_in = cell.start <= healpix_29(np.array([middle]), dec[row : row + 1])[0] < cell.stop
        inside, outside = (middle, outside) if is_in else (inside, middle)
    ra[row] = outside
    table = table.set_column(2, "ra", pa.array(ra))
    about = {"change": without("_healpix_29"), "hats_col_healpix": None, "hats_col_healpix_order": None}
    return sciplat.open_catalog(write_hats(tmp_path_factory.mktemp("stray") / "stars", table, **about)), table, row


def test_a_row_that_rounding_puts_outside_its_cell_is_matched(stray, tmp_path):
    catalog, table, _ = stray
    own = sciplat.ingest_catalog(table.drop_columns(["_healpix_29"]), tmp_path / "own", rows_per_cell=100)
    for find in ("nearest", "mutual"):
        for pair in ((catalog, own), (own, catalog)):
            rows = pair[0].crossmatch(pair[1], radius="1 mas", find=find).compute()
            assert sorted(rows["objid"].to_pylist()) == list(range(900))
            assert rows["objid_other"].equals(rows["objid"])
    assert catalog.groups(radius="1 mas").compute()["group_size"].to_pylist() == [1] * 900
    assert set(sciplat.crossmatch_many([own, catalog], radius="1 mas").compute()["catalogs"].to_pylist()) == {2}


@pytest.mark.parametrize("radius", ["1 mas", "1 arcsec", "1 arcmin"])
def test_a_row_that_rounding_puts_outside_its_cell_is_found(stray, radius):
    catalog, table, row = stray
    place = (f"{table[name][row].as_py()!r} deg" for name in ("ra", "dec"))
    assert catalog.within(sciplat.Cone(*place, radius)).compute()["objid"].to_pylist() == [row]
