"""The functions stand inside the tests: those of this module would make every child import pytest."""

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest

from sciplat.errors import ColumnError, StepError
from sciplat.sky.cell import Cell
from sciplat.tasks.apart import apply_apart, stop_all
from sciplat.tasks.output import OUTPUT_LIMIT, bounded_output

CELL = Cell(5, 1284)
SCHEMA = pa.schema(
    [pa.field("_healpix_29", pa.int64()), pa.field("text", pa.string(), metadata={"ucd": "meta"})],
    metadata={"made": "by us"},
)
MIB = 1 << 20


def rows(*texts):
    return pa.table([pa.array([CELL.start] * len(texts), pa.int64()), pa.array(texts, pa.string())], schema=SCHEMA)


def apply(step, table=None, *, surrounded=False, timeout=30.0, memory=None):
    given = rows("a", "b") if table is None else table
    return apply_apart(step, given, SCHEMA, CELL, surrounded=surrounded, timeout=timeout, memory=memory)


def refused(step, **limits):
    """Return the error of a function."""
    with pytest.raises(StepError) as caught:
        apply(step, **limits)
    assert "on cell 5/1284" in caught.value.what
    return caught.value


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_gone(pid):
    """Return whether a process is dead; nobody may have waited for it where there is no init."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path_factory, monkeypatch):
    """No child, no zombie and no temporary file outlives its call."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    this = psutil.Process()
    before = this.children(recursive=True)
    yield
    assert [child for child in this.children(recursive=True) if child not in before] == []
    assert list(folder.iterdir()) == []


def test_a_closure_gets_the_table_and_its_result_comes_back():
    suffix = "!"

    def shout(table):
        texts = [text + suffix for text in table["text"].to_pylist()]
        return pa.table({"text": texts, "_healpix_29": table["_healpix_29"]})

    result = apply(shout)
    assert result["text"].to_pylist() == ["a!", "b!"]
    assert result.schema.equals(SCHEMA, check_metadata=True)


def test_no_rows_and_rows_of_the_surroundings():
    assert apply(lambda table: table, rows()).schema.equals(SCHEMA, check_metadata=True)
    wide = pa.table([pa.array([CELL.stop, CELL.start]), pa.array(["out", "in"])], schema=SCHEMA)
    assert apply(lambda table: table, wide, surrounded=True)["text"].to_pylist() == ["in"]
    assert refused(lambda table: table, table=wide).found == "1 of 2 rows lie outside the cell"


def test_a_table_larger_than_the_pipe_comes_back_whole():
    many = pa.table([np.sort(np.arange(300_000) + CELL.start), [str(n) for n in range(300_000)]], schema=SCHEMA)
    assert apply(lambda table: table, many).equals(many)


def test_functions_of_the_user_s_modules_import_where_the_parent_s_do(tmp_path, monkeypatch):
    (tmp_path / "colours_of_mine.py").write_text("def same(table):\n    return table\n")
    monkeypatch.syspath_prepend(tmp_path)
    from colours_of_mine import same

    assert apply(same).num_rows == 2


def test_a_module_that_is_gone_is_told(tmp_path, monkeypatch):
    (tmp_path / "colours_long_gone.py").write_text("def same(table):\n    return table\n")
    monkeypatch.syspath_prepend(tmp_path)
    from colours_long_gone import same

    (tmp_path / "colours_long_gone.py").unlink()
    error = refused(same)
    assert error.what == "colours_long_gone:same on cell 5/1284 failed in its own process"
    assert error.found == "ModuleNotFoundError: No module named 'colours_long_gone'"


def test_the_child_is_at_home_where_the_parent_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLOUR", "blue")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")

    def look(table):
        found = [str(Path.cwd()), sys.path, os.environ["COLOUR"], os.environ["PYTHONPATH"]]
        return table.set_column(1, "text", pa.array([json.dumps(found)] * 2))

    assert json.loads(apply(look)["text"][0].as_py()) == [str(tmp_path), sys.path, "blue", "/nowhere"]


def test_there_is_no_input_to_read():
    assert "EOFError" in refused(lambda table: input() and table).found


def test_an_exception_comes_back_in_words_even_if_it_cannot_be_pickled():
    def fail(_):
        class Locked(Exception):
            def __init__(self):
                super().__init__("nobody gets this")
                self.lock = threading.Lock()

        raise Locked

    error = refused(fail)
    assert error.found == "Locked: nobody gets this"
    assert "in fail" in error.traceback.splitlines()[1]


def test_a_result_of_the_wrong_schema_is_refused_as_it_is_without_a_process():
    error = refused(lambda table: table.drop_columns(["text"]))
    assert (error.found, error.traceback) == ("missing: text", "")


def test_our_own_errors_come_back_as_the_function_s():
    def fail(_):
        raise ColumnError("there is no column x", found="y", hint="z")

    with pytest.raises(StepError, match="ColumnError: there is no column x found y try z"):
        apply(fail)


def test_our_own_error_that_cannot_be_pickled_comes_back_in_words():
    def fail(_):
        error = ColumnError("there is no column x")
        error.lock = threading.Lock()
        raise error

    with pytest.raises(StepError, match="there is no column x"):
        apply(fail)


def test_ctrl_c_of_the_function_itself_is_its_error():
    def interrupt(_):
        raise KeyboardInterrupt

    assert refused(interrupt).found == "KeyboardInterrupt:"


def test_what_cannot_travel_is_refused_at_once():
    lock = threading.Lock()
    error = refused(lambda table: lock and table)
    assert "cannot travel" in error.what
    assert "lock" in error.found


@pytest.mark.parametrize("kind", ["python", "compiled"])
def test_a_function_that_never_ends_is_stopped(kind):
    def spin(_):
        if kind == "compiled":
            any(itertools.repeat(False))  # never gives the interpreter back
        while True:
            pass

    error = refused(spin, timeout=0.3)
    assert "did not end in time" in error.what
    assert error.found == "no result within 0.3 s"


def test_a_function_that_takes_all_memory_is_stopped():
    def grow(_):
        kept = []
        while True:
            kept.append(b"x" * MIB)

    error = refused(grow, memory=100 * MIB)
    assert "more memory than it may" in error.what
    assert error.found.endswith("100 MiB allowed")


def test_the_memory_of_the_table_is_not_counted():
    many = pa.table([np.full(6_000_000, CELL.start), pa.nulls(6_000_000, pa.string())], schema=SCHEMA)

    def wait(table):
        time.sleep(0.2)
        return table.slice(0, 5)

    assert many.nbytes > 60 * MIB
    assert apply(wait, many, memory=30 * MIB).num_rows == 5


@pytest.mark.parametrize(
    ("end", "found"),
    [
        (lambda: os._exit(3), "exit code 3, and no result"),
        (lambda: os._exit(0), "exit code 0, and no result"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "killed by SIGSEGV"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "killed by SIGKILL"),
        (lambda: os.kill(os.getpid(), signal.SIGRTMIN + 3), f"killed by signal {signal.SIGRTMIN + 3}"),
    ],
)
def test_a_death_is_told_with_its_cause(end, found):
    error = refused(lambda _: end())
    assert error.found == found
    assert error.hint


def test_a_segmentation_fault_shows_its_line(capsys):
    refused(lambda _: os.kill(os.getpid(), signal.SIGSEGV))
    assert "in <lambda>" in capsys.readouterr().err


def test_what_the_function_prints_is_passed_on(capsys):
    def chatter(table):
        print("5 µm")
        os.write(1, b"compiled\n\xff\n")
        print("trouble", file=sys.stderr)
        return table

    assert apply(chatter).num_rows == 2
    assert capsys.readouterr() == ("5 µm\ncompiled\n\ufffd\n", "trouble\n")


def test_what_it_printed_before_it_was_stopped_is_passed_on(capsys):
    def spin(_):
        print("so far")
        while True:
            pass

    refused(spin, timeout=0.3)
    assert capsys.readouterr().out == "so far\n"


@pytest.mark.parametrize("way", ["print", "write"])
def test_a_function_that_prints_for_ever_is_stopped(way, capsys):
    def flood(_):
        while True:
            if way == "print":
                print("x" * 1000)
            else:
                os.write(2, b"x" * 1000)

    error = refused(flood, timeout=None)
    assert "prints too much" in error.what
    assert sum(map(len, capsys.readouterr())) == OUTPUT_LIMIT


def test_a_bound_of_the_calling_thread_holds_for_what_is_passed_on(capsys):
    with bounded_output("the whole", limit=3), pytest.raises(StepError, match="the whole prints too much"):
        apply(lambda table: print("abcdef") or table)
    assert capsys.readouterr().out == "abc"


@pytest.mark.parametrize("ends", [True, False])
def test_what_the_function_has_started_ends_with_it(tmp_path, ends):
    def start(table):
        process = subprocess.Popen(["sleep", "60"])  # keeps the pipes open
        (tmp_path / "pid").write_text(str(process.pid))
        while not ends:
            pass
        threading.Thread(target=lambda: time.sleep(60)).start()
        return table

    if ends:
        assert apply(start).num_rows == 2
    else:
        refused(start, timeout=0.3)
    wait_until(lambda: is_gone(int((tmp_path / "pid").read_text())))


def test_four_threads_at_once_get_their_own_results(capsys):
    def run(number):
        def step(table):
            print(number)
            return table.set_column(1, "text", pa.array([str(number)] * 2))

        return apply(step)["text"].to_pylist()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(4))) == [[str(number)] * 2 for number in range(4)]
    assert sorted(capsys.readouterr().out.split()) == list("0123")


def test_all_can_be_stopped_early(tmp_path):
    def spin_as(number):
        def spin(_):
            (tmp_path / str(number)).touch()
            while True:
                pass

        return spin

    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(apply, spin_as(number), timeout=None) for number in range(2)]
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        stop_all()
        assert [future.exception().found for future in waiting] == ["killed by SIGKILL"] * 2
    assert apply(lambda table: table).num_rows == 2


SCRIPT = """
import itertools, os, pathlib, sys, threading
import psutil
import pyarrow as pa
from concurrent.futures import ThreadPoolExecutor
from sciplat.sky.cell import Cell
from sciplat.tasks.apart import apply_apart

class Namer:
    text = f"{__name__} of mine"

def name(table):
    return table.set_column(1, "text", pa.array([Namer().text] * table.num_rows))

def spin(table):
    written = pathlib.Path(sys.path[0], "writing")
    written.write_text(str(os.getpid()))
    written.rename(written.with_name("pid"))
    any(itertools.repeat(False))

def run(step):
    table = pa.table({"_healpix_29": [1], "text": ["a"]})
    return apply_apart(step, table, table.schema, Cell(0, 0), surrounded=False, timeout=None, memory=None)

if sys.argv[1] == "name":
    files = psutil.Process().num_fds()
    print(run(name)["text"][0], psutil.Process().num_fds() - files, threading.active_count())
elif sys.argv[1] == "thread":
    ThreadPoolExecutor(1).submit(run, spin).result()
else:
    run(spin)
"""


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a parent process of its own."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "TMPDIR": str(temporary)}

    def begin(mode):
        command = [sys.executable, str(script), mode]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return begin


def test_functions_and_classes_of_a_script_travel_and_leave_no_file_open_and_no_thread(start):
    with start("name") as parent:
        out, err = parent.communicate(timeout=30)
    assert (out, err) == ("__main__ of mine 0 1\n", "")


@pytest.mark.parametrize(
    ("mode", "fault"), [("main", signal.SIGKILL), ("thread", signal.SIGKILL), ("main", signal.SIGINT)]
)
def test_a_parent_that_is_killed_leaves_no_child(start, tmp_path, mode, fault):
    with start(mode) as parent:
        wait_until((tmp_path / "pid").exists)
        child = int((tmp_path / "pid").read_text())
        assert not is_gone(child)
        parent.send_signal(fault)
        _, err = parent.communicate(timeout=30)
    assert ("KeyboardInterrupt" in err) == (fault == signal.SIGINT)
    wait_until(lambda: is_gone(child))
    assert list((tmp_path / "temporary").iterdir()) == []
