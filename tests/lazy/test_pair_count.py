import numpy as np
import pyarrow as pa
import pytest
from scipy.spatial import cKDTree

from sciplat.lazy import pair_count as module
from sciplat.lazy.pair_count import pair_count
from sciplat.sky.cell import Cell, healpix_29, positions_29
from sciplat.sky.frame import ra_dec, rotated, rotation, unit_vectors
from tests.match_scene import publish

ROWS = 20_000
RA, DEC = 150.0, 10.0
RADII = [1 / 3600, 10 / 3600, 60 / 3600, 0.3, 2.0, 10.0]
ORDERS = [1, 5, 7]
FEWEST = 50  # pairs of a cell of which half can be told
KNOWN = 200  # rows of a cell: densities go by steps of 20


def evenly(rng, rows=ROWS):
    return rng.uniform(-1, 1, (rows, 2))


def clustered(rng):
    """Return 30 clusters of 7 arcsec."""
    places = np.random.default_rng(1).uniform(-1, 1, (30, 2))
    return np.repeat(places, ROWS // 30, axis=0) + rng.normal(0, 2e-3, (ROWS // 30 * 30, 2))


def towards_the_middle(rng):
    return rng.normal(0, 0.1, (ROWS, 2))


def pile(rng):
    """Return rows within a few mas."""
    return rng.normal(0, 1e-6, (ROWS, 2))


def pile_among_others(rng):
    """Return as many rows at one place as in four square degrees around it."""
    return np.concatenate([evenly(rng, ROWS // 2), np.zeros((ROWS // 2, 2))])


def catalog(folder, offsets, ra=RA, dec=DEC):
    """Write rows around a place; return the plan that reads them, and their positions and indices."""
    dec = dec + offsets[:, 1]
    ra = (ra + offsets[:, 0] / np.cos(np.radians(dec))) % 360
    index = healpix_29(ra, dec)
    order = np.argsort(index, kind="stable")
    table = pa.table({"_healpix_29": index[order], "ra": ra[order], "dec": dec[order]})
    return publish(folder, table).node, unit_vectors(ra[order], dec[order]), index[order]


def brute_force(left, right, radius):
    chord = 2 * np.sin(np.radians(radius) / 2)
    return int(cKDTree(left).count_neighbors(cKDTree(right), chord * (1 + 1e-12))) if len(left) else 0


def within_a_factor(cells, left, right, radius, there=None, most=5):
    """Check the count in those cells of which the density of the left rows tells anything; return the pairs there."""
    (mine, places, index), (its, others, _) = left, right
    told = 0
    for cell in cells:
        first, last = np.searchsorted(index, [cell.start, cell.stop])
        true = brute_force(places[first:last], others, radius)
        if last - first >= KNOWN and true >= FEWEST:
            count = pair_count(mine, its, cell, radius, float(len(others)), there)
            assert 0.5 * true <= min(count, (last - first) * len(others)) <= most * true, (cell, count, true)
            told += true
    return told


def some_cells(rng, index, order):
    """Return the cells of some rows."""
    return [Cell(order, int(cell)) for cell in np.unique(rng.choice(index, 4) >> 2 * (29 - order))]


@pytest.mark.parametrize("spread", [evenly, clustered, towards_the_middle, pile, pile_among_others])
def test_pairs_are_counted_within_a_factor(tmp_path, spread):
    """For any radius, from cells far larger than it to such that are far smaller."""
    rng = np.random.default_rng(3)
    left, right = catalog(tmp_path / "left", spread(rng)), catalog(tmp_path / "right", spread(rng))
    told, most = 0, 8 if spread is pile_among_others else 5  # it counts for cells beside it, as if within reach
    for radius in RADII:
        for order in ORDERS:
            told += within_a_factor(some_cells(rng, left[2], order), left, right, radius, most=most) >= FEWEST
    assert told >= 14


@pytest.mark.parametrize(("ra", "dec"), [(45.0, 0.0), (0.0, 41.8103), (0.0, 90.0), (180.0, -90.0)])
def test_a_cluster_on_the_corner_of_cells_is_seen_from_each_of_them(tmp_path, ra, dec):
    """At the corners of the largest cells, where three or four of them meet: only a part of it lies in each."""
    rng = np.random.default_rng(4)
    offsets = rng.normal(0, 1e-3, (ROWS, 2))
    if abs(dec) == 90:  # offsets in right ascension mean nothing there
        offsets = np.stack([rng.uniform(0, 360, ROWS), -np.sign(dec) * np.abs(offsets[:, 1])], axis=1)
        offsets[:, 0] *= np.cos(np.radians(dec + offsets[:, 1]))
    left, right = (catalog(tmp_path / name, offsets[half::2], ra, dec) for half, name in enumerate(("left", "right")))
    faces = [Cell(0, int(face)) for face in np.unique(left[2] >> 58)]
    assert len(faces) >= 2
    for radius in (1 / 3600, 5 / 3600, 60 / 3600, 1.0):
        assert within_a_factor(faces, left, right, radius) > FEWEST


def test_a_pile_beside_the_cell_counts(tmp_path):
    """All right rows lie just across the border of the cell of the left ones."""
    ra, dec = positions_29(np.array([Cell(5, 4000).start]))
    offsets = {"west": [-1e-6, 0.0], "east": [1e-6, 0.0]}
    west, east = (catalog(tmp_path / name, np.tile(by, (1000, 1)), ra, dec) for name, by in offsets.items())
    cells = [Cell(5, int(side[2][0] >> 48)) for side in (west, east)]
    assert cells[0] != cells[1]
    assert pair_count(west[0], east[0], cells[0], 1 / 3600, 1000.0) == pytest.approx(1e6, rel=0.01)
    assert pair_count(east[0], west[0], cells[1], 1 / 3600, 1000.0) == pytest.approx(1e6, rel=0.01)


def test_rows_of_the_finest_cell_count_as_one_place(tmp_path):
    left, right = (catalog(tmp_path / name, np.zeros((3000, 2))) for name in ("left", "right"))
    cell = Cell(3, int(left[2][0] >> 52))
    assert pair_count(left[0], right[0], cell, 1e-9, 3000.0) == pytest.approx(9e6, rel=0.01)


def test_places_of_another_frame_are_looked_up_there(tmp_path):
    rng = np.random.default_rng(5)
    matrix = rotation("icrs", "galactic")
    left, right = catalog(tmp_path / "left", clustered(rng)), catalog(tmp_path / "right", clustered(rng))
    ra, dec = ra_dec(rotated(right[1], matrix))
    index = healpix_29(ra, dec)
    order = np.argsort(index, kind="stable")
    table = pa.table({"_healpix_29": index[order], "ra": ra[order], "dec": dec[order]})
    turned = publish(tmp_path / "turned", table, frame="galactic").node

    def there(index):
        return healpix_29(*ra_dec(rotated(unit_vectors(*positions_29(index)), matrix)))

    for radius in RADII[:4]:
        cells = some_cells(rng, left[2], 5)
        assert within_a_factor(cells, left, (turned, right[1], None), radius, there) > FEWEST


def test_a_dense_cell_of_very_many_parts_is_not_looked_at_for_ever(tmp_path, monkeypatch):
    rng = np.random.default_rng(6)
    monkeypatch.setattr(module, "_MOST_PARTS", 64)
    left, right = catalog(tmp_path / "left", evenly(rng)), catalog(tmp_path / "right", evenly(rng))
    asked = []

    class Counting:
        def rows_in(self, ranges):
            asked.append(len(ranges))
            return left[0].rows_in(ranges)

    cell = Cell(3, int(left[2][ROWS // 2] >> 52))
    assert pair_count(Counting(), right[0], cell, 1 / 3600, float(ROWS)) > 0
    assert max(asked) <= 64
