"""Rows added to a catalog: only cells that get rows are new, and the rows are as if all had been ingested at once."""

import tempfile
import threading
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sciplat
from sciplat.errors import ArgumentError, ColumnError, InputError, PlanChanged, PositionError, StoreNotFound
from sciplat.io.image_store import TABLE
from sciplat.io.storage import LocalStorage
from sciplat.io.verify import verify_files
from sciplat.sky.motion import Errors, Motion
from tests.conftest import required
from tests.lazy.plan_process import left_over
from tests.sky_scene import write_images

N = 2000
LIMIT = 150


def rows(n=N, seed=1, first=0):
    """Return positions all over the sky, with an identity, a magnitude in `mag` and a text."""
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    names = np.char.add("s", np.arange(first, first + n).astype(str))
    magnitude = pa.field("mag", pa.float32(), metadata={"unit": "mag"})
    schema = pa.schema(
        [("id", pa.int32()), ("ra", pa.float64()), ("dec", pa.float64()), magnitude, ("name", pa.string())]
    )
    return pa.table([np.arange(first, first + n, dtype=np.int32), ra, dec, rng.normal(20, 1, n).astype("f4"), names],
                    schema=schema)  # fmt: skip


def near(ra, dec, n, seed=2, first=10**6, spread=0.3):
    """Return rows around one place."""
    rng = np.random.default_rng(seed)
    table = rows(n, seed, first)
    where = ra + rng.uniform(-spread, spread, n), dec + rng.uniform(-spread, spread, n)
    for place, (name, values) in enumerate(zip(("ra", "dec"), where, strict=True), 1):
        table = table.set_column(place, name, pa.array(values))
    return table


@pytest.fixture
def url(tmp_path):
    """Return the URL of a catalog of some rows."""
    sciplat.ingest_catalog(rows(), tmp_path / "store", rows_per_cell=LIMIT, epoch="J2016.0", citation="First (2020)")
    return tmp_path / "store"


def append(url, sources, **options):
    return sciplat.ingest_catalog(sources, url, mode="append", **options)


def plain(table):
    """Return the rows without what is known of the columns."""
    return table.replace_schema_metadata().cast(pa.schema([(field.name, field.type) for field in table.schema]))


def whole(url, version=None):
    return sciplat.open_catalog(url, version=version).compute()


def files_of(catalog):
    """Return the digest and the place of every file with rows, by its cell."""
    folder = Path(catalog.store.storage.url)
    return {entry.cell: (entry.file.sha256, folder / entry.file.path) for entry in catalog.store.entries}


def test_the_rows_are_the_union_and_only_touched_cells_are_new(url):
    old = sciplat.open_catalog(url)
    before, kept = old.compute(), files_of(old)
    added = near(10.0, 20.0, 40)
    new = append(url, added)
    assert (old.version, new.version, sciplat.open_catalog(url).version) == (1, 2, 2)
    assert (new.report["rows"], new.report["skipped"], len(new)) == (40, 0, N + 40)
    at_once = sciplat.ingest_catalog([rows(), added], url.parent / "at once", rows_per_cell=LIMIT)
    assert plain(new.compute()).equals(plain(at_once.compute()))
    touched = set(added["id"].to_pylist())
    linked = 0
    for cell, (digest, path) in files_of(new).items():
        is_touched = not touched.isdisjoint(new.within(sciplat.Moc([cell])).compute()["id"].to_pylist())
        assert is_touched == (kept.get(cell, ("", ""))[0] != digest), cell
        if not is_touched:
            assert path.samefile(kept[cell][1])
            assert path.stat().st_nlink == 2
            linked += 1
    assert linked > len(kept) // 2
    assert old.compute().equals(before)
    for version in (1, 2):
        store = sciplat.open_catalog(url, version=version).store
        assert verify_files(store.storage, store.manifest) == []
    assert whole(url, version=1).equals(before)
    assert left_over(url) == []


def test_the_old_version_is_read_while_rows_are_added(url):
    old, over, wrong, looks = sciplat.open_catalog(url), threading.Event(), [], []
    before = old.compute()

    def look():
        while not over.is_set():
            if not old.compute().equals(before) or verify_files(old.store.storage, old.store.manifest):
                wrong.append(len(looks))
            seen = sciplat.open_catalog(url)
            if len(seen.compute()) != N + 300 * (seen.version - 1):
                wrong.append(seen.version)
            looks.append(seen.version)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for number in range(3):
            append(url, near(30.0 * number, 5.0, 300, seed=number, first=10**6 * (number + 1)))
    finally:
        over.set()
        reader.join()
    assert wrong == []
    assert len(set(looks)) > 1


def test_a_cell_that_outgrows_the_limit_is_split(url):
    old, new = sciplat.open_catalog(url), append(url, near(200.0, -40.0, 5 * LIMIT))
    assert max(entry.file.rows for entry in old.store.entries) <= LIMIT
    assert max(entry.file.rows for entry in new.store.entries) <= LIMIT
    gone = set(old.cells) - set(new.cells)
    assert gone
    for cell in gone:
        parts = [each for each in new.cells if cell.start <= each.start < cell.stop]
        assert len(parts) > 1
        assert all(part.order > cell.order for part in parts)


def test_free_sky_gets_cells(tmp_path):
    catalog = sciplat.ingest_catalog(near(45.0, 30.0, 200, spread=0.01), tmp_path / "store", rows_per_cell=20)
    far = near(225.0, -60.0, 70, seed=9, first=0)
    new = append(tmp_path / "store", far)
    assert set(catalog.cells) < set(new.cells)
    fresh = set(new.cells) - set(catalog.cells)
    assert sum(entry.file.rows for entry in new.store.entries if entry.cell in fresh) == 70
    assert max(entry.file.rows for entry in new.store.entries) <= 20
    assert new.report["cells"] == new.report["cells_of_this_run"] == len(fresh)


def test_maps_and_densities_are_those_of_a_fresh_ingest(tmp_path):
    parts = [rows(), near(77.0, 12.0, 900, spread=0.02), near(77.3, 12.0, 300, seed=5, first=5000, spread=1e-4)]
    sciplat.ingest_catalog(parts[0], tmp_path / "store", rows_per_cell=LIMIT)
    for part in parts[1:]:
        append(tmp_path / "store", part)
    fresh = sciplat.ingest_catalog(parts, tmp_path / "fresh", rows_per_cell=LIMIT)
    grown = sciplat.open_catalog(tmp_path / "store")
    np.testing.assert_array_equal(grown.store.sky_map, fresh.store.sky_map)
    assert grown.store.sky_map.sum() == len(fresh)
    assert max(cell.order for cell in grown.cells) > 8  # several cells share a pixel of the map
    ends = np.array([[cell.start, cell.stop] for cell in grown.cells])
    held = [entry.file.rows for entry in grown.store.entries]
    np.testing.assert_allclose(grown.store.expected_rows(ends), held, atol=1e-6)
    pixels = np.array([[k << 42, (k + 1) << 42] for k in np.flatnonzero(fresh.store.sky_map)])
    np.testing.assert_allclose(grown.store.expected_rows(pixels), fresh.store.expected_rows(pixels), atol=LIMIT / 20)


PLACES = st.sampled_from([(0.0, 0.0), (0.0, 90.0), (0.0, -90.0), (45.0, 45.0), (45.0, 45.000001), (359.9, -3.0)])


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(PLACES, min_size=1, max_size=12), min_size=2, max_size=4), st.integers(1, 5))
def test_any_sequence_of_appends_is_one_ingest(batches, limit):
    """Rows of one place keep the order in which they came."""
    tables, first = [], 0
    for batch in batches:
        ra, dec = zip(*batch, strict=True)
        tables.append(pa.table({"ra": ra, "dec": dec, "id": np.arange(first, first + len(batch))}))
        first += len(batch)
    with tempfile.TemporaryDirectory() as folder:
        sciplat.ingest_catalog(tables[0], f"{folder}/store", rows_per_cell=limit)
        for table in tables[1:]:
            append(f"{folder}/store", table)
        grown = sciplat.open_catalog(f"{folder}/store")
        at_once = sciplat.ingest_catalog(tables, f"{folder}/at once", rows_per_cell=limit)
        assert grown.compute().equals(at_once.compute())
        assert grown.version == len(tables)
        assert verify_files(grown.store.storage, grown.store.manifest) == []
        large = {entry.cell.order for entry in grown.store.entries if entry.file.rows > limit}
        assert large <= {29}


def test_versions_are_read_by_their_number(url):
    append(url, near(10.0, 20.0, 40))
    append(url, near(11.0, 21.0, 50, first=2 * 10**6), citation="Second (2021)")
    assert [len(whole(url, version)) for version in (None, 1, 2, 3)] == [N + 90, N, N + 40, N + 90]
    with pytest.raises(StoreNotFound, match="no version 4"):
        sciplat.open_catalog(url, version=4)
    properties = [sciplat.open_catalog(url, version=version).store.manifest.properties for version in (1, 2, 3)]
    assert [each["citations"] for each in properties] == [["First (2020)"]] * 2 + [["First (2020)", "Second (2021)"]]
    same = ("position", "frame", "epoch", "rows_per_cell", "id", "kind")
    assert all(each[name] == properties[0][name] for each in properties for name in same)


def rival(name):
    """Return a reader of other people; under CI it must be there."""
    return import_module(name) if required("rivals") else pytest.importorskip(name)


@pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option is deprecated")
@pytest.mark.filterwarnings("ignore:The inplace keyword in NestedFrame")
def test_other_readers_read_the_new_version(url):
    validation, lsdb = rival("hats.io.validation"), rival("lsdb")
    new = append(url, near(10.0, 20.0, 500))
    assert validation.is_valid_catalog(url, strict=True)
    for version in (1, 2):
        assert validation.is_valid_catalog(url / sciplat.open_catalog(url, version=version).store.manifest.folder,
                                           strict=True)  # fmt: skip
    frame = lsdb.open_catalog(url).compute()
    theirs = frame.sort_values("id")
    ours = new.compute().sort_by("id")
    for name in ("id", "ra", "dec", "mag", "name"):
        assert theirs[name].to_list() == ours[name].to_pylist()


def replaced(name, values):
    table = near(10.0, 20.0, 40)
    return table.set_column(table.schema.get_field_index(name), name, values)


OTHER = {
    "absent column": (lambda: near(1, 2, 3).drop_columns(["mag"]), ArgumentError, "other columns", "mag"),
    "one more": (lambda: near(1, 2, 3).append_column("x", pa.array([1] * 3)), ArgumentError, "other columns", "x"),
    "text for a number": (lambda: replaced("mag", pa.array(["a"] * 40)), ArgumentError, "another type", "string"),
    "list for a number": (lambda: replaced("mag", pa.array([[1.0]] * 40)), ArgumentError, "another type", "list"),
    "too large": (lambda: replaced("id", pa.array([2**40] * 40)), InputError, "do not fit", "1099511627776"),
    "fraction": (lambda: replaced("id", pa.array([1.5] * 40)), InputError, "do not fit", "1.5"),
    "no position": (lambda: replaced("ra", pa.array([None] * 40, pa.float64())), PositionError, "without", "nan"),
    "empty": (lambda: near(1, 2, 3).slice(0, 0), InputError, "nothing to ingest", "no row"),
}  # fmt: skip


@pytest.mark.parametrize(("sources", "error", "what", "found"), OTHER.values(), ids=OTHER.keys())
def test_other_rows_are_refused_and_nothing_is_left(url, sources, error, what, found):
    with pytest.raises(error, match=what) as refused:
        append(url, sources())
    assert found in refused.value.found
    assert sciplat.open_catalog(url).versions == [1]
    assert left_over(url) == []


def test_another_unit_is_refused(url):
    table = near(1.0, 2.0, 3)
    field = pa.field("mag", pa.float32(), metadata={"unit": "mmag"})
    with pytest.raises(ArgumentError, match="another unit") as refused:
        append(url, table.set_column(3, field, table["mag"]))
    assert "mmag" in refused.value.found
    assert append(url, table.set_column(3, pa.field("mag", pa.float32()), table["mag"])).version == 2
    assert sciplat.open_catalog(url).schema.field("mag").metadata[b"unit"] == b"mag"


@pytest.mark.parametrize(
    "said",
    [{"ra": "dec"}, {"dec": "ra"}, {"frame": "galactic"}, {"epoch": "J2000.0"}, {"rows_per_cell": 7},
     {"motion": Motion("ra", "dec")}, {"errors": Errors("ra", "dec")}],
    ids=str,
)  # fmt: skip
def test_what_contradicts_the_store_is_refused(url, said):
    (name,) = said
    with pytest.raises(ArgumentError, match=name) as refused:
        append(url, near(1.0, 2.0, 3), **said)
    assert "leave" in refused.value.hint
    assert left_over(url) == []


def test_what_the_store_says_may_be_said_again(tmp_path):
    table = rows(50).append_column("pm", pa.array(np.ones(50))).append_column("pm2", pa.array(np.ones(50)))
    motion, errors = Motion("pm", "pm2"), Errors("pm", "pm2")
    said = {"ra": "ra", "dec": "dec", "frame": "fk5", "epoch": "J2016.0", "rows_per_cell": 20}
    said |= {"motion": motion, "errors": errors}
    first = sciplat.ingest_catalog(table, tmp_path / "store", **said)
    second = append(tmp_path / "store", table, **said)
    assert (second.version, len(second)) == (2, 100)
    kept = ("motion", "errors", "frame", "epoch")
    assert [second.store.manifest.properties[name] for name in kept] == [
        first.store.manifest.properties[name] for name in kept
    ]


def test_types_that_fit_are_converted(url):
    wider = replaced("id", pa.array(np.arange(3 * 10**6, 3 * 10**6 + 40)))
    new = append(url, wider)
    assert new.schema.field("id").type == pa.int32()
    assert new.compute()["id"].to_pylist().count(3 * 10**6 + 39) == 1


def test_there_must_be_a_catalog_to_add_to(tmp_path):
    with pytest.raises(StoreNotFound):
        append(tmp_path / "absent", rows(10))
    assert not (tmp_path / "absent").exists()
    with pytest.raises(ColumnError):
        sciplat.ingest_catalog(pa.table({"x": [1]}), tmp_path / "absent")
    sciplat.ingest_images(write_images(tmp_path / "fits"), tmp_path / "images")
    with pytest.raises(ArgumentError, match="the table of an image store"):
        append(tmp_path / "images" / TABLE, rows(10))


def test_rows_without_position_are_left_out(url):
    table = near(1.0, 2.0, 40)
    new = append(url, table.set_column(1, "ra", pa.array([np.nan, *table["ra"].to_pylist()[1:]])), bad="skip")
    assert (new.report["rows"], new.report["skipped"], len(new)) == (39, 1, N + 39)


def test_an_unfinished_append_is_no_obstacle_to_another_one(url):
    (url / ".staging" / ("0" * 16)).mkdir(parents=True)
    (url / ".staging" / ("0" * 16) / "done-0.json").write_text("{}")
    assert append(url, near(1.0, 2.0, 40)).version == 2
    assert (url / ".staging" / ("0" * 16)).exists()  # it is another writer's
    with pytest.raises(PlanChanged):
        sciplat.open_catalog(url).select("ra", "dec").write(url, replace=True)
    assert LocalStorage(url).names("versions") == ["1.json", "2.json"]
