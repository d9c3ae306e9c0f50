import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import sciplat
from sciplat.errors import ArgumentError, IncompleteResult, PlanChanged, StepError, StoreExists, TaskFailed
from sciplat.io.verify import verify_files
from sciplat.lazy.fingerprint import fingerprint
from tests.conftest import required
from tests.plan_scene import COUNTED, SCHEMA, brighten, count_neighbours, keep_bright, stars, write_stars
from tests.sky_scene import WHOLE_SKY, sources, write_catalog, write_images

FINE = [child for base in WHOLE_SKY for child in base.children]
# lsdb and nested-pandas use what pandas 3 calls deprecated; the warnings are theirs
FOREIGN = [
    pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option is deprecated"),
    pytest.mark.filterwarnings("ignore:The inplace keyword in NestedFrame.drop is deprecated"),
]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    url = tmp_path_factory.mktemp("stars") / "stars"
    write_stars(url, FINE)
    return sciplat.open_catalog(url)


class Calls:
    """Counts the calls of `counted` in a file that SCIPLAT_TEST_CALLS names."""

    @staticmethod
    def number():
        path = Path(os.environ["SCIPLAT_TEST_CALLS"])
        return len(path.read_bytes()) if path.exists() else 0


def counted(table):
    with Path(os.environ["SCIPLAT_TEST_CALLS"]).open("ab") as file:
        file.write(b".")
    if table.num_rows == 1 and Path(os.environ["SCIPLAT_TEST_CALLS"] + ".broken").exists():
        raise ValueError("too few")
    return table


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Return a file; as long as it exists, `counted` fails on cells of one row, which come last."""
    monkeypatch.setenv("SCIPLAT_TEST_CALLS", str(tmp_path / "calls"))
    path = tmp_path / "calls.broken"
    path.touch()
    return path


def test_the_same_plan_again_returns_the_store_without_running(catalog, tmp_path, broken):
    broken.unlink()
    plan = catalog.map(counted, schema=SCHEMA)
    first = plan.write(tmp_path / "out")
    calls = Calls.number()
    assert calls == len(plan.cells)
    again = catalog.map(counted, schema=SCHEMA, timeout=100).write(tmp_path / "out")
    assert Calls.number() == calls
    assert again.store.manifest == first.store.manifest
    assert again.versions == [1]


def test_another_plan_is_told_what_stands_there(catalog, tmp_path):
    catalog.map(count_neighbours, schema=COUNTED, reach="1 deg").write(tmp_path / "out")
    with pytest.raises(StoreExists, match=r"(?s)made by another plan; reach of map: 1.0, now 2.0.*replace=True"):
        catalog.map(count_neighbours, schema=COUNTED, reach="2 deg").write(tmp_path / "out")
    with pytest.raises(StoreExists, match="the operation: map, now scan"):
        catalog.write(tmp_path / "out")
    described = COUNTED.set(5, COUNTED.field("neighbours").with_metadata({"description": "within 1 deg"}))
    with pytest.raises(StoreExists, match=r"schema of map: .*within 1 deg"):
        catalog.map(count_neighbours, schema=described, reach="1 deg").write(tmp_path / "out")
    assert sciplat.open_catalog(tmp_path / "out").versions == [1]


def test_what_was_ingested_is_not_written_over(catalog, tmp_path):
    write_stars(tmp_path / "stars", WHOLE_SKY)
    with pytest.raises(StoreExists, match=r"(?s)stands already.*replace=True \(--replace\)"):
        catalog.write(tmp_path / "stars")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(StoreExists, match=r"(?s)not empty.*notes.txt"):
        catalog.write(tmp_path / "mine")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["notes.txt"]


def test_a_new_version_keeps_the_old_one(catalog, tmp_path):
    first = catalog.map(brighten, schema=SCHEMA).write(tmp_path / "out")
    second = catalog.map(keep_bright, schema=SCHEMA).write(tmp_path / "out", replace=True)
    assert (first.versions, second.version, second.versions) == ([1, 2], 2, [1, 2])
    assert first.compute().equals(brighten(stars()))
    assert sciplat.open_catalog(tmp_path / "out", version=1).compute().equals(brighten(stars()))
    assert sciplat.open_catalog(tmp_path / "out").compute().equals(keep_bright(stars()))
    for store in (first, second):
        assert verify_files(store.store.storage, store.store.manifest) == []


def test_an_error_keeps_what_is_done_and_the_same_call_goes_on(catalog, tmp_path, broken):
    plan = catalog.map(counted, schema=SCHEMA)
    with pytest.raises(StepError, match=r"(?s)counted on cell 1/\d+ .*ValueError: too few") as caught:
        plan.write(tmp_path / "out")
    assert "in counted" in caught.value.traceback
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".staging"]
    with pytest.raises(sciplat.errors.StoreNotFound):
        sciplat.open_catalog(tmp_path / "out")
    done = Calls.number()
    broken.unlink()
    store = plan.write(tmp_path / "out")
    assert Calls.number() < done + len(plan.cells)
    assert store.compute().equals(stars())
    assert store.report["cells_of_this_run"] == Calls.number() - done
    assert not (tmp_path / "out" / ".staging").exists()
    whole = catalog.map(counted, schema=SCHEMA).write(tmp_path / "whole")
    assert store.store.manifest.digest == whole.store.manifest.digest


def test_an_unfinished_run_of_another_plan_is_not_mixed_in(catalog, tmp_path, broken):
    with pytest.raises(StepError):
        catalog.map(counted, schema=SCHEMA).write(tmp_path / "out")
    other = catalog.map(brighten, schema=SCHEMA)
    with pytest.raises(PlanChanged, match=r"(?s)the code of brighten.*restart=True \(--restart\)"):
        other.write(tmp_path / "out")
    store = other.write(tmp_path / "out", restart=True)
    assert store.compute().equals(brighten(stars()))
    assert not (tmp_path / "out" / ".staging").exists()


def test_restart_drops_what_was_done(catalog, tmp_path, broken):
    plan = catalog.map(counted, schema=SCHEMA)
    with pytest.raises(StepError):
        plan.write(tmp_path / "out")
    broken.unlink()
    store = plan.write(tmp_path / "out", restart=True)
    assert store.report["cells_of_this_run"] == store.report["cells"] == len(plan.cells)


def fail(table):
    raise ValueError("always")


def test_a_failing_function_leaves_its_plan_and_log_where_nothing_was_done(catalog, tmp_path):
    with pytest.raises(StepError, match="always"):
        catalog.map(fail, schema=SCHEMA).write(tmp_path / "out")
    left = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(name.partition("-")[0] for name in left) == ["log", "plan.json"]
    store = catalog.write(tmp_path / "out")
    before = sorted(path for path in (tmp_path / "out").rglob("*"))
    assert not (tmp_path / "out" / ".staging").exists()
    with pytest.raises(StepError, match="always"):
        catalog.map(fail, schema=SCHEMA).write(tmp_path / "out", replace=True)
    assert sorted(path for path in (tmp_path / "out").rglob("*") if ".staging" not in path.parts) == before
    assert store.compute().equals(stars())


def test_cells_that_fail_are_set_aside_and_tried_again_by_the_same_call(catalog, tmp_path, broken, monkeypatch):
    monkeypatch.setattr("sciplat.tasks.retry._FIRST_WAIT", 0.01)
    plan = catalog.map(counted, schema=SCHEMA)
    with pytest.warns(IncompleteResult, match="cells are missing"):
        partial = plan.write(tmp_path / "out", on_error="quarantine")
    aside = partial.report["quarantined"]
    assert 0 < len(aside) < len(plan.cells)
    assert all("too few" in error for cell, error in aside)
    missing = [plan.node.task(cell) for cell in plan.cells if str(cell) in dict(aside)]
    assert partial.compute().num_rows == stars().num_rows - sum(len(task.parts[0].run()) for task in missing)
    broken.unlink()
    whole = plan.write(tmp_path / "out")
    assert (whole.version, whole.report["quarantined"], whole.report["cells_of_this_run"]) == (2, [], len(aside))
    assert whole.compute().equals(stars())


def test_where_every_cell_fails_nothing_is_published(catalog, tmp_path, monkeypatch):
    monkeypatch.setattr("sciplat.tasks.retry._FIRST_WAIT", 0.01)
    with pytest.raises(StepError, match="always"):
        catalog.map(fail, schema=SCHEMA).write(tmp_path / "out", on_error="quarantine")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".staging"]


def test_what_follows_an_error_is_one_of_two_words(catalog, tmp_path):
    with pytest.raises(ArgumentError, match=r"(?s)on_error='ignore' is unknown.*quarantine"):
        catalog.write(tmp_path / "out", on_error="ignore")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_damaged_meanwhile_is_named(tmp_path):
    write_stars(tmp_path / "stars", FINE)
    catalog = sciplat.open_catalog(tmp_path / "stars")
    (tmp_path / "stars" / catalog.store.entries[0].file.path).write_bytes(b"PAR1")
    with pytest.raises((TaskFailed, sciplat.errors.StoreCorrupt), match=r"parquet is damaged"):
        catalog.select("mag").write(tmp_path / "out")


def test_a_result_tells_how_it_was_made(tmp_path):
    images = sciplat.ingest_images(write_images(tmp_path / "fits"), tmp_path / "images", citation="Doe 2025, images")
    table = sources().drop_columns("_healpix_29")
    catalog = sciplat.ingest_catalog(table, tmp_path / "catalog", citation="Roe 2024, catalog")
    plan = images.photometry(catalog, radii=["4 pix"])
    store = plan.write(tmp_path / "out")
    report = store.report
    assert (report["rows"], report["cells"]) == (len(store), len(plan.cells))
    assert (report["retried"], report["quarantined"]) == (0, [])
    assert set(report["quote"]) == {"read", "requests", "rows", "seconds", "memory"}
    assert report["actual"]["rows"] == len(store)
    assert report["actual"]["elapsed"] > 0
    told = json.dumps(store.provenance)
    for text in ("Doe 2025, images", "Roe 2024, catalog", str(tmp_path / "images"), str(tmp_path / "catalog")):
        assert text in told
    mark = fingerprint(plan.node.describe())
    assert store.provenance["entity"]["run:plan"]["sciplat:digest"] == mark
    assert json.loads(store.provenance["entity"]["run:plan"]["prov:value"]) == plan.node.describe()
    assert store.provenance["entity"]["run:result"]["sciplat:digest"] == store.store.manifest.digest
    curves = store.nest("source_id").write(tmp_path / "curves")
    assert "Doe 2025, images" in json.dumps(curves.provenance)  # what the measurements owe, the curves owe too
    assert (plan.report, plan.provenance, plan.versions, plan.version) == ({}, {}, [], None)


def library(name):
    if required("rivals"):
        return __import__(name, fromlist=["x"])
    return pytest.importorskip(name)


@pytest.fixture(scope="module")
def results(catalog, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    mapped = catalog.map(count_neighbours, schema=COUNTED, reach="2 deg").write(folder / "mapped")
    mapped.map(brighten, schema=COUNTED).write(folder / "mapped", replace=True)
    images = sciplat.ingest_images(write_images(folder / "fits"), folder / "images")
    write_catalog(folder / "sources", sources(), WHOLE_SKY, rows_per_cell=30)
    images.photometry(sciplat.open_catalog(folder / "sources"), radii=["4 pix"]).write(folder / "measured")
    return folder


@pytest.mark.parametrize("name", ["mapped", "measured"])
def test_hats_finds_what_the_engine_wrote_valid(results, name):
    hats = library("hats.io.validation")
    store = sciplat.open_catalog(results / name)
    assert hats.is_valid_catalog(results / name, strict=True)
    assert hats.is_valid_catalog(results / name / store.store.manifest.folder, strict=True)


class TestForeign:
    pytestmark = FOREIGN

    @pytest.mark.parametrize("name", ["mapped", "measured"])
    def test_lsdb_reads_the_rows_that_the_engine_wrote(self, results, name):
        frame = library("lsdb").open_catalog(results / name).compute()
        ours = sciplat.open_catalog(results / name).compute()
        names = [column for column in ours.schema.names if column != "_healpix_29"]
        theirs = pa.Table.from_pandas(frame[names], preserve_index=False)
        order = [(column, "ascending") for column in ("source_id", "image_id") if column in names]
        theirs, ours = theirs.sort_by(order), ours.select(names).sort_by(order)
        for column in names:
            assert theirs[column].combine_chunks().equals(ours[column].combine_chunks()), column


def move(table):
    return table.set_column(table.schema.get_field_index("ra"), "ra", pc.add(table["ra"], 0.5))


def test_rows_that_a_function_moves_are_refused(catalog, tmp_path):
    with pytest.raises(StepError, match="moved rows"):
        catalog.map(move, schema=catalog.schema).write(tmp_path / "out")


def leak(table):
    raise ValueError("GET https://alice:hunter2@archive.org/f?X-Amz-Signature=SECRET42 failed")


def test_no_secret_of_an_error_is_written_down(catalog, tmp_path):
    with pytest.raises(StepError):
        catalog.map(leak, schema=catalog.schema).write(tmp_path / "out")
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"https://archive.org/f failed" in written
    assert b"hunter2" not in written
    assert b"SECRET42" not in written


def test_a_link_in_the_place_of_a_staging_area_is_left_alone(catalog, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis").touch()
    (tmp_path / "out" / ".staging").mkdir(parents=True)
    (tmp_path / "out" / ".staging" / "0123456789abcdef").symlink_to(home)
    (tmp_path / "out" / ".staging" / "mydata").mkdir()
    catalog.select("mag").write(tmp_path / "out", restart=True)
    assert (home / "thesis").exists()
    assert (tmp_path / "out" / ".staging" / "mydata").exists()
