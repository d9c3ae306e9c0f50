import io
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout, suppress

import pyarrow as pa
import pytest

from sciplat.errors import StepError
from sciplat.sky.cell import Cell
from sciplat.steps.map import apply_step
from sciplat.tasks.output import bounded_output

WHAT = "survey:colours on cell 5/1284"


@pytest.fixture(autouse=True)
def streams_are_left_as_they_were():
    before = sys.stdout, sys.stderr
    yield
    assert (sys.stdout, sys.stderr) == before


def test_what_fits_goes_through_and_the_next_character_is_refused(capsys):
    with bounded_output(WHAT, limit=10):
        print("12345")
        sys.stderr.write("678")
        with pytest.raises(StepError) as caught:
            print("9abc")
    assert caught.value.what == f"{WHAT} prints too much"
    assert caught.value.found == "more than 10 characters"
    assert capsys.readouterr() == ("12345\n9", "678")
    print("free again")
    assert capsys.readouterr().out == "free again\n"


def test_exactly_the_limit_is_allowed_and_more_is_refused_again_and_again(capsys):
    with bounded_output(WHAT, limit=4):
        print("abc")
        for _ in range(3):
            with pytest.raises(StepError):
                print("d")
    assert capsys.readouterr().out == "abc\n"


def test_bytes_and_lines_are_counted_too(capsysbinary):
    with bounded_output(WHAT, limit=6):
        sys.stdout.buffer.write(b"abc")
        with pytest.raises(StepError):
            sys.stdout.writelines(["de", "fg"])
        sys.stdout.flush()
    assert sorted(capsysbinary.readouterr().out) == sorted(b"abcdef")


def test_the_stream_is_the_old_one_in_everything_else(capsys):
    encoding, terminal = sys.stdout.encoding, sys.stdout.isatty()
    with bounded_output(WHAT):
        assert (sys.stdout.encoding, sys.stdout.isatty()) == (encoding, terminal)
        assert print("abc") is None
        assert sys.stdout.write("abc") == 3


def test_other_threads_are_neither_counted_nor_stopped(capsys):
    def print_much():
        for _ in range(100):
            print("x" * 99)

    with bounded_output(WHAT, limit=10):
        other = threading.Thread(target=print_much)
        other.start()
        other.join()
        print("123456789")
    assert len(capsys.readouterr().out) == 100 * 100 + 10


def test_threads_have_limits_of_their_own(capsys):
    start = threading.Barrier(4)

    def run(number):
        with bounded_output(WHAT, limit=1000 * number):
            start.wait(30)
            with suppress(StepError):
                while True:
                    sys.stdout.write(str(number) * 7)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(1, 5)))
    written = capsys.readouterr().out
    assert [written.count(str(number)) for number in range(1, 5)] == [1000, 2000, 3000, 4000]


def test_nested_limits_all_count(capsys):
    with bounded_output("outer", limit=8):
        with bounded_output("inner", limit=5):
            sys.stdout.write("abc")
            with pytest.raises(StepError, match="inner prints too much"):
                sys.stdout.write("defg")
        with bounded_output("inner", limit=5), pytest.raises(StepError, match="outer prints too much"):
            sys.stdout.write("hijk")
    assert capsys.readouterr().out == "abcdehij"


def test_what_others_have_put_there_stays(capsys):
    other = io.StringIO()
    before = sys.stdout
    try:
        with bounded_output(WHAT, limit=10):
            sys.stdout = other
        assert sys.stdout is other
    finally:
        sys.stdout = before


def test_a_stream_that_others_restore_too_late_still_writes_and_is_not_wrapped_twice(capsys):
    before = sys.stdout
    late = redirect_stdout(io.StringIO())
    try:
        with bounded_output(WHAT, limit=10):
            late.__enter__()
        late.__exit__(None, None, None)
        assert sys.stdout is not before
        print("through")
        with bounded_output(WHAT, limit=3), pytest.raises(StepError):
            print("abcd")
        assert sys.stdout is before
        assert capsys.readouterr().out == "through\nabc"
    finally:
        sys.stdout = before


def test_a_process_without_streams_has_nothing_to_bound(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with bounded_output(WHAT, limit=1):
        print("goes nowhere")
        assert sys.stdout is None


def test_a_function_that_prints_for_ever_ends_in_its_error(capsys):
    def chatter(_):
        while True:
            print("more")

    table = pa.table({"_healpix_29": [1]})
    with pytest.raises(StepError, match="prints too much"), bounded_output(WHAT, limit=1000):
        apply_step(chatter, table, table.schema, Cell(0, 0), surrounded=False)
    assert len(capsys.readouterr().out) == 1000
