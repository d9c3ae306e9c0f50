"""The progress bar of long work: one line on a terminal or in a notebook, nothing where nobody looks."""

import io
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.jupyter import JUPYTER_HTML_FORMAT
from rich.live import Live
from rich.text import Text

Item = TypeVar("Item")
_UPDATES = 5  # a second
_SHORTEST_BAR, _LONGEST_BAR = 5, 40  # characters
_SPARED = ("rate", "elapsed", "memory", "rows")  # what a narrow line leaves out first
_NOTEBOOK_WIDTH = 120  # characters
_STYLES = {"cells": "green", "rows": "cyan", "rate": "red", "elapsed": "yellow", "eta": "cyan", "memory": "magenta"}


class Progress:
    """A progress bar, used as a context manager by the main thread.

    Parameters
    ----------
    what : str
        What is being done, for example "crossmatch".
    total : int or None
        Number of cells; None if unknown.
    done : int
        Cells that an earlier run finished; they count for the bar, not for the rate and the remaining time.
    """

    def __init__(self, what: str, total: int | None, *, done: int = 0) -> None:
        self._line = Line(what, total, done)
        self._begun = self._drawn = monotonic()
        self._screen: Live | _Notebook | None = None

    def __enter__(self) -> Self:
        console = Console(stderr=True)
        if console.is_jupyter:
            self._screen = _Notebook(self._now)
        elif console.is_terminal:
            self._screen = Live(get_renderable=self._now, console=console, refresh_per_second=_UPDATES)
        if self._screen is not None:
            self._screen.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._screen is not None:
            self._screen.stop()

    def advance(self, *, cells: int = 1, rows: int = 0) -> None:
        """Count cells that are finished, and the rows that they gave."""
        self._line = replace(self._line, cells=self._line.cells + cells, rows=self._line.rows + rows)
        self._draw()

    def show(self, *, memory: int | None = None, note: str = "") -> None:
        """Show how the work stands, in place of what was shown before.

        Parameters
        ----------
        memory : int or None
            Bytes that the largest worker holds.
        note : str
            For example "waiting for workers".
        """
        news = note != self._line.note
        self._line = replace(self._line, memory=memory, note=note)
        self._draw(at_once=news)  # a note may tell of a long wait, in which nothing else moves a notebook's bar

    def _now(self) -> "Line":
        return replace(self._line, seconds=monotonic() - self._begun)

    def _draw(self, *, at_once: bool = False) -> None:
        if self._screen is not None and (at_once or monotonic() - self._drawn >= 1 / _UPDATES):
            self._screen.refresh()
            self._drawn = monotonic()


@dataclass(frozen=True)
class Line:
    """What a progress bar shows at one moment, drawn by rich in one line of any width.

    Parameters
    ----------
    what : str
    total : int or None
        Number of cells.
    earlier : int
        Cells that an earlier run finished.
    cells, rows : int
        Finished by this run.
    seconds : float
        Since this run began.
    memory : int or None
        Bytes.
    note : str
    """

    what: str
    total: int | None
    earlier: int = 0
    cells: int = 0
    rows: int = 0
    seconds: float = 0.0
    memory: int | None = None
    note: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = {name: Text(text, _STYLES.get(name, "")) for name, text in self._columns().items() if text}
        for name in _SPARED:
            if self._room(columns, options.max_width) >= _SHORTEST_BAR:
                break
            columns.pop(name, None)
        what, *others = columns.values()
        bar = self._bar(min(self._room(columns, options.max_width), _LONGEST_BAR), ascii_only=options.ascii_only)
        yield Text(" ", no_wrap=True, overflow="ellipsis").join([what, *([bar] if bar else []), *others])

    def _columns(self) -> dict[str, str]:
        """Return the texts in the order of the line; what is not known is empty."""
        done = self.earlier + self.cells
        counted, unit = (self.rows, " rows/s") if self.rows else (self.cells, "/s")
        return {
            "what": " ".join(self.what.split()),
            "cells": f"{done:,}" if self.total is None else f"{done:,}/{self.total:,}",
            "rows": f"{self.rows:,} rows" if self.rows else "",
            "rate": f"{_number(counted / self.seconds)}{unit}" if counted and self.seconds else "",
            "elapsed": _clock(self.seconds),
            "eta": self._eta(done),
            "memory": "" if self.memory is None else format_bytes(self.memory),
            "note": " ".join(self.note.split()),
        }

    def _eta(self, done: int) -> str:
        if self.total is None:
            return ""
        if done >= self.total:
            return "ETA 0:00:00"
        return f"ETA {_clock((self.total - done) * self.seconds / self.cells)}" if self.cells else "ETA -:--:--"

    def _room(self, columns: dict[str, Text], width: int) -> int:
        """Return how many characters are left for the bar."""
        return width - sum(text.cell_len + 1 for text in columns.values())

    def _bar(self, width: int, *, ascii_only: bool) -> Text:
        if self.total is None or width < _SHORTEST_BAR:
            return Text()
        share = min((self.earlier + self.cells) / self.total, 1.0) if self.total else 1.0
        full = int(share * width)
        done, rest = ("#", "-") if ascii_only else ("━", "─")
        return Text.assemble((done * full, "green"), (rest * (width - full), "dim"))


def progress(items: Iterable[Item], *, what: str, total: int | None) -> Iterator[Item]:
    """Pass the items on and show how many have come.

    Parameters
    ----------
    items : iterable
    what : str
        What is being done, for example "photometry".
    total : int or None
        Expected number of items; None if unknown.
    """
    with Progress(what, total) as bar:
        try:
            for item in items:
                bar.advance()
                yield item
        finally:
            # after Ctrl-C as well: what still runs has ended before anybody clears up after it
            if isinstance(items, Generator):
                items.close()


def format_bytes(count: float) -> str:
    """Return a number of bytes as people read it, for example "1.9 GB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            break
        count /= 1000
    return f"{_number(count)} {unit}"


class _Notebook:
    """A line below a notebook's cell that is drawn anew; rich's own needs ipywidgets for that."""

    def __init__(self, line: Callable[[], Line]) -> None:
        self._line = line
        self._handle: Any = None

    def start(self) -> None:
        # no dependency: where a notebook runs, IPython is there
        self._handle = import_module("IPython.display").display(self._drawn(), raw=True, display_id=True)

    def refresh(self) -> None:
        self._handle.update(self._drawn(), raw=True)

    stop = refresh

    def _drawn(self) -> dict[str, str]:
        paper = Console(
            file=io.StringIO(), record=True, width=_NOTEBOOK_WIDTH, color_system="truecolor", force_jupyter=False
        )
        paper.print(self._line())
        return {
            "text/html": paper.export_html(clear=False, inline_styles=True, code_format=JUPYTER_HTML_FORMAT),
            "text/plain": paper.export_text(),
        }


def _number(value: float) -> str:
    """Return three significant digits, or all before the point."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"
