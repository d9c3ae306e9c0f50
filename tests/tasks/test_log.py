import json
import os
import platform
import threading
import time
from pathlib import Path

import pytest

import sciplat
from sciplat.errors import StepError, StoreCorrupt
from sciplat.io.storage import LocalStorage
from sciplat.tasks import log
from sciplat.tasks.log import RunLog, origin, read_logs
from tests.plan_scene import SCHEMA, write_stars
from tests.sky_scene import WHOLE_SKY


@pytest.fixture
def clock(monkeypatch):
    """Return the time in seconds, as a list of one number that a test may change."""
    now = [1000.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    return now


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


def test_the_first_progress_is_soon_and_a_long_run_s_log_stays_short(tmp_path, clock):
    written = RunLog(LocalStorage(tmp_path), "log")
    written.event("started", total=10)
    counts = {}
    for second in range(86400):
        clock[0] += 1
        written.progress(cells=second)
        if second in (10, 600, 86399):
            counts[second] = len(lines(tmp_path))
    assert counts[10] >= 3
    assert counts[600] < 150
    assert counts[86399] < 1800
    gaps = [b["cells"] - a["cells"] for a, b in zip(lines(tmp_path)[1:], lines(tmp_path)[2:], strict=False)]
    assert max(gaps) <= 61
    assert (tmp_path / "log").stat().st_size < 600_000


def test_events_are_written_at_once_and_whole(tmp_path, clock):
    written = RunLog(LocalStorage(tmp_path), "log")
    for name in ("started", "retried", "quarantined"):
        written.event(name, cell="5/1284", error='two\nlines, "quoted", µ')
        assert lines(tmp_path)[-1]["event"] == name
    written.progress(cells=1)  # too young
    assert [line["event"] for line in lines(tmp_path)] == ["started", "retried", "quarantined"]
    assert all(line["error"] == 'two\nlines, "quoted", µ' for line in lines(tmp_path))
    assert (tmp_path / "log").read_bytes() == written.content


def test_where_it_runs_is_known():
    assert origin("1a2b") == {"write_id": "1a2b", "host": platform.node(), "process": os.getpid()}


@pytest.fixture
def catalog(tmp_path):
    write_stars(tmp_path / "stars", [child for base in WHOLE_SKY for child in base.children])
    return sciplat.open_catalog(tmp_path / "stars")


def test_a_log_is_readable_while_the_plan_runs(catalog, tmp_path, monkeypatch):
    gate, storage = tmp_path / "gate", LocalStorage(tmp_path / "out")
    monkeypatch.setenv("SCIPLAT_TEST_GATE", str(gate))
    plan = catalog.map(wait_for_the_gate, schema=SCHEMA)
    run = threading.Thread(target=plan.write, args=(tmp_path / "out",))
    run.start()
    deadline = time.monotonic() + 30
    while not (seen := read_logs(storage)):
        assert time.monotonic() < deadline
    gate.touch()
    run.join()
    (events,) = seen
    assert events[0] | {"event": "started", "what": "map", "resumed": 0} == events[0]
    assert events[0]["total"] == len(catalog.cells)
    (events,) = read_logs(storage)
    assert [events[0]["event"], events[-1]["event"]] == ["started", "finished"]
    assert events[-1]["rows"] == len(catalog)


def wait_for_the_gate(table):
    while not Path(os.environ["SCIPLAT_TEST_GATE"]).exists():
        time.sleep(0.01)
    return table


def fail_where_few(table):
    if table.num_rows == 1:
        raise ValueError("too few")
    return table


def test_logs_of_all_runs_are_found_the_oldest_first(catalog, tmp_path):
    url = tmp_path / "out"
    catalog.select("mag").write(url)
    for _ in range(2):
        with pytest.raises(StepError):
            catalog.map(fail_where_few, schema=SCHEMA).write(url, replace=True)
    logs = read_logs(LocalStorage(url))
    assert [events[-1]["event"] for events in logs] == ["finished", "stopped", "stopped"]
    assert "too few" in logs[1][-1]["error"]
    assert logs[2][0]["resumed"] > 0


def test_what_was_ingested_has_no_log(catalog, tmp_path):
    assert read_logs(catalog.store.storage) == []
    assert read_logs(LocalStorage(tmp_path / "nothing")) == []


def test_a_damaged_log_is_named(catalog, tmp_path):
    store = catalog.select("mag").write(tmp_path / "out").store
    path = tmp_path / "out" / store.manifest.folder / "log.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(StoreCorrupt, match=r"log.jsonl.*damaged"):
        read_logs(store.storage)
