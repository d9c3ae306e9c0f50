"""Items on their way to workers, through a bounded window: a long plan takes constant memory here and on a scheduler.

Results arrive as they are finished, in any order.
"""

import heapq
import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar

from sciplat.tasks.workers import LocalThreads, Workers, open_workers

Item = TypeVar("Item")
Result = TypeVar("Result")
_WAITING = 2  # items that wait for each thread, so that none runs dry
_LOOK = 1.0  # seconds after which a silent cluster is looked at


@dataclass(frozen=True)
class Done(Generic[Item, Result]):
    """An item that was worked on: its result, or the error that came instead."""

    item: Item
    result: Result | None
    error: Exception | None


class Stream(Generic[Item, Result]):
    """A context in which items stream to workers and come back as `Done`.

    Leaving it drops what has not begun and waits for what has, except after Ctrl-C on a cluster.

    Parameters
    ----------
    function : callable
        Takes an item; on a cluster it travels to the workers, so it is a function or object that pickles.
    items : iterable
        May be lazy and long.
    workers : Workers
    idle : callable, optional
        Called every second in which nothing comes back.
    """

    def __init__(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        workers: Workers,
        idle: Callable[[], None] | None = None,
    ) -> None:
        self._function = function
        self._idle = idle
        self._items = iter(items)
        self._workers = workers
        self._running: dict[int, tuple[Item, Any]] = {}
        self._finished: SimpleQueue[int] = SimpleQueue()
        self._again: list[tuple[float, int, Item]] = []
        self._losses: dict[int, int] = {}  # of items, by identity: an item stays alive while it is on its way
        self._numbers = itertools.count()

    def __enter__(self) -> "Stream[Item, Result]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        self._workers.close([future for _, future in self._running.values()], wait=not interrupted)

    def again(self, item: Item, *, after: float = 0.0) -> None:
        """Hand an item out once more, `after` so many seconds."""
        heapq.heappush(self._again, (time.monotonic() + after, next(self._numbers), item))

    def __iter__(self) -> Iterator[Done[Item, Result]]:
        while True:
            self._fill()
            if not self._running and not self._again:
                return
            try:
                number = self._finished.get(timeout=self._patience())
            except Empty:
                self._workers.check()
                if self._idle is not None:
                    self._idle()
                continue
            done = self._ended(*self._running.pop(number))
            if done is not None:
                yield done

    def _fill(self) -> None:
        room = self._workers.threads * (1 + _WAITING) - len(self._running)
        for _ in range(room):
            if self._again and self._again[0][0] <= time.monotonic():
                item = heapq.heappop(self._again)[2]
            else:
                try:
                    item = next(self._items)
                except StopIteration:
                    return
            number = next(self._numbers)
            future = self._workers.submit(self._function, item)
            self._running[number] = item, future
            future.add_done_callback(lambda _, number=number: self._finished.put(number))

    def _patience(self) -> float:
        wait = self._again[0][0] - time.monotonic() if self._again else _LOOK
        return min(max(wait, 0.01), _LOOK)

    def _ended(self, item: Item, future: Any) -> Done[Item, Result] | None:
        """Return what came of an item, None if its worker was lost and it goes out again."""
        try:
            result = future.result()
        except Exception as error:  # noqa: BLE001  # the caller decides what any error means
            losses = self._losses.get(id(item), 0)
            if self._workers.is_lost(error, losses):
                self._losses[id(item)] = losses + 1
                self.again(item)
                return None
            self._losses.pop(id(item), None)
            return Done(item, None, error)
        self._losses.pop(id(item), None)
        return Done(item, result, None)


def stream(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Apply `function` to every item, on the open Dask cluster if there is one, otherwise on local threads.

    The first error stops the stream: nothing more is handed out, what runs is left to end, and the error is raised.

    Parameters
    ----------
    function : callable
        Takes an item; on a cluster it travels to the workers.
    items : iterable
        May be lazy and long.
    """
    return _results(function, items, open_workers())


def on_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Apply `function` to every item on local threads, whether or not there is a cluster."""
    return _results(function, items, LocalThreads())


def _results(
    function: Callable[[Item], Result], items: Iterable[Item], workers: Workers
) -> Generator[Result, None, None]:
    with Stream(function, items, workers) as on_the_way:
        for done in on_the_way:
            if done.error is not None:
                raise done.error
            yield done.result  # type: ignore[misc]  # there is a result where there is no error
