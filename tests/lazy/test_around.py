"""Which cells of another catalog a task reads, and that it can be sent."""

import pickle

import numpy as np
import pyarrow as pa
import pytest

from sciplat.lazy.around import cells_around
from sciplat.sky.cell import Cell, cell_ranges, positions_29
from sciplat.sky.coverage import Coverage
from sciplat.sky.surroundings import surroundings
from tests.match_scene import fixed_scene, publish, publish_scene


class Cells:
    """A plan of which only the cells count."""

    def __init__(self, cells):
        self.cells = cells


@pytest.fixture(scope="module")
def many():
    """Return 50,000 cells of mixed orders, with gaps, in the order of the sky."""
    rng = np.random.default_rng(2)
    cells = []
    for index in range(12 * 4**6):
        kind = rng.integers(0, 4)
        if kind == 1:
            cells.append(Cell(6, index))
        elif kind > 1:
            cells += [Cell(7, 4 * index + child) for child in range(4) if rng.random() < 0.4 * kind - 0.2]
    return cells


def test_the_cells_around_a_place_are_all_that_touch_it(many):
    assert len(many) > 50_000
    ranges, node = cell_ranges(many), Cells(many)
    for home in (many[0], many[1234], many[-1], Cell(3, 100), Cell(12, 7_000_000)):
        for reach in (1e-6, 0.1, 3.0):
            around = surroundings(home, reach)
            found = cells_around(node, ranges, around)
            inside = (ranges[:, :1] < around.ranges[:, 1]) & (ranges[:, 1:] > around.ranges[:, 0])
            assert found == [many[place] for place in np.flatnonzero(inside.any(axis=1)).tolist()]
            assert home not in many or home in found


def test_around_nothing_are_no_cells(many):
    ranges = cell_ranges(many)
    assert cells_around(Cells(many), ranges, Coverage.from_cells([])) == []
    assert cells_around(Cells([]), cell_ranges([]), surroundings(Cell(3, 5), 1.0)) == []


def test_a_task_can_be_a_key_and_be_sent(tmp_path):
    left, right = publish_scene(tmp_path, fixed_scene())
    plan = left.crossmatch(right, radius="1 arcsec")
    cell = plan.cells[0]
    task = plan.node.task(cell)
    assert {task: 1}[task] == 1
    again = pickle.loads(pickle.dumps(task))
    assert again.run().equals(task.run())
    assert task.run().num_rows > 0


def test_a_task_reads_only_what_is_around_its_cell(tmp_path):
    """The right catalog has a cell in every part of the sky: few of them belong to one task."""
    cells = [Cell(2, index) for index in range(12 * 4**2)]
    index = np.array([cell.start + 3 * (cell.stop - cell.start) // 4 for cell in cells])
    ra, dec = positions_29(index)
    table = pa.table({"_healpix_29": index, "star": np.arange(len(ra)), "ra": ra, "dec": dec})
    catalog = publish(tmp_path / "sky", table, cells)
    plan = catalog.crossmatch(catalog, radius="1 arcsec")
    assert len(plan.cells) == len(cells)
    counts = {len(plan.node.task(cell).right) for cell in plan.cells[::20]}
    assert max(counts) <= 9
