"""The one door to Dask, and the local threads that are used without a cluster.

Items are handed out through a bounded window, so that a long plan takes constant memory here and on a scheduler.
Results arrive as they are finished, in any order.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import islice
from typing import Any, TypeVar

from sciplat.config import settings

Item = TypeVar("Item")
Result = TypeVar("Result")
_WAITING = 2  # items that wait for each thread, so that none runs dry


def stream(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Apply `function` to every item, on the open Dask cluster if there is one, otherwise on local threads.

    The first error stops the stream: nothing more is handed out, what runs is left to end, and the error is raised.

    Parameters
    ----------
    function : callable
        Takes an item; on a cluster it travels to the workers, so it is a function or object that pickles.
    items : iterable
        May be lazy and long.
    """
    client = _open_client()
    if client is None:
        return on_threads(function, iter(items))
    return _on_cluster(client, function, iter(items))


def _open_client() -> Any | None:
    """Return the Dask client that the user has opened, if any."""
    distributed = sys.modules.get("distributed")  # nobody opened a client who has not imported it
    if distributed is None:
        return None
    try:
        return distributed.default_client()
    except ValueError:
        return None


def on_threads(function: Callable[[Item], Result], items: Iterator[Item]) -> Iterator[Result]:
    """Apply `function` to every item on local threads, whether or not there is a cluster."""
    threads = settings().threads
    pool = ThreadPoolExecutor(threads, thread_name_prefix="sciplat")
    try:
        pending: set[Future[Result]] = set()
        while True:
            room = threads * (1 + _WAITING) - len(pending)
            pending |= {pool.submit(function, item) for item in islice(items, room)}
            if not pending:
                return
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _on_cluster(client: Any, function: Callable[[Item], Result], items: Iterator[Item]) -> Iterator[Result]:
    from distributed import as_completed

    window = max(sum(client.nthreads().values()), 1) * (1 + _WAITING)
    # every item is work with effects on storage: equal arguments do not make it the same work
    finished = as_completed([client.submit(function, item, pure=False) for item in islice(items, window)])
    try:
        for future in finished:
            yield future.result()
            for item in islice(items, 1):
                finished.add(client.submit(function, item, pure=False))
    finally:
        # a cancelled task runs on unseen: only when all have ended may anybody clear up what they write
        with suppress(Exception):
            for _ in finished:
                pass
