import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from distributed import Client, LocalCluster

import sciplat
from sciplat import config
from sciplat.errors import TaskTooLarge
from sciplat.sky.cell import Cell
from sciplat.tasks.memory import plan_work
from sciplat.tasks.quote import Cost
from sciplat.tasks.task import without_tally
from sciplat.tasks.workers import look_at_workers, resident_memory
from tests.tasks.peak import CASES, CELL, DEC, INPUTS, RA, photometry, positions, write_catalog

ROOT = Path(__file__).parents[2]
WORKER = 600e6  # bytes of a worker that has too little memory


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Return what writes the inputs of a case once; all are removed in the end."""
    folder = tmp_path_factory.mktemp("inputs")

    def folder_of(name, size):
        made = folder / f"{name}-{size}"
        if not made.exists():
            made.mkdir()
            INPUTS[name](made, size)
        return made

    yield folder_of
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def table():
    """Collect what was measured, for people who run this with -s."""
    lines = [f"{'':26}projected   measured   ratio"]
    yield lines
    print("\n" + "\n".join(lines))


@pytest.mark.parametrize("name", CASES)
def test_no_task_grows_beyond_its_projection(name, inputs, table):
    """In a process that is warm; none is projected at more than twice of what it takes either."""
    case = CASES[name]
    folders = [inputs(case.inputs, size) for size in (case.warm, case.size)]
    command = [sys.executable, "-m", "tests.tasks.peak", name, *map(str, folders)]
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    for folder in folders:
        shutil.rmtree(folder / "result")
    measured = json.loads(ran.stdout)
    projected, grown = measured["projected"], measured["grown"]
    table.append(f"{name:26}{projected / 1e6:6.0f} MB {grown / 1e6:7.0f} MB {grown / projected:7.2f}")
    assert measured["rows"] > 0
    assert projected >= 200e6
    assert 0.5 * projected <= grown <= 1.2 * projected


def cost_of(rows_at):
    """Return a cost of one byte for each of some rows."""

    def cost(cell):
        rows = sum(cell.start <= index < cell.stop for index in rows_at)
        return Cost(read=1, rows=rows, memory=rows, seconds=rows)

    return cost


def test_what_fits_is_not_cut():
    cells = [Cell(1, 3), Cell(2, 20)]
    work = plan_work(cells, cost_of([cells[0].start, cells[1].start]), limit=1)
    assert [work.cell(n) for n in range(len(work))] == cells
    assert (work.cells, work.total) == (2, Cost(read=2, rows=2, memory=1, seconds=2))
    assert len(plan_work(cells, cost_of([cells[0].start] * 9))) == 2  # nobody knows a limit


def test_parts_tile_the_cell_in_the_order_of_the_sky():
    rng = np.random.default_rng(0)
    cells = [Cell(1, 2), Cell(1, 3), Cell(2, 20)]
    rows = [int(index) for cell in cells for index in rng.integers(cell.start, cell.stop, 40)]
    work = plan_work(cells, cost_of(rows), limit=12)
    ranges = work.ranges
    assert len(work) > work.cells == 3
    assert (ranges[1:, 0] >= ranges[:-1, 1]).all()
    for cell in cells:
        parts = ranges[(ranges[:, 0] >= cell.start) & (ranges[:, 1] <= cell.stop)]
        assert (parts[0, 0], parts[-1, 1]) == (cell.start, cell.stop)
        assert (parts[1:, 0] == parts[:-1, 1]).all()
    assert (work.total.rows, work.total.seconds, work.total.read) == (120, work.seconds.sum(), len(work))
    assert work.total.memory == work.seconds.max() <= 12


def test_the_parts_are_the_coarsest_that_fit():
    cell = Cell(1, 2)
    last = cell.children[3]
    rows = [child.start for child in cell.children[:3]] + [child.start for child in last.children]
    work = plan_work([cell], cost_of(rows), limit=3)
    assert [work.cell(n) for n in range(len(work))] == [*cell.children[:3], *last.children]


def test_rows_at_one_place_cannot_be_cut():
    cell = Cell(5, 1284)
    with pytest.raises(TaskTooLarge, match="scan of cell 5/1284 needs about 20 B") as caught:
        plan_work([cell], cost_of([cell.start] * 20), limit=10, what="scan")
    assert "10 B" in caught.value.found
    assert "memory" in caught.value.hint


def repeated(rows):
    """Return the rows with 20 columns of few values: much memory, few bytes on the disk."""
    for number in range(20):
        rows = rows.append_column(f"c{number}", pa.array(np.arange(rows.num_rows) % 100 * 1.5 + number))
    return rows


@pytest.fixture(scope="module")
def large_cell(tmp_path_factory):
    """A catalog of one cell, two rows for each source; nesting it takes three times the memory of a worker."""
    folder = tmp_path_factory.mktemp("large")
    write_catalog(folder / "catalog", repeated(positions(2_000_000).take(pa.array(np.arange(4_000_000) // 2))))
    yield sciplat.open_catalog(folder / "catalog")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def pile(tmp_path_factory):
    """A catalog of very many rows at one position."""
    folder = tmp_path_factory.mktemp("pile")
    rows = positions(1).take(pa.array(np.zeros(3_000_000, np.int64)))
    write_catalog(folder / "catalog", repeated(rows))
    yield sciplat.open_catalog(folder / "catalog")
    shutil.rmtree(folder)


@pytest.fixture
def little_memory(monkeypatch):
    """Let the one thread of this process have 250 MB."""
    monkeypatch.setenv("SCIPLAT_MEMORY", str(int(resident_memory() + 250e6)))
    monkeypatch.setenv("SCIPLAT_THREADS", "1")
    config.settings.cache_clear()
    yield
    monkeypatch.undo()
    config.settings.cache_clear()


@pytest.fixture
def small_worker():
    """A cluster of one worker with too little memory."""
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, memory_limit=int(WORKER), host="127.0.0.1", dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def gathered(catalog):
    """Return a plan that reads, cuts out and gathers."""
    region = sciplat.Box((f"{RA - 1} deg", f"{RA + 1} deg"), (f"{DEC - 0.45} deg", f"{DEC + 1} deg"))
    return catalog.within(region).nest("source_id", ["c0", "c19"])


def check_cut(plan, folder):
    """Write a plan of one cell that does not fit, and compare it with what comes of the cell in one piece."""
    assert plan.cells == [CELL]
    assert plan.node.cost(CELL).memory > 3 * WORKER > 3 * look_at_workers()[1]
    result = plan.write(folder / "result")
    assert result.report["cells"] > 4
    assert result.report["retried"] == 0
    assert result.compute().equals(plan.node.task(CELL).run())


def test_a_cell_three_times_the_memory_is_cut(large_cell, little_memory, tmp_path):
    check_cut(gathered(large_cell), tmp_path)


def test_a_cell_three_times_the_worker_s_memory_is_cut_and_no_worker_ends(large_cell, small_worker, tmp_path):
    before = small_worker.run(os.getpid)
    check_cut(gathered(large_cell), tmp_path)
    assert small_worker.run(os.getpid) == before


def test_images_larger_than_the_memory_are_read_in_windows(inputs, little_memory, tmp_path):
    plan = photometry(inputs("large", 4096))
    assert max(plan.node.cost(cell).memory for cell in plan.cells) > 500e6
    rows = plan.write(tmp_path / "result").compute()
    assert rows.num_rows == 2000
    assert rows.equals(pa.concat_tables(plan.node.task(cell).run() for cell in plan.cells))


def test_a_match_of_too_many_pairs_is_cut(inputs, little_memory, tmp_path):
    plan = CASES["crossmatch, all"].plan(inputs("dense", 10_000))
    quote = plan.explain()
    assert quote.cells == 1
    assert quote.tasks >= 4
    result = plan.write(tmp_path / "result")
    assert result.report["cells"] == quote.tasks
    assert result.compute().equals(without_tally(plan.node.task(CELL).run())[0])
    told = result.report["completeness"]
    assert (told["rows"], told["matched"]) == (10_000, 10_000)


def refused(plan, what, folder):
    """Check that a plan is refused before anything runs, and nothing is left behind."""
    with pytest.raises(TaskTooLarge, match=f"{what} of cell 3/300.* needs about .* on one worker") as caught:
        plan.write(folder / "result")
    assert "for each thread" in caught.value.found
    assert "more memory" in caught.value.hint
    assert not (folder / "result").exists()


def test_rows_at_one_place_are_refused_before_anything_runs(pile, little_memory, tmp_path):
    refused(pile, "scan", tmp_path)


@pytest.mark.parametrize("radius", ["1 mas", "1 arcsec", "10 deg"])
def test_all_pairs_of_a_pile_are_refused_and_its_nearest_ones_are_not(pile, little_memory, tmp_path, radius):
    places = pile.select("source_id").sample(0.1)
    refused(places.crossmatch(places, radius=radius, find="all"), "crossmatch", tmp_path)
    refused(places.crossmatch(places, radius=radius, neighbours=1000), "crossmatch", tmp_path)
    assert places.crossmatch(places, radius=radius, how="anti").explain().memory < 250e6


def test_rows_at_one_place_are_refused_before_a_worker_gets_them(pile, small_worker, tmp_path):
    before = small_worker.run(os.getpid)
    refused(pile, "scan", tmp_path)
    assert small_worker.run(os.getpid) == before


def test_a_window_that_is_too_large_is_refused_before_anything_runs(inputs, little_memory, tmp_path):
    images = sciplat.open_images(inputs("large", 4096) / "images")
    plan = images.photometry(sciplat.open_catalog(inputs("large", 4096) / "catalog"), radii=["1000 pix"])
    with pytest.raises(TaskTooLarge, match=r"photometry of cell .* needs about .* on one worker"):
        plan.write(tmp_path / "result")
    assert not (tmp_path / "result").exists()
