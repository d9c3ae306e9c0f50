import html
import io
import re

import nbformat
import pytest
from nbclient import NotebookClient
from rich.console import Console

from sciplat.tasks import progress as module
from sciplat.tasks.progress import Line, Progress, format_bytes, progress

FULL = Line(
    "crossmatch",
    12_288,
    1_004,
    cells=2_000,
    rows=1_234_567,
    seconds=100,
    memory=1_900_000_000,
    note="waiting for workers",
)
COLUMNS = [
    "crossmatch",
    "3,004/12,288",
    "1,234,567 rows",
    "12,346 rows/s",
    "0:01:40",
    "ETA 0:07:44",
    "1.9 GB",
    FULL.note,
]


@pytest.fixture
def screen(monkeypatch):
    """Return what is drawn on a terminal of 140 characters."""
    drawn = io.StringIO()
    monkeypatch.setattr(module, "Console", lambda **_: Console(file=drawn, force_terminal=True, width=140))
    return drawn


def drawn_lines(line, width):
    paper = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)
    paper.print(line)
    return paper.file.getvalue().splitlines()


def last_line(screen):
    """Return the text of the last line on a terminal."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    return re.split(r"[\r\n]+", text.strip())[-1]


def test_items_pass_in_their_order_and_a_bar_is_drawn_on_a_terminal(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(module, "Console", lambda **_: Console(file=screen, force_terminal=True, width=80))
    assert list(progress(iter("abc"), what="letters", total=3)) == ["a", "b", "c"]
    assert "letters" in screen.getvalue()
    assert "3/3" in screen.getvalue()


def test_nothing_is_drawn_where_nobody_looks(capfd):
    assert list(progress(range(3), what="numbers", total=3)) == [0, 1, 2]
    with Progress("crossmatch", 2) as bar:
        bar.advance(rows=5)
        bar.show(memory=1000, note="waiting for workers")
    assert capfd.readouterr() == ("", "")


def test_a_wide_terminal_shows_all_columns_in_their_order():
    (line,) = drawn_lines(FULL, 140)
    assert re.sub(" [━─]+ ", " ", line) == " ".join(COLUMNS)
    assert len(re.findall("━", line)) == pytest.approx(3004 / 12288 * len(re.findall("[━─]", line)), abs=1)


@pytest.mark.parametrize("width", [10, 20, 40, 60, 80, 100, 140])
def test_a_line_never_wraps_and_a_narrow_one_leaves_out_the_least_important(width):
    (line,) = drawn_lines(FULL, width)
    assert len(line) <= width
    assert line.startswith(FULL.what[: width - 1])
    if width >= 80:
        assert {"3,004/12,288", "ETA 0:07:44", FULL.note} <= {column for column in COLUMNS if column in line}
        assert "━" in line


def test_rate_and_remaining_time_do_not_count_what_an_earlier_run_did():
    (line,) = drawn_lines(Line("photometry", 100, 80, cells=4, seconds=8), 80)
    assert "84/100" in line
    assert "0.5/s" in line
    assert "ETA 0:00:32" in line


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (Line("images", 5), "images 0/5 0:00:00 ETA -:--:--"),
        (Line("images", 5, 5), "images 5/5 0:00:00 ETA 0:00:00"),
        (Line("images", 0), "images 0/0 0:00:00 ETA 0:00:00"),
        (Line("images", None, cells=3, seconds=2.0), "images 3 1.5/s 0:00:02"),
        (
            Line("images", 4, cells=2, rows=9, seconds=7200, memory=0),
            "images 2/4 9 rows 0.00125 rows/s 2:00:00 ETA 2:00:00 0 B",
        ),
        (Line("a\nb [red]", 1, seconds=3.0, note="one\n two"), "a b [red] 0/1 0:00:03 ETA -:--:-- one two"),
    ],
)
def test_what_is_not_known_is_left_out(line, shown):
    (text,) = drawn_lines(line, 140)
    assert re.sub(" [━─]+ ", " ", text) == shown


def test_a_terminal_without_unicode_gets_plain_characters():
    paper = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=paper, force_terminal=True, color_system=None, width=60).print(Line("images", 4, cells=2, seconds=1.0))
    paper.flush()
    assert re.search(b"images #+-+ 2/4", paper.buffer.getvalue())


def test_a_resumed_plan_counts_on(screen):
    with Progress("crossmatch", 10, done=7) as bar:
        bar.advance(rows=1_000)
        bar.advance(cells=2, rows=500)
        bar.show(memory=2_000_000, note="2 cells quarantined")
    line = last_line(screen)
    for column in ("crossmatch", "10/10", "1,500 rows", "rows/s", "ETA 0:00:00", "2 MB", "2 cells quarantined"):
        assert column in line


def test_what_is_shown_next_takes_the_place_of_what_was_shown(screen):
    with Progress("crossmatch", 10) as bar:
        bar.show(memory=2_000_000, note="waiting for workers")
        assert "waiting for workers" in last_line(screen)
        bar.show()
    assert "waiting for workers" not in last_line(screen)
    assert "MB" not in last_line(screen)


def test_an_error_leaves_the_terminal_clean(screen):
    def broken():
        yield 1
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        list(progress(broken(), what="numbers", total=2))
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert screen.getvalue().rindex(shown) > screen.getvalue().rindex(hidden)
    assert screen.getvalue().replace(shown, "").endswith("\n")
    assert "1/2" in last_line(screen)


@pytest.mark.filterwarnings("default")  # of Jupyter's own machinery; the notebook runs in another process
def test_a_notebook_shows_the_same_columns_in_one_output_without_a_warning():
    code = """
from time import sleep
from sciplat.tasks.progress import Progress, progress
with Progress("crossmatch", 40, done=10) as bar:
    for _ in range(30):
        bar.advance(rows=41_152)
        sleep(0.02)
    bar.show(memory=1_900_000_000, note="2 cells quarantined")
"""
    cells = [
        nbformat.v4.new_code_cell(code),
        nbformat.v4.new_code_cell('n = sum(progress([1, 2], what="numbers", total=2))'),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=120).execute()
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    assert [output.output_type for output in outputs] == ["display_data"] * 2
    text = html.unescape(re.sub("<[^>]+>", "", outputs[0].data["text/html"])).strip()
    assert text == outputs[0].data["text/plain"].strip()
    wanted = r"crossmatch ━+ 40/40 1,234,560 rows [\d,]+ rows/s 0:00:\d\d ETA 0:00:00 1.9 GB 2 cells quarantined"
    assert re.fullmatch(wanted, text)
    assert "style=" in outputs[0].data["text/html"]
    assert re.search("numbers ━+ 2/2", outputs[1].data["text/plain"])


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_700, "1 MB"), (1.9e9, "1.9 GB"), (5e15, "5,000 TB")],
)
def test_bytes_read_as_people_write_them(count, text):
    assert format_bytes(count) == text
