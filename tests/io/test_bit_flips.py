"""Damage of every file of a catalog: flipped bits, zeroed pages, files cut short. It is found, or it does no harm."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import sciplat
from sciplat.config import settings
from sciplat.errors import StoreCorrupt
from sciplat.io.publish import read_manifest
from sciplat.io.spill import SortedPart, Spill
from sciplat.io.staging import CellRecord, Staging
from sciplat.io.storage import LocalStorage
from sciplat.io.verify import verify_files
from sciplat.sky.cell import Cell, healpix_29
from sciplat.tasks.sort import StoredPiece
from tests.ingest.ingest_process import SMALLEST, finish, starter, write_source
from tests.lazy.plan_process import has_come

SEED = 20265
ROOT = Path(__file__).parents[2]
PAGE = 4096
FAULTS = {"flip": 400, "zero": 80, "cut": 80}


def rows(n=900):
    rng = np.random.default_rng(SEED)
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    names = np.char.add("star ", rng.integers(0, 500, n).astype(str))
    return pa.table({"id": np.arange(n), "ra": ra, "dec": dec, "mag": rng.normal(20, 1, n), "name": names})


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """Return a catalog of two versions; the first one's files are a part of the second."""
    url = tmp_path_factory.mktemp("flips") / "store"
    table = rows(3600)
    near = table.filter(pa.array((table["ra"].to_numpy() < 90) & (table["dec"].to_numpy() > 0)))  # in few cells
    sciplat.ingest_catalog(near, url, rows_per_cell=150)
    sciplat.ingest_catalog(near.slice(0, 5), url, mode="append")
    return url


def damaged(data, kind, rng):
    """Return content with one fault."""
    changed = bytearray(data)
    if kind == "flip":
        place = int(rng.integers(8 * len(data)))
        changed[place // 8] ^= 1 << place % 8
    elif kind == "zero":
        start = int(rng.integers(-(-len(data) // PAGE))) * PAGE
        changed[start : start + PAGE] = bytes(len(changed[start : start + PAGE]))
    else:
        del changed[int(rng.integers(len(data))) :]
    return bytes(changed)


def where(url, rng):
    """Return a file to damage: of the manifest's, one with rows half of the time, the manifest itself, the pointer."""
    manifest = read_manifest(LocalStorage(url))
    with_rows = [file.path for file in manifest.files if file.rows]
    others = [file.path for file in manifest.files if not file.rows]
    others += [f"versions/{manifest.number}.json", "collection.properties"]
    chosen = with_rows if rng.uniform() < 0.5 else others
    return chosen[int(rng.integers(len(chosen)))]


# reads of one process: each must end in the same rows or in a clear error
READER = """
import hashlib, json, sys
import numpy as np
import sciplat
from sciplat.errors import StoreCorrupt
from sciplat.io.publish import read_manifest
from sciplat.io.storage import open_storage
from sciplat.io.verify import verify_files

SKY = np.array([[0, 1 << 60], [1 << 60, 12 << 58]])
for line in sys.stdin:
    url = json.loads(line)
    answer = {"verify": [], "error": "", "kind": "", "digest": ""}
    try:
        answer["verify"] = verify_files(open_storage(url), read_manifest(open_storage(url)))
        catalog = sciplat.open_catalog(url)
        store = catalog.store
        facts = [store.schema.to_string(), hashlib.sha256(store.sky_map).hexdigest(), str(len(catalog))]
        facts += [str(store.expected_rows(SKY)), str(catalog.report), str(store.provenance)]
        facts += [str(catalog.compute().to_pydict())]
        answer["digest"] = hashlib.sha256("".join(facts).encode()).hexdigest()
    except StoreCorrupt as error:
        answer["error"], answer["kind"] = str(error), "StoreCorrupt"
    except BaseException as error:
        answer["error"], answer["kind"] = repr(error), type(error).__name__
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def read():
    """Return a function that reads a store in one process, for all faults the same."""
    command, environment = [sys.executable, "-c", READER], {"PYTHONPATH": str(ROOT), "SCIPLAT_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as child:

        def ask(url):
            child.stdin.write(json.dumps(str(url)) + "\n")
            child.stdin.flush()
            answer = child.stdout.readline()
            assert answer, "the interpreter ended"
            return json.loads(answer)

        yield ask
        child.stdin.close()
        assert child.wait(30) == 0


@pytest.mark.parametrize("kind", FAULTS)
def test_damage_is_found_or_does_no_harm(url, tmp_path, read, kind):
    rng, good = np.random.default_rng(SEED), read(url)
    assert (good["error"], good["verify"]) == ("", [])
    shutil.copytree(url, tmp_path / "store")
    harmless = 0
    for number in range(FAULTS[kind]):
        name = where(url, rng)
        path, old = tmp_path / "store" / name, (url / name).read_bytes()
        new = damaged(old, kind, rng)
        path.write_bytes(new)
        told = read(tmp_path / "store")
        context = f"seed {SEED}, {kind} {number} in {name}: {told['kind']} {told['error'][:300]}"
        if new == old or name == "collection.properties":  # our readers take the version from the manifests
            assert told["error"] == "", context
        elif name.startswith("versions/"):
            assert told["kind"] == "StoreCorrupt", context
            assert name in told["error"], context
        else:
            assert [line.partition(":")[0] for line in told["verify"]] == [name], context
        if told["error"]:
            assert told["kind"] == "StoreCorrupt", context
            assert name in told["error"], context
        else:
            assert told["digest"] == good["digest"], context
            harmless += 1
        path.write_bytes(old)
    print(f"seed {SEED}: {FAULTS[kind]} faults ({kind}), {FAULTS[kind] - harmless} found on reading, "
          f"{harmless} harmless, all named by verify, 0 wrong, 0 unclear errors")  # fmt: skip


# --- what an unfinished ingest keeps


@pytest.fixture
def area(tmp_path):
    """Return the staging area of an ingest with a sorted piece and a cell that is done."""
    staging, table = Staging(LocalStorage(tmp_path / "store"), "a" * 16), rows(400)
    index = healpix_29(table["ra"].to_numpy(), table["dec"].to_numpy())
    order = np.argsort(index)
    table = table.take(pa.array(order)).add_column(0, "_healpix_29", pa.array(index[order]))
    spill = Spill(staging)
    piece = spill.write(table)
    spill.commit(SortedPart("part", 0, ((piece, (int(index.min()), int(index.max()) + 1)),)))
    cell = Cell(0, 3)
    index = table["_healpix_29"].to_numpy()
    inside = (index >= cell.start) & (index < cell.stop)
    part = table.filter(pa.array(inside))
    staging.commit([CellRecord(cell, part.num_rows, 0.1, staging.write(cell, part, 1000))])
    staging.begin({"op": "ingest"})
    return staging, piece, table


@pytest.mark.parametrize("name", ["sorted-part.json", "done-", "plan.json"])
def test_damaged_records_are_found(area, name):
    staging, _, _ = area
    path = next((Path(staging.storage.url) / staging.folder).glob(f"{name}*"))
    data, rng = path.read_bytes(), np.random.default_rng(SEED)
    errors = []
    for kind in ["flip"] * 60 + ["cut"] * 20 + ["zero"] * 1:
        new = damaged(data, kind, rng)
        path.write_bytes(new)
        before = staging.plan if name == "plan.json" and _is_json(new) else None
        try:
            if name == "plan.json":
                assert staging.plan == before
            else:
                done = Spill(staging).done(["part"]) if name.startswith("sorted") else staging.done()
                assert _same_json(new, data) or not done
        except StoreCorrupt as error:
            errors.append(error)
    path.write_bytes(data)
    assert all(path.name in each.what for each in errors)
    assert all("restart=True" in each.hint or "remove the file" in each.hint for each in errors)
    found = len(errors)
    assert found > 20
    print(f"seed {SEED}: 81 faults in {name}, {found} found, the rest without effect")


def _is_json(data):
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False


def _same_json(first, second):
    return json.loads(first) == json.loads(second)


def test_damaged_pieces_are_found(area):
    staging, piece, table = area
    path, rng, harmless = Path(staging.storage.url) / piece.path, np.random.default_rng(SEED), 0
    errors, data, whole = [], path.read_bytes(), (0, 12 << 58)
    for kind in ["flip"] * 150 + ["zero"] * 10 + ["cut"] * 30:
        path.write_bytes(damaged(data, kind, rng))
        try:
            read = StoredPiece(staging.storage, piece, whole)
            parts = [read.read(Cell(0, base)) for base in range(12)]
            assert pa.concat_tables(parts).equals(table)
            harmless += 1
        except StoreCorrupt as error:
            errors.append(error.what)
    path.write_bytes(data)
    assert all(piece.path in what for what in errors)
    assert len(errors) == 190 - harmless
    print(f"seed {SEED}: 190 faults in a sorted piece, {190 - harmless} found, {harmless} harmless, 0 wrong")


def test_after_damage_the_hint_leads_on(tmp_path, monkeypatch):
    """Whatever is damaged of what an ingest had kept, the message tells a way on, and that way leads on."""
    source, start = write_source(tmp_path / "t.parquet", 5), starter()
    monkeypatch.setattr("sciplat.tasks.budget.resident_memory", lambda: 0)  # of the tests before this one
    monkeypatch.setenv("SCIPLAT_THREADS", "1")
    settings.cache_clear()
    command = ["ingest", "catalog", "--rows-per-cell", 500, "--memory", SMALLEST, source]
    finish(start([*command, tmp_path / "good"]))
    good = sciplat.open_catalog(tmp_path / "good").store.manifest.digest
    for number, name in enumerate(["sorted-*", "done-*", "*-sorted.parquet"]):
        url = tmp_path / str(number)
        finish(start([*command, url]), signal.SIGKILL, has_come(url, "{s}/*/done-*", 1))
        path = next(url.glob(f".staging/*/{name}"))
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(StoreCorrupt, match=path.name) as found:
            sciplat.ingest_catalog(source, url, rows_per_cell=500, memory=SMALLEST)
        if "remove the file" in found.value.hint:
            path.unlink()
            made = sciplat.ingest_catalog(source, url, rows_per_cell=500, memory=SMALLEST)
        else:
            assert "restart=True" in found.value.hint
            made = sciplat.ingest_catalog(source, url, rows_per_cell=500, memory=SMALLEST, restart=True)
        assert made.store.manifest.digest == good
        assert verify_files(made.store.storage, made.store.manifest) == []
    settings.cache_clear()
