"""Groups of real stars against those of STILTS, whose tmatch1 makes them of chains of links too."""

import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import sciplat

RADIUS = "120 arcsec"


@pytest.fixture(scope="module")
def tables(data):
    """Return all stars of two surveys, with a number of their own."""
    names = "gaia_dr3_bright", "tycho2"
    rows = [pq.read_table(data / "cats" / f"{name}.parquet", columns=["ra", "dec"]) for name in names]
    starts = np.cumsum([0, *(table.num_rows for table in rows)])
    return [
        table.append_column("star", pa.array(np.arange(start, start + table.num_rows)))
        for start, table in zip(starts, rows, strict=False)
    ]


@pytest.fixture(scope="module")
def catalogs(tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return [
        sciplat.ingest_catalog(table, folder / str(number), rows_per_cell=2000) for number, table in enumerate(tables)
    ]


def their_groups(stilts, table, folder):
    """Return the stars of each group of two or more, as STILTS finds them."""
    pa.csv.write_csv(table, folder / "in.csv")
    command = [stilts, "tmatch1", "matcher=sky", "params=120", "values=ra dec", "action=identify", "progress=none"]
    command += [f"in={folder / 'in.csv'}", "ifmt=csv", f"out={folder / 'out.csv'}", "ofmt=csv"]
    subprocess.run(command, check=True, capture_output=True)
    rows = pa.csv.read_csv(folder / "out.csv")
    return rows.filter(rows["GroupID"].is_valid())


def members(number, star):
    """Return the set of the stars of each group."""
    found = {}
    for group, each in zip(number, star, strict=True):
        found.setdefault(group, set()).add(each)
    return {frozenset(stars) for stars in found.values()}


def test_groups_of_one_catalog_are_those_of_stilts(stilts, tables, catalogs, tmp_path):
    theirs = their_groups(stilts, tables[1], tmp_path)
    plan = catalogs[1].groups(radius=RADIUS)
    assert len(plan.cells) > 10
    rows = plan.compute()
    ours = rows.filter(pa.array(rows["group_size"].to_numpy() > 1))
    found = members(ours["group_id"].to_pylist(), ours["star"].to_pylist())
    assert found == members(theirs["GroupID"].to_pylist(), theirs["star"].to_pylist())
    assert len(found) > 500
    sizes = dict(zip(theirs["star"].to_pylist(), theirs["GroupSize"].to_pylist(), strict=True))
    assert sizes == dict(zip(ours["star"].to_pylist(), ours["group_size"].to_pylist(), strict=True))


def test_groups_of_two_catalogs_are_those_of_stilts_on_the_rows_of_both(stilts, tables, catalogs, tmp_path):
    theirs = their_groups(stilts, pa.concat_tables(tables), tmp_path)
    expected = members(theirs["GroupID"].to_pylist(), theirs["star"].to_pylist())
    rows = sciplat.crossmatch_many(catalogs, radius=RADIUS).where("group_size > 1").compute()
    of_star = {star: stars for stars in expected for star in stars}
    assert rows.num_rows == len(expected) > 5000
    gaia = tables[0].num_rows
    for row in rows.to_pylist():
        stars = of_star[row["star"] if row["star"] is not None else row["star_2"]]
        assert {row["star"], row["star_2"]} - {None} <= stars
        assert row["group_size"] == len(stars)
        assert row["catalogs"] == any(star < gaia for star in stars) + any(star >= gaia for star in stars)
