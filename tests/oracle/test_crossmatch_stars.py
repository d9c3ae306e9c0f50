"""Known pairs of stars: Gaia with Tycho-2, and Hipparcos with Gaia a quarter of a century later."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sciplat
from sciplat import Motion

pytestmark = [
    # lsdb and nested-pandas use what pandas 3 calls deprecated; the warnings are theirs
    pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option is deprecated"),
    pytest.mark.filterwarnings("ignore:The inplace keyword in NestedFrame"),
]
BARNARD, BARNARD_IN_GAIA = 87937, 4472832130942575872  # moves by 257 arcsec between the epochs
HALF_ARCSEC = "0.5 arcsec"


@pytest.fixture(scope="module")
def cut(data, tmp_path_factory):
    """Return the catalogs of two fields, at the pole and across RA = 0, in many cells."""
    folder = tmp_path_factory.mktemp("cut")
    gaia, tycho = (data / "cats" / f"{name}.parquet" for name in ("gaia_dr3_bright", "tycho2"))
    return (
        sciplat.ingest_catalog(gaia, folder / "gaia", epoch="J2016.0", rows_per_cell=300),
        sciplat.ingest_catalog(tycho, folder / "tycho", epoch="J2000.0", rows_per_cell=1000),
    )


@pytest.fixture(scope="module")
def gaia(data, tmp_path_factory):
    file = data / "allsky" / "gaia_dr3_bright.parquet"
    return sciplat.ingest_catalog(
        file, tmp_path_factory.mktemp("allsky") / "gaia", epoch="J2016.0", rows_per_cell=20_000
    )


@pytest.fixture(scope="module")
def stars(data):
    """Return what the file of Hipparcos holds."""
    return pq.read_table(data / "allsky" / "hip2.parquet")


@pytest.fixture(scope="module")
def hipparcos(stars, tmp_path_factory):
    return _hipparcos(stars, tmp_path_factory.mktemp("allsky") / "hipparcos")


def _hipparcos(stars, url):
    motion = Motion("pmra", "pmdec", parallax="plx")
    return sciplat.ingest_catalog(stars, url, epoch="J1991.25", motion=motion, rows_per_cell=5_000)


def _vectors(ra, dec):
    ra, dec = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)


def _numbers(table, *names):
    return [table[name].to_numpy() for name in names]


def _adds_up(report, rows):
    found = report["completeness"]
    assert set(found) == {"rows", "matched", "unmatched", "out_of_coverage"}
    assert found["rows"] == rows == found["matched"] + found["unmatched"] + found["out_of_coverage"]
    return found


def test_all_pairs_of_gaia_and_tycho_are_found(data, cut):
    expected = pq.read_table(data / "cats" / "expected_pairs_gaia_tycho_2arcsec.parquet")
    found = cut[0].crossmatch(cut[1], radius="2 arcsec", find="all").compute()
    assert found.num_rows == expected.num_rows == 4345
    ids, separation = _numbers(found, "id", "id_other"), found["separation"].to_numpy()
    others, distance = _numbers(expected, "gaia_id", "tycho_row"), expected["sep_arcsec"].to_numpy()
    order, other_order = np.lexsort(ids), np.lexsort(others)
    for ours, theirs in zip(ids, others, strict=True):
        np.testing.assert_array_equal(ours[order], theirs[other_order])
    np.testing.assert_allclose(separation[order], distance[other_order], rtol=0, atol=1e-9)


def test_lsdb_finds_the_same_nearest_pairs(rival, data, cut):
    """Its right catalog has a margin, without which it loses pairs."""
    lsdb = rival("lsdb")
    rows = pq.read_table(data / "cats" / "tycho2.parquet").to_pandas()
    right = lsdb.from_dataframe(rows, partition_rows=1000, lowest_order=2, highest_order=6, margin_threshold=10)
    left = lsdb.open_catalog(cut[0].store.storage.url, columns="all")
    theirs = left.crossmatch(
        right,
        radius_arcsec=1.0,
        n_neighbors=1,
        require_right_margin=True,
        suffixes=("", "_other"),
        suffix_method="overlapping_columns",
        log_changes=False,
    ).compute()
    ours = cut[0].crossmatch(cut[1], radius="1 arcsec").compute()
    assert ours.num_rows == len(theirs) > 3900
    order, other_order = np.argsort(ours["id"].to_numpy()), np.argsort(theirs["id"].to_numpy())
    for name in ("id", "id_other"):
        np.testing.assert_array_equal(ours[name].to_numpy()[order], theirs[name].to_numpy()[other_order])
    distance = theirs["_dist_arcsec"].to_numpy()[other_order]
    np.testing.assert_allclose(ours["separation"].to_numpy()[order], distance, rtol=0, atol=1e-7)


def test_hipparcos_moved_to_the_epoch_of_gaia_is_found_there(rival, stars, hipparcos, gaia):
    """The pairs are those of the positions at J2016 that the file has too, rounded to 0.036 mas."""
    found = hipparcos.crossmatch(gaia, radius=HALF_ARCSEC).compute()
    ids, others, separation = _numbers(found, "id", "id_other", "separation")
    assert found.num_rows >= 109_000
    assert np.median(separation) <= 0.032
    pairs = dict(zip(ids, others, strict=True))
    assert pairs[BARNARD] == BARNARD_IN_GAIA

    names = gaia.select("id", "ra", "dec").compute()
    tree = rival("scipy.spatial").cKDTree(_vectors(*_numbers(names, "ra", "dec")))
    chord, place = tree.query(_vectors(*_numbers(stars, "ra_j2016", "dec_j2016")))
    distance = np.degrees(2 * np.arcsin(chord / 2)) * 3600
    near = distance <= 0.5
    expected = dict(zip(stars["id"].to_numpy()[near], names["id"].to_numpy()[place[near]], strict=True))
    differ = {hip for hip in pairs.keys() | expected.keys() if pairs.get(hip) != expected.get(hip)}
    at_the_border = set(stars["id"].to_numpy()[np.abs(distance - 0.5) < 1e-4])
    assert differ <= at_the_border
    of_the_file = dict(zip(stars["id"].to_numpy(), distance, strict=True))
    apart = np.abs(separation - [of_the_file[hip] for hip in ids])
    assert np.percentile(apart, 99.9) < 1e-4


def test_without_motion_half_of_hipparcos_is_not_where_gaia_sees_it(hipparcos, gaia):
    found = hipparcos.crossmatch(gaia, radius=HALF_ARCSEC, motion=False).compute()
    assert 49_000 < found.num_rows < 51_000
    assert np.median(found["separation"].to_numpy()) == pytest.approx(0.244, abs=0.002)
    assert BARNARD not in found["id"].to_numpy()


def test_motions_that_lack_the_cosine_of_the_declination_would_be_seen(stars, gaia, tmp_path):
    """So that the figures of the right motions mean something."""
    shrunk = stars["pmra"].to_numpy() * np.cos(np.radians(stars["dec"].to_numpy()))
    wrong = stars.set_column(stars.schema.get_field_index("pmra"), "pmra", pa.array(shrunk))
    found = _hipparcos(wrong, tmp_path / "wrong").crossmatch(gaia, radius=HALF_ARCSEC).compute()
    assert 100_000 < found.num_rows < 101_200
    assert np.median(found["separation"].to_numpy()) == pytest.approx(0.062, abs=0.001)


def test_a_written_match_says_how_complete_it_is(stars, hipparcos, gaia, cut, tmp_path):
    everywhere = hipparcos.crossmatch(gaia, radius=HALF_ARCSEC, how="left").write(tmp_path / "everywhere")
    found = _adds_up(everywhere.report, stars.num_rows)
    separation = everywhere.compute()["separation"]
    assert len(everywhere) == stars.num_rows
    assert found["matched"] == len(separation) - separation.null_count >= 109_000

    in_two_fields = hipparcos.crossmatch(cut[0], radius=HALF_ARCSEC).write(tmp_path / "fields")
    part = _adds_up(in_two_fields.report, stars.num_rows)
    assert part["matched"] == len(in_two_fields) > 1000
    assert part["out_of_coverage"] > 100_000
    assert part["unmatched"] < 1000
