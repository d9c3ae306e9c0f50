"""The progress bar of long work: one line on a terminal or in a notebook, nothing where nobody looks."""

from collections.abc import Generator, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")


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
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    shown = console.is_terminal or console.is_jupyter
    with Progress(*columns, console=console, disable=not shown) as bar:
        try:
            yield from bar.track(items, total=total, description=what)
        finally:
            # after Ctrl-C as well: what still runs has ended before anybody clears up after it
            if isinstance(items, Generator):
                items.close()
