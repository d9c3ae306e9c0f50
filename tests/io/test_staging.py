import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sciplat
from sciplat.errors import StoreCorrupt
from sciplat.io.catalog_writer import CatalogWriter
from sciplat.io.staging import CellRecord, Staging, staging_areas
from sciplat.io.storage import LocalStorage, open_storage, sha256
from sciplat.sky.cell import Cell, cell_ranges
from tests.plan_scene import SCHEMA, stars
from tests.sky_scene import WHOLE_SKY
from tests.strategies import partitions

PLAN = {"op": "scan", "digest": "00"}
PROPERTIES = {"position": ["ra", "dec"], "id": "source_id", "kind": "sources", "frame": "icrs", "epoch": None}
PROPERTIES |= {"rows_per_cell": 1000}


def staged(storage, mark="a" * 64):
    staging = Staging(storage, mark)
    staging.begin(PLAN)
    return staging


def write(staging, cell, table=None, rows_per_cell=1000, tally=None):
    """Write one cell and return its record, which is not committed yet."""
    table = stars() if table is None else table
    index = table["_healpix_29"].to_numpy()
    first, last = np.searchsorted(index, [cell.start, cell.stop])
    rows = table.slice(first, last - first)
    return CellRecord(cell, rows.num_rows, 0.25, staging.write(cell, rows, rows_per_cell), tally)


def cells_of(done):
    return [Cell(int(order), int(index)) for order, index in zip(done.cells["order"], done.cells["index"], strict=True)]


def published(storage, staging, done):
    """Make a version of what is done."""
    writer = CatalogWriter.begin(storage, PROPERTIES)
    return writer.publish(SCHEMA, staging.link(writer.folder, done))


@pytest.fixture(params=["local", "memory"])
def storage(request, tmp_path):
    return open_storage(tmp_path / "store" if request.param == "local" else f"memory://{tmp_path.name}/store")


def test_a_record_makes_cells_done_and_nothing_else_does(storage):
    staging = staged(storage)
    record = write(staging, Cell(0, 4))
    assert not staging.is_begun
    assert len(staging.done().cells) == 0
    staging.commit([record])
    assert staging.is_begun
    done = staging.done()
    assert cells_of(done) == [Cell(0, 4)]
    assert (done.rows, done.seconds) == (record.rows, 0.25)
    assert done.reports[0].files == record.report.files


def test_a_published_version_has_the_rows_of_all_cells(storage):
    staging = staged(storage)
    staging.commit([write(staging, cell, rows_per_cell=20) for cell in WHOLE_SKY[:6]])
    staging.commit([write(staging, cell, rows_per_cell=20) for cell in WHOLE_SKY[6:]])
    published(storage, staging, staging.done())
    catalog = sciplat.open_catalog(storage.url)
    assert catalog.compute().equals(stars())
    assert max(entry.file.rows for entry in catalog.store.entries) <= 20
    staging.remove()
    assert storage.names(".staging") == []
    assert sciplat.open_catalog(storage.url).compute().equals(stars())


@settings(max_examples=25)
@given(partitions(max_splits=6, max_order=3), partitions(max_splits=6, max_order=3), st.randoms())
def test_what_is_done_twice_or_in_parts_resolves_to_disjoint_cells(tmp_path_factory, one, other, random):
    """As after two runs whose cells were cut differently because their memory was not the same."""
    staging = staged(LocalStorage(tmp_path_factory.mktemp("staging")))
    cells = [*one, *other]
    random.shuffle(cells)
    table = stars(4)
    for first in range(0, len(cells), 7):
        staging.commit([write(staging, cell, table) for cell in cells[first : first + 7]])
    done = staging.done()
    ranges = done.ranges
    assert (ranges[1:, 0] == ranges[:-1, 1]).all()
    assert (ranges[0, 0], ranges[-1, 1]) == (0, 12 << 58)
    assert done.rows == table.num_rows
    assert sum(file.rows for report in done.reports for file in report.files) == table.num_rows
    largest = {(each.start, each.stop) for each in cells}
    assert {tuple(pair) for pair in ranges.tolist()} <= largest


def test_cells_without_rows_are_done_too(storage):
    staging = staged(storage)
    empty = [Cell(9, 77), Cell(9, 78)]
    staging.commit([write(staging, cell, stars(4)) for cell in empty])
    done = staging.done()
    assert cells_of(done) == empty
    assert (done.rows, done.reports) == (0, [])
    assert np.array_equal(done.ranges, cell_ranges(empty))


def told(rows, matched=0):
    return {"completeness": {"rows": rows, "matched": matched}}


def test_what_cells_tell_is_summed(storage):
    """Those without rows tell something too, and some tell nothing."""
    staging = staged(storage)
    assert staging.done().tally == {}
    staging.commit([write(staging, Cell(9, 77), tally=told(0, 0)), write(staging, Cell(0, 4), tally=told(5, 2))])
    staging.commit([write(staging, Cell(0, 5)), write(staging, Cell(0, 6), tally={"other": {"rows": 7}})])
    staging.commit([write(staging, Cell(0, 7), tally={"completeness": {"rows": 10**15, "unmatched": 3}})])
    total = {"rows": 10**15 + 5, "matched": 2, "unmatched": 3}
    assert staging.done().tally == {"completeness": total, "other": {"rows": 7}}


def test_cells_that_are_done_twice_or_in_parts_tell_it_once(storage):
    staging = staged(storage)
    cell = Cell(0, 4)
    parts = [write(staging, part, tally=told(10, 1)) for part in cell.children]
    staging.commit(parts[:2])
    assert staging.done().tally == told(20, 2)
    staging.commit([write(staging, cell, tally=told(40, 4))])
    staging.commit(parts[2:], "bundle")
    staging.commit([write(staging, cell, tally=told(40, 4))], "bundle")  # of this name there is one already
    assert cells_of(staging.done()) == [cell]
    assert staging.done().tally == told(40, 4)


def test_a_cell_whose_files_are_gone_tells_nothing(storage):
    staging = staged(storage)
    lost = write(staging, Cell(0, 4), tally=told(40, 4))
    staging.commit([lost, write(staging, Cell(0, 5), tally=told(2, 1))])
    for file in lost.report.files:
        storage.remove(file.path)
    assert staging.done().tally == told(2, 1)


def test_records_without_tallies_are_read(tmp_path):
    """Those of cells that tell nothing."""
    staging = staged(LocalStorage(tmp_path))
    staging.commit([write(staging, Cell(0, 4)), write(staging, Cell(9, 77))])
    (path,) = (tmp_path / staging.folder).glob("done-*.json")
    body = json.loads(path.read_text())
    assert set(body) == {"sha256", "cells", "reports"}
    assert body["sha256"] == sha256(json.dumps([body["cells"], body["reports"]], sort_keys=True).encode())
    staging.commit([write(staging, Cell(0, 5), tally=told(2, 1))])
    assert cells_of(staging.done()) == [Cell(9, 77), Cell(0, 4), Cell(0, 5)]
    assert staging.done().tally == told(2, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["tallies"]["0"]["completeness"].update(rows=41),
        lambda body: body["tallies"].update({"1": body["tallies"]["0"]}),
        lambda body: body.pop("tallies"),
        lambda body: body.update(tallies={}),
        lambda body: body.update(tallies=[]),
        lambda body: body.update(tallies=None),
    ],
)
def test_damaged_tallies_are_refused(tmp_path, change):
    staging = staged(LocalStorage(tmp_path))
    staging.commit([write(staging, Cell(0, 4), tally=told(40, 4)), write(staging, Cell(0, 5))])
    (path,) = (tmp_path / staging.folder).glob("done-*.json")
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))
    with pytest.raises(StoreCorrupt, match=rf"(?s){path.name}.*damaged.*restart=True"):
        staging.done()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-9],
        lambda data: b"",
        lambda data: b"\xff\xfe" + data,
        lambda data: b"[]",
        lambda data: b"{}",
        lambda data: data.replace(b"0.25", b"0.26"),
    ],
    ids=["cut", "empty", "bytes", "list", "nothing in it", "a number"],
)
def test_a_damaged_record_is_named(tmp_path, damage):
    staging = staged(LocalStorage(tmp_path))
    staging.commit([write(staging, Cell(0, 4))])
    (path,) = (tmp_path / staging.folder).glob("done-*.json")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreCorrupt, match=rf"(?s){path.name}.*damaged.*restart=True"):
        staging.done()


def test_the_plan_is_kept_once(storage):
    staging = Staging(storage, "b" * 64)
    assert staging.plan is None
    staging.begin(PLAN)
    staging.begin({"op": "another"})
    assert staging.plan == PLAN
    assert [area.plan for area in staging_areas(storage)] == [PLAN]


def test_two_runs_of_one_plan_do_not_meet(storage):
    """Both do all cells; their files have other names, and one of each stands."""
    first, second = staged(storage), staged(storage)
    for cell in WHOLE_SKY:
        first.commit([write(first, cell)])
        second.commit([write(second, cell)])
    done = first.done()
    assert cells_of(done) == WHOLE_SKY == cells_of(second.done())
    assert done.rows == stars().num_rows
    store = published(storage, first, done)
    assert sum(entry.file.rows for entry in store.entries) == stars().num_rows


def test_runs_of_two_plans_have_areas_of_their_own(storage):
    one, other = staged(storage, "a" * 64), staged(storage, "c" * 64)
    one.commit([write(one, Cell(0, 4))])
    assert not other.is_begun
    assert {area.folder for area in staging_areas(storage)} == {one.folder, other.folder}
    one.remove()
    assert [area.folder for area in staging_areas(storage)] == [other.folder]


def test_a_link_is_a_file_of_its_own(tmp_path):
    storage = LocalStorage(tmp_path)
    staging = staged(storage)
    staging.commit([write(staging, Cell(0, 4))])
    (report,) = staging.link("v1-x", staging.done())
    (file,) = report.files
    assert file.path.startswith("v1-x/dataset/")
    staging.remove()
    assert (tmp_path / file.path).stat().st_size == file.size


def test_removing_takes_what_its_runs_began_and_nothing_else(tmp_path):
    storage = LocalStorage(tmp_path)
    staging = staged(storage)
    for name in ("v2-mine", "v2-other", "v1-mine-too", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    (tmp_path / staging.folder / "log-mine.jsonl").write_text(json.dumps({"event": "started"}))
    staging.remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "v1-mine-too", "v2-other"]
    staging.remove()  # it is gone already


def test_a_cell_whose_files_are_gone_is_to_be_done_again(storage):
    staging = staged(storage)
    lost, kept = write(staging, Cell(0, 4)), write(staging, Cell(0, 5))
    staging.commit([lost, kept])
    for file in lost.report.files:
        storage.remove(file.path)
    assert cells_of(staging.done()) == [Cell(0, 5)]


def forged(record, folder):
    """Yield records that no run can have written, each with what is wrong."""
    file = record.report.files[0]
    elsewhere = replace(file, path="/etc/secret-0-4.parquet")
    beside = replace(file, path=f"{folder}/../secret-0-4.parquet")
    other_cell = replace(file, path=f"{folder}/abc-0-5.parquet")
    for bad in (elsewhere, beside, other_cell, replace(file, rows=file.rows - 1)):
        yield replace(record, report=replace(record.report, files=(bad,)))
    yield replace(record, report=replace(record.report, files=()))


def test_forged_records_are_refused(tmp_path):
    storage = LocalStorage(tmp_path)
    staging = staged(storage)
    record = write(staging, Cell(0, 4))
    for number, bad in enumerate(forged(record, staging.folder)):
        twin = staged(storage, f"{number}" * 64)
        twin.commit([bad])
        with pytest.raises(StoreCorrupt, match="damaged"):
            twin.done()
