"""Removing what no version needs: leftovers by their age, old versions on request, and never anything else."""

import importlib
import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import sciplat
from sciplat.errors import ArgumentError, StoreCorrupt, StoreNotFound
from sciplat.io import gc
from sciplat.io.catalog_writer import CatalogWriter
from sciplat.io.cell_report import CellReport
from sciplat.io.gc import DAY, collect_garbage
from sciplat.io.hats import COLLECTION, parse_properties
from sciplat.io.publish import read_manifest, version_numbers
from sciplat.io.staging import CellRecord, Staging
from sciplat.io.storage import LocalStorage, open_storage
from sciplat.lazy.catalog import Catalog
from sciplat.sky.cell import Cell
from tests.conftest import required
from tests.plan_scene import stars, write_stars
from tests.sky_scene import WHOLE_SKY, write_images

PROPERTIES = {"position": ["ra", "dec"], "id": "source_id", "kind": "sources", "frame": "icrs", "epoch": None}
PROPERTIES |= {"rows_per_cell": 50}


def rival(name):
    """Return a module that reads what is left; under CI it must be there."""
    return importlib.import_module(name) if required("rivals") else pytest.importorskip(name)


def publish(storage):
    """Make the first version of a catalog."""
    writer, rows = CatalogWriter.begin(storage, PROPERTIES), stars()
    bounds = np.searchsorted(rows["_healpix_29"].to_numpy(), [cell.start for cell in WHOLE_SKY] + [WHOLE_SKY[-1].stop])
    parts = [rows.slice(first, last - first) for first, last in pairwise(bounds.tolist())]
    reports = [writer.cells.write(cell, part, 50) for cell, part in zip(WHOLE_SKY, parts, strict=True)]
    return Catalog.of_store(writer.publish(rows.schema, reports))


@pytest.fixture(params=["local", "memory"])
def storage(request, tmp_path):
    return open_storage(tmp_path / "store" if request.param == "local" else f"memory://{tmp_path.name}/store")


@pytest.fixture
def versions(tmp_path):
    """Publish three versions of a catalog; return its storage."""
    write_stars(tmp_path / "input", WHOLE_SKY)
    source = sciplat.open_catalog(tmp_path / "input")
    for columns in (["mag"], [], ["mag", "source_id"]):
        source.select(*columns).write(tmp_path / "store", replace=True)
    return LocalStorage(tmp_path / "store")


def age(storage, path, seconds):
    """Let all below a path look as if nobody had touched it for a while."""
    place, then = storage.at(path), time.time() - seconds
    for each in [*place.rglob("*"), place]:
        os.utime(each, (then, then), follow_symlinks=False)


def killed_run(storage, mark="c" * 64):
    """Leave what a run leaves that is killed while it links its cells into a version; return the paths."""
    staging = Staging(storage, mark)
    staging.begin({"op": "scan"})
    index = stars()["_healpix_29"].to_numpy()
    first, last = np.searchsorted(index, [Cell(0, 4).start, Cell(0, 4).stop])
    report = staging.write(Cell(0, 4), stars().slice(first, last - first), 1000)
    staging.commit([CellRecord(Cell(0, 4), report.files[0].rows, 0.1, report)])
    writer = uuid.uuid4().hex[:12]
    storage.write(staging.log_path(writer), b"{}\n")
    folder = f"v9-{writer}"
    staging.link(folder, staging.done())
    return folder, staging.folder


def names(removed):
    return {each.path for each in removed}


def test_a_store_without_garbage_stays_as_it_is(storage):
    catalog = publish(storage)
    before = storage.files("")
    assert collect_garbage(storage, grace=0.0) == []
    assert collect_garbage(storage, grace=0.0, keep=1) == []
    assert storage.files("") == before
    assert sciplat.open_catalog(storage.url).compute().equals(catalog.compute())


def test_leftovers_go_when_they_are_old_enough(storage):
    rows = publish(storage).compute()
    before = storage.files("")
    folder, area = killed_run(storage)
    assert collect_garbage(storage) == []
    planned = collect_garbage(storage, grace=0.0, dry_run=True)
    assert [(each.path, each.why) for each in planned] == [(folder, "never published"), (area, "unfinished run")]
    assert set(storage.files("")) > set(before)
    assert collect_garbage(storage, grace=0.0) == planned
    assert storage.files("") == before
    assert sciplat.open_catalog(storage.url).compute().equals(rows)


def test_the_bytes_that_are_freed_are_those_that_no_other_name_keeps(tmp_path):
    storage = LocalStorage(tmp_path / "store")
    publish(storage)
    folder, _ = killed_run(storage)

    def used():
        inodes = {path.stat().st_ino: path.stat().st_size for path in storage.root.rglob("*") if path.is_file()}
        return sum(inodes.values())

    before, removed = used(), collect_garbage(storage, grace=0.0)
    assert sum(each.bytes for each in removed) == before - used() > 0
    assert removed[0].bytes == 0  # the staging area has the same files
    assert not storage.at(folder).exists()
    assert not storage.at(".staging").exists()


def test_one_young_file_saves_a_run(tmp_path):
    storage = LocalStorage(tmp_path / "store")
    publish(storage)
    folder, area = killed_run(storage)
    age(storage, folder, 2 * DAY)
    age(storage, area, 2 * DAY)
    assert names(collect_garbage(storage, dry_run=True)) == {folder, area}
    log = max(storage.at(area).glob("log-*"))
    os.utime(log)
    assert names(collect_garbage(storage, dry_run=True)) == {folder}
    os.utime(max(storage.at(folder).rglob("*")))
    assert collect_garbage(storage) == []


def test_temporary_files_go_and_files_with_other_names_stay(tmp_path):
    storage = LocalStorage(tmp_path / "store")
    publish(storage)
    inside = max(storage.root.glob("v1-*/dataset"))
    places = ((storage.root, COLLECTION), (storage.at("versions"), "2.json"), (inside, "Npix=1.parquet"))
    killed = [folder / f".{name}.{uuid.uuid4().hex}" for folder, name in places]
    others = [storage.root / ".notes", storage.root / "notes.txt", storage.root / f"v1-{uuid.uuid4().hex}"]
    for path in (*killed, *others):
        path.write_bytes(b"12345")
    assert collect_garbage(storage) == []
    removed = collect_garbage(storage, grace=0.0)
    assert {(storage.root / each.path, each.bytes, each.why) for each in removed} == {
        (path, 5, "temporary file") for path in killed
    }
    assert all(path.exists() for path in others)


def test_old_versions_go_on_request_and_the_newest_stays(versions):
    second, newest = read_manifest(versions, 2), sciplat.open_catalog(versions.url)
    rows = newest.compute()
    first = read_manifest(versions, 1)
    assert names(collect_garbage(versions, keep=3)) == set()
    assert [each.path for each in collect_garbage(versions, keep=2)] == ["versions/1.json", first.folder]
    assert version_numbers(versions) == [2, 3]
    pinned = sciplat.open_catalog(versions.url, version=2)
    assert [each.path for each in collect_garbage(versions, keep=1)] == ["versions/2.json", second.folder]
    assert version_numbers(versions) == [3]
    with pytest.raises(StoreNotFound, match="has no version 2"):
        sciplat.open_catalog(versions.url, version=2)
    for read in (pinned.compute, lambda: pinned.provenance, lambda: pinned.store.sky_map):
        with pytest.raises(StoreNotFound, match=r"version 2 of .* has been removed") as gone:
            read()
        assert gone.value.hint == "open the newest"
    assert sciplat.open_catalog(versions.url).compute().equals(rows)
    assert sorted(versions.names("")) == sorted([COLLECTION, newest.store.manifest.folder, "versions"])
    number = read_manifest(versions).number
    assert sciplat.open_catalog(versions.url).select("mag").write(versions.url, replace=True).version == number + 1


def test_old_versions_go_on_object_storage_too(tmp_path):
    storage = open_storage(f"memory://{tmp_path.name}/versions")
    first = publish(storage)
    newest = first.select("mag").write(storage.url, replace=True)
    removed = collect_garbage(storage, keep=1)
    assert [each.path for each in removed] == ["versions/1.json", first.store.manifest.folder]
    assert removed[1].bytes == first.store.manifest.size
    assert sciplat.open_catalog(storage.url).compute().equals(newest.compute())
    assert first.store.manifest.folder not in storage.names("")


def test_several_at_once_do_not_disturb_each_other(versions):
    newest = sciplat.open_catalog(versions.url)
    rows = newest.compute()
    for mark in "abcdef":
        killed_run(versions, mark * 64)
    start = threading.Barrier(4)

    def collect():
        start.wait()
        collect_garbage(versions, keep=1, grace=0.0)

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(collect) for _ in range(4)]:
            each.result()
    assert sorted(versions.names("")) == sorted([COLLECTION, newest.store.manifest.folder, "versions"])
    assert not versions.at(".staging").exists()
    assert sciplat.open_catalog(versions.url).compute().equals(rows)


def test_files_that_versions_share_survive_the_older_one(tmp_path):
    catalog = publish(LocalStorage(tmp_path / "store"))
    rows, storage, old = catalog.compute(), catalog.store.storage, catalog.store.manifest
    writer = CatalogWriter.begin(storage, old.properties, replace=True)
    reports = list(linked_cells(catalog, writer.folder))
    shared = {path: (path.stat().st_ino, path.read_bytes()) for path in storage.at(writer.folder).rglob("*.parquet")}
    assert collect_garbage(storage, keep=1) == []  # what was linked has no manifest yet, and is young
    writer.publish(catalog.schema, reports)
    removed = collect_garbage(storage, keep=1)
    assert [each.path for each in removed] == ["versions/1.json", old.folder]
    assert 0 < removed[1].bytes < old.size - sum(len(content) for _, content in shared.values()) + 1
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in shared} == shared
    assert sciplat.open_catalog(tmp_path / "store").compute().equals(rows)


def linked_cells(catalog, folder):
    """Link all cells into another version's folder and yield their reports, as appending does."""
    rows, old = catalog.compute()["_healpix_29"].to_numpy(), catalog.store.manifest.folder
    for entry in catalog.store.entries:
        first, last = np.searchsorted(rows, [entry.cell.start, entry.cell.stop])
        file = replace(entry.file, path=entry.file.path.replace(old, folder))
        catalog.store.storage.link(entry.file.path, file.path)
        yield CellReport.of([file], rows[first:last])


def test_a_writer_at_work_is_left_alone(versions):
    source = sciplat.open_catalog(versions.url)
    writer = CatalogWriter.begin(versions, source.properties, replace=True)
    cell = source.cells[0]
    report = writer.cells.write(cell, source.node.task(cell).run(), 10**6)
    collect_garbage(versions, keep=1)
    published = writer.publish(source.schema, [report])
    assert published.manifest.number == 4
    assert sciplat.open_catalog(versions.url).compute().num_rows == report.files[0].rows


@pytest.mark.parametrize("fatal", range(5))
def test_a_kill_between_removals_leaves_whole_versions(versions, monkeypatch, fatal):
    """Every version that is listed can be read, and what is left over goes the next time."""
    done = []

    def strike(storage, path, remove=gc._remove):
        if len(done) == fatal:
            raise KeyboardInterrupt
        done.append(path)
        remove(storage, path)

    monkeypatch.setattr(gc, "_remove", strike)
    try:
        collect_garbage(versions, keep=1)
    except KeyboardInterrupt:
        assert len(done) == fatal
    monkeypatch.undo()
    for number in version_numbers(versions):
        assert sciplat.open_catalog(versions.url, version=number).compute().num_rows == len(stars())
    pointed = parse_properties(versions.read(COLLECTION))["hats_primary_table_url"]
    assert pointed == read_manifest(versions).folder
    collect_garbage(versions, keep=1, grace=0.0)
    assert sorted(versions.names("")) == sorted([COLLECTION, pointed, "versions"])


def test_a_pointer_that_a_crash_left_behind_is_repaired_before_its_version_goes(versions):
    first = read_manifest(versions, 1)
    versions.write(COLLECTION, f"obs_collection=store\nhats_primary_table_url={first.folder}\n".encode())
    collect_garbage(versions, keep=1, dry_run=True)
    assert first.folder in versions.read(COLLECTION).decode()
    collect_garbage(versions, keep=1)
    assert read_manifest(versions).folder in versions.read(COLLECTION).decode()


def test_image_arrays_stay_as_long_as_a_version_names_them(tmp_path):
    files = write_images(tmp_path / "fits")
    images = sciplat.ingest_images([files / "plain.fits", files / "north.fits"], tmp_path / "images")
    storage = LocalStorage(tmp_path / "images")
    table, first = images.store.table.storage, images.store.table.manifest
    assert collect_garbage(storage, grace=0.0, keep=1) == []
    # a second version has the same table, and names the arrays of one image only
    arrays = [entry for entry in first.files if entry.path.startswith("../")]
    group = arrays[0].path.removeprefix("../").rpartition("/")[0].split("/")[:3]
    named = [entry for entry in arrays if entry.path.startswith(f"../{'/'.join(group)}/")]
    writer = CatalogWriter.begin(table, first.properties, replace=True)
    reports = list(linked_cells(Catalog.of_store(images.store.table), writer.folder))
    writer.publish(images.store.table.schema, reports, extra=tuple(named))
    assert collect_garbage(storage, grace=0.0) == []
    removed = [each.path for each in collect_garbage(storage, keep=1)]
    assert removed[0] == "images/versions/1.json"
    assert f"images/{first.folder}" in removed
    left = {entry.path for entry in arrays if storage.at(entry.path.removeprefix("../")).exists()}
    assert left == {entry.path for entry in named} != {entry.path for entry in arrays}


def test_arrays_of_images_that_were_never_published_go(tmp_path):
    files = write_images(tmp_path / "fits")
    images = sciplat.ingest_images([files / "plain.fits"], tmp_path / "images")
    storage = LocalStorage(tmp_path / "images")
    group = "Norder=1/Npix=3/0123456789ab-96x96"
    storage.write(f"{group}/zarr.json", b"{}")
    assert collect_garbage(storage) == []
    assert names(collect_garbage(storage, grace=0.0)) == {group}
    assert len(sciplat.open_images(tmp_path / "images")) == len(images) == 1


def test_what_a_killed_first_write_left_goes_and_the_folder_with_it(tmp_path):
    storage = LocalStorage(tmp_path / "store")
    folder, area = killed_run(storage)
    assert names(collect_garbage(storage, grace=0.0)) == {folder, area}
    assert not storage.root.exists()


def test_a_staging_area_that_lies_elsewhere_is_not_followed(tmp_path):
    storage = LocalStorage(tmp_path / "store")
    publish(storage)
    elsewhere = tmp_path / "elsewhere" / ("e" * 16)
    elsewhere.mkdir(parents=True)
    (elsewhere / "file").write_text("mine")
    storage.at(".staging").symlink_to(tmp_path / "elsewhere")
    assert collect_garbage(storage, grace=0.0) == []
    assert (elsewhere / "file").exists()


def test_what_is_refused(tmp_path):
    (tmp_path / f".a.{uuid.uuid4().hex}").touch()
    with pytest.raises(StoreNotFound):
        collect_garbage(LocalStorage(tmp_path), grace=0.0)
    storage = LocalStorage(tmp_path / "store")
    publish(storage)
    for wrong in ({"keep": 0}, {"keep": -1}, {"grace": -1.0}, {"grace": float("nan")}):
        with pytest.raises(ArgumentError):
            collect_garbage(storage, **wrong)
    killed_run(storage)
    storage.at("versions/1.json").write_bytes(b"{}")
    before = storage.files("")
    with pytest.raises(StoreCorrupt):
        collect_garbage(storage, grace=0.0)
    assert storage.files("") == before


@pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option is deprecated")
@pytest.mark.filterwarnings("ignore:The inplace keyword in NestedFrame.drop is deprecated")
def test_foreign_readers_open_what_is_left(versions):
    hats, lsdb = rival("hats"), rival("lsdb")
    collect_garbage(versions, keep=1, grace=0.0)
    assert hats.read_hats(versions.url).main_catalog.catalog_info.total_rows == len(stars())
    assert len(lsdb.open_catalog(versions.url).compute()) == len(stars())
