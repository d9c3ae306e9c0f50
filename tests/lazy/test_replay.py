"""Bundles are run as they are used: by a fresh interpreter, elsewhere, after the stores are gone."""

import importlib
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

import sciplat
from sciplat import Cell, Cone
from sciplat.errors import ArgumentError, PlanChanged, StepError, StoreExists, StoreNotFound
from sciplat.lazy.replay import write_replay
from tests.plan_scene import COUNTED, SCHEMA, write_stars
from tests.sky_scene import WHOLE_SKY, sources, write_catalog, write_images

STEPS = """
from pathlib import Path

import numpy as np
import pyarrow as pa

NEAR = 1.5


def brighten(table):
    return table.set_column(table.schema.get_field_index("mag"), "mag", pa.array(table["mag"].to_numpy() - 1))


def count(table):
    lon, lat = (np.radians(table[name].to_numpy()) for name in ("ra", "dec"))
    v = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    near = ((v[:, np.newaxis] - v) ** 2).sum(axis=-1) <= np.radians(NEAR) ** 2
    kept = table if "neighbours" not in table.schema.names else table.drop_columns("neighbours")
    return kept.append_column("neighbours", pa.array(near.sum(axis=1), pa.int64()))


def fail_where_few(table):
    if table.num_rows == 1:
        raise ValueError("too few")
    return table
"""
KEEP = "\nimport sys, pyarrow.parquet\npyarrow.parquet.write_table(rows, sys.argv[1])\n"
FINE = [child for base in WHOLE_SKY for child in base.children]
ARGUMENTS = {"radii": ["4 pix", "10 arcsec"], "annulus": ("8 pix", "12 pix")}


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """Return the user's module; its folder is gone from the path when the bundle is run."""
    place = tmp_path / "project"
    (place / "survey" / "stages").mkdir(parents=True)  # without __init__.py: a namespace
    for path in ("replayed_steps.py", "survey/stages/measure.py"):
        (place / path).write_text(STEPS)
    (place / "packed").mkdir()
    (place / "packed" / "__init__.py").write_text("")
    (place / "packed" / "steps.py").write_text("from packed.limits import NEAR\n" + STEPS.replace("NEAR = 1.5", ""))
    (place / "packed" / "limits.py").write_text("NEAR = 1.5\n")
    monkeypatch.syspath_prepend(str(place))
    importlib.invalidate_caches()
    yield importlib.import_module("replayed_steps")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("replayed_steps", "survey", "packed")]:
        del sys.modules[name]


@pytest.fixture
def stores(tmp_path):
    """Return a folder of the stores that a plan reads."""
    write_stars(tmp_path / "stores" / "stars", FINE)
    return tmp_path / "stores"


@pytest.fixture(scope="module")
def fits_folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("scene") / "fits")


@pytest.fixture
def image_stores(stores, fits_folder):
    sciplat.ingest_images(fits_folder, stores / "images")
    write_catalog(stores / "sources", sources(), FINE)
    return stores


def photometry(folder):
    return sciplat.open_images(folder / "images").photometry(sciplat.open_catalog(folder / "sources"), **ARGUMENTS)


def stars(folder):
    return sciplat.open_catalog(folder / "stars")


def run_alone(bundle, tmp_path, *, gone=("stores", "project", "result")):
    """Return the rows of a bundle that was moved, run where nothing of the plan is left."""
    for name in gone:
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    moved, elsewhere = tmp_path / "moved", tmp_path / "elsewhere"
    shutil.move(bundle, moved)
    elsewhere.mkdir()
    with (moved / "replay.py").open("a") as script:
        script.write(KEEP)
    command = [sys.executable, moved / "replay.py", "rows.parquet"]
    shown = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("pyarrow.Table")
    return pq.read_table(moved / "rows.parquet")  # the script works in its own folder


def replayed(plan, cell, tmp_path):
    """Write a plan, replay one of its cells alone, and compare with the plan's task."""
    expected = plan.node.task(cell).run()
    plan.write(tmp_path / "result")
    bundle = write_replay(str(tmp_path / "result"), str(cell), str(tmp_path / "bundle"))
    rows = run_alone(bundle, tmp_path)
    assert rows.equals(expected)
    return rows


def test_a_scan_runs_alone(stores, tmp_path):
    plan = stars(stores).select("mag")
    assert replayed(plan, plan.cells[3], tmp_path).num_rows > 0


def test_a_cell_that_the_region_leaves_empty_runs_alone(stores, tmp_path):
    plan = stars(stores).within(Cone("0 deg", "90 deg", "0.001 arcsec"))
    tables = {cell: plan.node.task(cell).run() for cell in plan.cells}
    empty = next(cell for cell, table in tables.items() if not table.num_rows)
    assert replayed(plan, empty, tmp_path).num_rows == 0


@pytest.mark.parametrize("name", ["replayed_steps", "survey.stages.measure", "packed.steps"])
def test_a_function_is_taken_along(steps, stores, tmp_path, name):
    """Whether a module of its own, in a folder, or in a package with others."""
    step = importlib.import_module(name).count
    near = stars(stores).within(Cone("0 deg", "0 deg", "1 deg"))
    plan = near.map(step, schema=COUNTED, reach="1.5 deg", timeout=60 if name == "packed.steps" else None)
    cell = next(cell for cell in plan.cells if cell.index == 16)  # at RA = 0
    assert replayed(plan, cell, tmp_path)["neighbours"].to_numpy().max() > 3


def test_one_reach_after_another_runs_alone(steps, stores, tmp_path):
    """The same file is then read by several tasks, each for other surroundings."""
    once = stars(stores).map(steps.count, schema=COUNTED, reach="1.5 deg")
    plan = once.map(steps.count, schema=COUNTED, reach="1.5 deg")
    cell = next(cell for cell in plan.cells if cell.index == 16)
    replayed(plan, cell, tmp_path)


def test_a_part_of_a_cell_runs_alone(steps, stores, tmp_path):
    plan = stars(stores).map(steps.count, schema=COUNTED, reach="1.5 deg")
    whole = next(cell for cell in plan.cells if cell.index == 16)
    part = next(part for part in whole.children if plan.node.task(part).run().num_rows)
    replayed(plan, part, tmp_path)


def test_photometry_runs_alone(image_stores, tmp_path):
    plan = photometry(image_stores).nest("source_id", ["mjd", "flux_0"])
    assert replayed(plan, plan.cells[0], tmp_path).num_rows > 0


def test_a_function_that_looks_beyond_its_cell_gets_the_images_there(steps, stores, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.sky_scene.CENTRES", {"here": (0.0, 0.0), "there": (1.0, 0.0)})
    images = sciplat.ingest_images(write_images(tmp_path / "fits"), stores / "images")
    write_catalog(stores / "sources", sources(), FINE)
    flat = images.photometry(sciplat.open_catalog(stores / "sources"), **ARGUMENTS)
    schema = flat.schema.append(COUNTED.field("neighbours"))
    plan = flat.map(steps.count, schema=schema, reach="1.5 deg")
    cell = next(cell for cell in plan.cells if plan.node.task(cell).run().num_rows)
    assert flat.node.images_near(cell).num_rows == 1
    both = flat.compute().num_rows
    assert replayed(plan, cell, tmp_path)["neighbours"].to_pylist()[0] == both


def test_the_cell_at_which_a_plan_stopped_runs_alone(steps, stores, tmp_path):
    """There is no store yet, only what the run has left; the bundle fails as the plan did."""
    plan = stars(stores).map(steps.fail_where_few, schema=SCHEMA)
    with pytest.raises(StepError) as caught:
        plan.write(tmp_path / "result")
    cell = caught.value.what.partition("on cell ")[2].split()[0]
    bundle = write_replay(str(tmp_path / "result"), cell, str(tmp_path / "bundle"))
    shutil.rmtree(stores)
    done = subprocess.run(
        [sys.executable, bundle / "replay.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert 'raise ValueError("too few")' in done.stderr


def test_what_an_unfinished_run_does_comes_before_what_stands_there(steps, stores, tmp_path):
    url = str(tmp_path / "result")
    stars(stores).map(steps.brighten, schema=SCHEMA).write(url)
    with pytest.raises(StepError):
        stars(stores).map(steps.fail_where_few, schema=SCHEMA).write(url, replace=True)
    bundle = write_replay(url, "1/33", str(tmp_path / "bundle"))
    assert "fail_where_few" in (bundle / "plan.json").read_text()


def test_a_folder_that_exists_is_left_alone(stores, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stars(stores).select("mag").write("result")
    assert write_replay("result", "1/16") == tmp_path / "replay-1-16"
    with pytest.raises(StoreExists, match=r"replay-1-16 exists already"):
        write_replay("result", "1/16")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreExists):
        write_replay("result", "1/16", "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("cell", "message"),
    [("1/99", "1/99"), ("0/1", "no cell 0/1"), ("1", "'1' is no cell"), ("x/y", "is no cell"), ("1/-3", "is no cell"),
     ("40/3", "40"), ("²/3", "is no cell")],
)  # fmt: skip
def test_cells_that_are_not_of_the_plan_are_refused(stores, tmp_path, cell, message):
    stars(stores).select("mag").write(tmp_path / "result")
    with pytest.raises(ValueError, match=message):  # as all errors of arguments and regions are
        write_replay(str(tmp_path / "result"), cell, str(tmp_path / "bundle"))
    assert not (tmp_path / "bundle").exists()


def test_a_part_of_a_cell_without_an_image_is_refused(image_stores, tmp_path):
    plan = photometry(image_stores)
    plan.write(tmp_path / "result")
    parts = [part for cell in plan.cells for part in cell.children for part in part.children]
    empty = next(part for part in parts if not plan.node.images_near(part).num_rows)
    with pytest.raises(ArgumentError, match="no image touches"):
        write_replay(str(tmp_path / "result"), str(empty), str(tmp_path / "bundle"))
    assert not (tmp_path / "bundle").exists()


def test_what_cannot_be_repeated_is_refused(stores, tmp_path):
    stars(stores).map(lambda table: table, schema=SCHEMA).write(tmp_path / "result")
    with pytest.raises(PlanChanged, match="<lambda>"):
        write_replay(str(tmp_path / "result"), "1/16", str(tmp_path / "bundle"))
    with pytest.raises(StoreNotFound):
        write_replay(str(tmp_path / "nothing"), "1/16", str(tmp_path / "bundle"))
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_holds_no_more_than_the_cell_needs(stores, tmp_path):
    plan = stars(stores).select("mag")
    plan.write(tmp_path / "result")
    bundle = write_replay(str(tmp_path / "result"), "1/16", str(tmp_path / "bundle"))
    (copy,) = bundle.glob("catalog-*")
    rows = sciplat.open_catalog(copy)
    assert len(rows) == plan.node.task(Cell(1, 16)).run().num_rows < len(stars(stores))
    assert sorted(path.name for path in bundle.iterdir()) == [copy.name, "plan.json", "replay.py"]
