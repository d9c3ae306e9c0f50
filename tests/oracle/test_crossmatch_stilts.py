"""Cross-matches of 100,000 real stars on a side are those of STILTS, pair for pair and for every kind of join."""

import subprocess
from functools import cache

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import sciplat

ROWS = 100_000
RADIUS = 600  # arcsec: a star with any candidate has two, on the average
JOINS = {"inner": "1and2", "left": "all1", "right": "all2", "outer": "1or2", "anti": "1not2", "xor": "1xor2"}
# both kinds of cells are small and differ, so that most pairs of this radius meet the border of some cell
ROWS_PER_CELL = {"gaia": 1_000, "tycho": 2_500}
FAINTEST = {"gaia": 10, "tycho": 10.5}


@pytest.fixture(scope="module")
def skies(data, tmp_path_factory):
    """Return two matches to be made, as a folder with two FITS tables and our catalogs of the same stars.

    One has 100,000 stars on a side, the other one those around the north pole.
    """
    files = {"gaia": "gaia_dr3_bright", "tycho": "tycho2"}
    stars = {name: _chosen(data / "allsky" / f"{file}.parquet", name) for name, file in files.items()}
    polar = {name: table.filter(pc.greater(table["dec"], 75)) for name, table in stars.items()}
    return {
        label: _prepared(tables, tmp_path_factory.mktemp("match"))
        for label, tables in (("sky", stars), ("pole", polar))
    }


def _chosen(file, name):
    """Return the bright stars of two polar caps and of a square across RA = 0, filled up with others of the sky."""
    table = pq.read_table(file, columns=["id", "ra", "dec", "mag"])
    ra, dec, mag = (table[column].to_numpy() for column in ("ra", "dec", "mag"))
    square = (np.abs((ra + 180) % 360 - 180) < 30) & (np.abs(dec) < 30)
    field = (mag < FAINTEST[name]) & (square | (dec > 60) | (dec < -75))
    others = np.random.default_rng(5).choice(np.flatnonzero(~field), ROWS - np.count_nonzero(field), replace=False)
    rows = table.take(np.sort(np.concatenate([np.flatnonzero(field), others])))
    return rows.select(["id", "ra", "dec"]).rename_columns([name, "ra", "dec"])


def _prepared(tables, folder):
    from astropy.table import Table

    catalogs = {}
    for name, table in tables.items():
        Table(table.to_pydict()).write(folder / f"{name}.fits")
        catalogs[name] = sciplat.ingest_catalog(table, folder / name, rows_per_cell=ROWS_PER_CELL[name])
        assert len(catalogs[name].cells) >= len(tables["gaia"]) // 2000
    return folder, catalogs


@cache
def _by_stilts(command, folder, find, join="1and2"):
    """Return what STILTS gives, as identities, -1 where there is no star, and separations in arcsec."""
    from astropy.table import Table

    out = folder / f"{find}-{join}.fits"
    files = {"in1": folder / "gaia.fits", "in2": folder / "tycho.fits", "out": out}
    where = {"matcher": "sky", "values1": "ra dec", "values2": "ra dec", "params": RADIUS}
    given = [f"{name}={value}" for name, value in {**files, **where, "find": find, "join": join}.items()]
    fast_start = "-J-XX:TieredStopAtLevel=1"
    subprocess.run([command, fast_start, "tmatch2", *given], check=True, capture_output=True)
    found = Table.read(out)
    names = ("gaia", "tycho", "Separation")
    return _ordered(*(np.ma.filled(found[name], -1) if name in found.colnames else None for name in names))


def _by_us(catalogs, find, how="inner"):
    plan = catalogs["gaia"].crossmatch(catalogs["tycho"], radius=f"{RADIUS} arcsec", find=find, how=how)
    rows = plan.compute()
    assert np.all(np.diff(rows["_healpix_29"].to_numpy()) >= 0)
    names = ("gaia", "tycho", "separation")
    return _ordered(*(rows[name].fill_null(-1).to_numpy() if name in rows.schema.names else None for name in names))


def _ordered(gaia, tycho, separation):
    """Return pairs and separations in the order of the identities; what a kind of join does not have is -1."""
    tycho, separation = (np.full(len(gaia), -1) if each is None else np.asarray(each) for each in (tycho, separation))
    order = np.lexsort((tycho, gaia))
    return np.stack([np.asarray(gaia), tycho], axis=1)[order], np.nan_to_num(separation, nan=-1)[order]


def _assert_same(ours, theirs):
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("find", "their_find", "least"), [("nearest", "best1", 50_000), ("all", "all", 100_000)])
def test_pairs_and_separations_are_those_of_stilts(stilts, skies, find, their_find, least):
    folder, catalogs = skies["sky"]
    ours = _by_us(catalogs, find)
    assert len(ours[0]) > least
    _assert_same(ours, _by_stilts(stilts, folder, their_find))


def test_mutual_pairs_are_the_best_of_both_sides_of_stilts(stilts, skies):
    folder, catalogs = skies["sky"]
    pairs, separation = _by_stilts(stilts, folder, "best1")
    others = set(map(tuple, _by_stilts(stilts, folder, "best2")[0].tolist()))
    both = np.array([tuple(pair) in others for pair in pairs.tolist()])
    assert 20_000 < np.count_nonzero(both) < len(both)
    _assert_same(_by_us(catalogs, "mutual"), (pairs[both], separation[both]))


@pytest.mark.parametrize("how", [how for how in JOINS if how != "inner"])
@pytest.mark.parametrize(("find", "their_find"), [("nearest", "best1"), ("all", "all")])
def test_every_join_is_that_of_stilts(stilts, skies, find, their_find, how):
    """Matched means in a pair that `find` made, for them too."""
    folder, catalogs = skies["pole"]
    theirs = _by_stilts(stilts, folder, their_find, JOINS[how])
    alone = np.any(theirs[0] == -1, axis=1)
    assert alone.any()
    assert alone.all() == (how in ("anti", "xor"))
    _assert_same(_by_us(catalogs, find, how), theirs)
