"""Ingests of more than the memory holds: the same bytes, bounded memory and files, and any table comes back."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sciplat
from sciplat.config import settings as sciplat_settings
from sciplat.errors import StorageError
from sciplat.sky.cell import Cell
from tests.ingest.ingest_process import SMALLEST, write_source
from tests.ingest.test_catalog import mounted  # noqa: F401
from tests.lazy.plan_process import content, left_over

MB = 1_000_000
ROOT = Path(__file__).parents[2]
# one ingest, which says what it took
MEASURE = """
import json, sys, sciplat
url, memory, *sources = sys.argv[1:]
catalog = sciplat.ingest_catalog(sources, url, rows_per_cell=60_000, memory=memory)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = int(status["VmHWM"].split()[0]) * 1024  # ru_maxrss counts the parent, from before the program was loaded
print(json.dumps({"peak": peak, "rows": len(catalog), "spilled": catalog.report["spilled"]}))
"""


@pytest.fixture(autouse=True)
def _as_if_fresh(monkeypatch):
    """Let the tests' process count as one that has just begun: what others left there is not ours."""
    monkeypatch.setattr("sciplat.tasks.budget.resident_memory", lambda: 0)


@pytest.fixture
def one_thread(monkeypatch):
    monkeypatch.setenv("SCIPLAT_THREADS", "1")
    sciplat_settings.cache_clear()
    yield monkeypatch
    sciplat_settings.cache_clear()


def positions(rng, rows):
    return {"ra": rng.uniform(0, 360, rows), "dec": np.degrees(np.arcsin(rng.uniform(-1, 1, rows)))}


def test_memory_is_bounded(tmp_path):
    rng, memory = np.random.default_rng(1), 420
    files = [tmp_path / f"{number}.parquet" for number in range(3)]
    flat = {f"x{k}": np.zeros(300_000) for k in range(58)}  # as large in memory as noise, and sooner read
    for file in files:
        pq.write_table(table := pa.table(positions(rng, 300_000) | flat), file)
    size = len(files) * table.nbytes / MB
    command = [sys.executable, "-c", MEASURE, tmp_path / "store", f"{memory} MB", *files]
    environment = {"SCIPLAT_THREADS": "1", "PYTHONPATH": str(ROOT)}
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    took = json.loads(child.stdout)
    assert size > 6 * (memory - 350)  # of which most is taken by the libraries
    assert size > memory
    assert took["rows"] == 900_000
    assert took["spilled"] > 0
    assert took["peak"] < memory * MB
    print(f"{size:.0f} MB in {memory} MB: peak {took['peak'] / MB:.0f} MB")


@pytest.mark.parametrize("columns", [2, 10])
def test_temporary_files_are_about_as_large_as_the_input(tmp_path, one_thread, columns):
    rng, source = np.random.default_rng(2), tmp_path / "t.parquet"
    rows = 2_000_000 // (columns + 2)
    pq.write_table(pa.table(positions(rng, rows) | {f"x{k}": rng.normal(size=rows) for k in range(columns)}), source)
    report = sciplat.ingest_catalog(source, tmp_path / "store", memory=SMALLEST).report
    assert 0 < report["spilled"] <= 1.2 * source.stat().st_size
    print(f"{columns + 2} columns: temporary files {report['spilled'] / source.stat().st_size:.2f} of the input")


def test_the_bytes_depend_on_neither_memory_nor_threads_nor_chunks(tmp_path, monkeypatch):
    source = write_source(tmp_path / "t.parquet", 3)
    whole = pq.read_table(source)
    pq.write_table(whole, tmp_path / "one.parquet")
    halves = [whole.slice(0, 1234), whole.slice(1234)]
    found, spilled = [], []
    cases = [("1", None, source), ("1", SMALLEST, source), ("3", None, source), ("3", "440 MB", source)]
    cases += [("1", SMALLEST, tmp_path / "one.parquet"), ("2", None, halves)]
    for number, (threads, memory, sources) in enumerate(cases):
        monkeypatch.setenv("SCIPLAT_THREADS", threads)
        sciplat_settings.cache_clear()
        made = sciplat.ingest_catalog(sources, tmp_path / str(number), rows_per_cell=500, memory=memory)
        found.append(content(tmp_path / str(number)))
        spilled.append(made.report["spilled"] > 0)
    sciplat_settings.cache_clear()
    assert all(each == found[0] for each in found)
    assert spilled == [False, True, False, False, True, False]


def test_a_pile_ends_in_one_cell_of_the_highest_order(tmp_path):
    rng = np.random.default_rng(4)
    ra, dec = np.append(np.full(5000, 123.4), rng.uniform(0, 360, 3000)), np.append(np.full(5000, 5.6), np.zeros(3000))
    table = pa.table({"ra": ra, "dec": dec, "id": np.arange(8000)})
    catalog = sciplat.ingest_catalog(table, tmp_path / "store", rows_per_cell=1000)
    ((cell, rows),) = catalog.report["cells_over_limit"]
    assert rows == 5000
    assert cell.startswith("29/")
    pile = Cell(29, int(cell.split("/")[1]))
    assert [entry.file.rows for entry in catalog.store.entries if entry.cell == pile] == [5000]
    assert max(entry.file.rows for entry in catalog.store.entries if entry.cell != pile) <= 1000
    assert catalog.within(sciplat.Moc([pile])).compute()["id"].to_pylist() == list(range(5000))  # in their order
    more = sciplat.ingest_catalog(table.slice(0, 10), tmp_path / "store", mode="append")
    assert more.report["cells_over_limit"] == [[cell, 5010]]


VALUES = {
    "int": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "small": (pa.int8(), st.integers(-128, 127)),
    "float": (pa.float64(), st.floats()),
    "single": (pa.float32(), st.floats(width=32)),
    "text": (pa.string(), st.text(st.characters(exclude_categories=["Cs"]), max_size=8)),
    "bool": (pa.bool_(), st.booleans()),
    "list": (pa.list_(pa.float64()), st.lists(st.floats(), max_size=3)),
}
RA = st.one_of(st.sampled_from([0.0, -0.0, 90.0, 360.0, -180.0, 359.99999999999994]), st.floats(-360, 360))
DEC = st.one_of(st.sampled_from([90.0, -90.0, 0.0, 41.8103148957786]), st.floats(-90, 90))


@st.composite
def tables(draw):
    """Draw a table with columns of some types, each with nulls, in any order."""
    rows = draw(st.integers(1, 25))
    columns = [("ra", pa.array(draw(st.lists(RA, min_size=rows, max_size=rows)), pa.float64()))]
    columns.append(("dec", pa.array(draw(st.lists(DEC, min_size=rows, max_size=rows)), pa.float64())))
    for name in draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True)):
        kind, values = VALUES[name]
        drawn = draw(st.lists(st.none() | values, min_size=rows, max_size=rows))
        columns.append((name, pa.array(drawn, kind, from_pandas=False)))
    return pa.table(dict(draw(st.permutations(columns))))


def multiset(table, names):
    """Return the rows as texts, sorted: NaN and -0.0 have texts, nulls and lists too."""
    return sorted(map(repr, zip(*(table[name].to_pylist() for name in names), strict=True)))


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(tables(), st.integers(1, 10), st.booleans())
def test_any_table_comes_back(table, rows_per_cell, as_files):
    with tempfile.TemporaryDirectory() as folder:
        sources = [table]
        if as_files:
            half = (table.num_rows + 1) // 2
            sources = [f"{folder}/{number}.parquet" for number in range(2)]
            pq.write_table(table.slice(0, half), sources[0])
            pq.write_table(table.slice(half), sources[1], row_group_size=3)
        catalog = sciplat.ingest_catalog(sources, f"{folder}/store", rows_per_cell=rows_per_cell)
        assert multiset(catalog.compute(), table.schema.names) == multiset(table, table.schema.names)
        assert (np.diff(catalog.compute()["_healpix_29"].to_numpy()) >= 0).all()
        parts = [pq.read_table(f"{folder}/store/{entry.file.path}") for entry in catalog.store.entries]
        theirs = pa.concat_tables(parts)
        assert multiset(theirs, table.schema.names) == multiset(table, table.schema.names)
        assert all(part.num_rows <= rows_per_cell or cell.order == 29
                   for cell, part in zip(catalog.cells, parts, strict=True))  # fmt: skip


def test_a_disk_that_fills_up_with_sorted_pieces(tmp_path, mounted, one_thread):  # noqa: F811
    """The old version stays, and the same call goes on once there is room."""
    disk, source = mounted("size=30m"), tmp_path / "t.parquet"
    rng = np.random.default_rng(3)
    first = pa.table(positions(rng, 1000) | {f"x{k}": rng.normal(size=1000) for k in range(10)})
    sciplat.ingest_catalog(first, disk / "store")
    pq.write_table(pa.table(positions(rng, 120_000) | {f"x{k}": rng.normal(size=120_000) for k in range(10)}), source,
                   row_group_size=20_000)  # fmt: skip
    (disk / "filler").write_bytes(bytes(24 * MB))
    with pytest.raises(StorageError, match="sorted") as full:
        sciplat.ingest_catalog(source, disk / "store", mode="append", memory=SMALLEST)
    assert str(disk / "store" / ".staging") in full.value.what
    assert "No space left on device" in full.value.found
    assert "bytes" in full.value.found
    old = sciplat.open_catalog(disk / "store")
    assert (old.version, old.compute().num_rows) == (1, 1000)
    kept = len(list((disk / "store").glob(".staging/*/sorted-*")))
    (disk / "filler").unlink()
    new = sciplat.ingest_catalog(source, disk / "store", mode="append", memory=SMALLEST)
    assert kept > 0
    assert (new.version, new.report["rows"], len(new)) == (2, 120_000, 121_000)
    assert left_over(disk / "store") == []
