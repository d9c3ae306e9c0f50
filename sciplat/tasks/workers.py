"""Where tasks run: threads of this process, or the Dask cluster whose client the user has opened."""

import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from sciplat.config import settings
from sciplat.errors import ClusterLost
from sciplat.tasks import apart
from sciplat.tasks.progress import Progress

_LOOK = 0.05  # seconds between two looks at what is to end
_QUIET = 4  # looks that find nothing
_USABLE = 0.8  # of a worker's memory: above it Dask pauses the worker
WARM = 350_000_000  # bytes of a process that has imported and compiled what photometry needs
_settled = False  # whether this process has begun to work
_NOTICE = 0.5  # seconds in which a nanny notices that its worker has started
_RECOUNT = 2.0  # seconds for which a count of threads stands
_ANSWER = 2.0  # seconds in which a scheduler tells how many threads there are
_GRACE = 5.0  # seconds in which a lost scheduler may answer again
_NANNY_RETURNS = 10.0  # seconds in which a nanny starts a new worker process
_MOST_LOSSES = 5  # times that Dask may give up on an item because its workers went away


class Workers(Protocol):
    """What hands items to threads somewhere."""

    @property
    def threads(self) -> int:
        """Threads that there are now; 1 while there is none, so that something asks for workers."""
        ...

    @property
    def present(self) -> bool:
        """Whether there is any worker now."""
        ...

    def memory(self) -> int | None:
        """Return the bytes that one task may use, None if there is no limit; waits for the first worker."""
        ...

    def submit(self, function: Callable[[Any], Any], item: Any) -> Any:
        """Start work; the future has ``result()`` and ``add_done_callback()``."""
        ...

    def is_lost(self, error: BaseException, losses: int) -> bool:
        """Return whether an item is to be handed out again because its worker went away through no fault of it."""
        ...

    def check(self) -> None:
        """Raise ClusterLost if nobody is there any more to do the work."""
        ...

    def close(self, futures: list[Any], *, wait: bool) -> None:
        """Drop what has not begun; with `wait`, return only when what has begun is over."""
        ...


class LocalThreads:
    """Threads of this process: no scheduler, no port, no wait."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="sciplat")

    @property
    def threads(self) -> int:
        """As the settings say."""
        return settings().threads

    @property
    def present(self) -> bool:
        """True."""
        return True

    def memory(self) -> int:
        """Return a thread's share of the memory that the settings allow and this process does not use yet."""
        return _local_share()

    def submit(self, function: Callable[[Any], Any], item: Any) -> Any:
        """Queue work."""
        return self._pool.submit(function, item)

    def is_lost(self, error: BaseException, losses: int) -> bool:  # noqa: ARG002
        """Return False: threads do not go away."""
        return False

    def check(self) -> None:
        """Do nothing: this process is here."""

    def close(self, futures: list[Any], *, wait: bool) -> None:
        """Drop what has not begun and wait for the rest: threads cannot be left behind, only processes be stopped."""
        self._pool.shutdown(wait=wait, cancel_futures=True)
        while not all(future.done() for future in futures):
            apart.stop_all()
            time.sleep(_LOOK)


class DaskCluster:
    """A Dask cluster: LocalCluster, a gateway's, or any other that has a client."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._address = client.scheduler.address  # a client that has given up does not know it any more
        self._counted = -1.0
        self._threads = 1

    @property
    def threads(self) -> int:
        """Threads of all workers that are there now, or 1."""
        return max(self._count(), 1)

    @property
    def present(self) -> bool:
        """Whether there is any worker now."""
        return self._count() > 0

    def _count(self) -> int:
        """Return the threads of all workers, counted anew every few seconds."""
        if time.monotonic() - self._counted > _RECOUNT:
            self.check()
            with suppress(OSError):  # a scheduler that is too busy to answer: the last count stands
                self._threads = sum(self._ask_threads().values())
            self.check()  # or one that is gone
            self._counted = time.monotonic()
        return self._threads

    def _ask_threads(self) -> dict[str, int]:
        """Return the threads of every worker; `client.nthreads()` would wait half a minute for a lost scheduler."""
        client = self._client
        answer: dict[str, int] = client.sync(client.scheduler.ncores, workers=None, callback_timeout=_ANSWER)
        return answer

    def memory(self) -> int | None:
        """Return the share of a thread on the worker that has least, once there is a worker."""
        with self._noticing():
            for _ in range(_MOST_LOSSES):
                with suppress(CancelledError):  # the connection broke, and may come back
                    return self._ask_memory()
                self.check()
            return self._ask_memory()

    def _ask_memory(self) -> int | None:
        first = self._client.submit(_settled_memory, pure=False)  # makes an adaptive cluster ask for a worker
        if not self.present:
            with Progress("waiting for workers", None):
                first.result()
        first.result()
        return _cluster_share(self._client, self._client.run(_settled_memory, on_error="ignore"))

    def submit(self, function: Callable[[Any], Any], item: Any) -> Any:
        """Hand work to the scheduler; equal arguments do not make it the same work, as it has effects on storage."""
        return self._client.submit(function, item, key=f"{type(function).__name__}-{uuid.uuid4().hex}", pure=False)

    def is_lost(self, error: BaseException, losses: int) -> bool:
        """Tell a worker that was taken away (walltime, preemption) from one that the work itself ended.

        A batch system ends the nanny with its worker. A nanny that lives on saw its worker process die alone: out of
        memory, or a crash in compiled code.
        """
        from distributed.scheduler import KilledWorker

        if isinstance(error, CancelledError):
            self.check()
            return losses < _MOST_LOSSES
        with self._noticing():
            return (
                isinstance(error, KilledWorker) and losses < _MOST_LOSSES and not self._nanny_lives(error.last_worker)
            )

    def _nanny_lives(self, worker: Any) -> bool:
        end = time.monotonic() + _NANNY_RETURNS
        while worker.nanny and time.monotonic() < end:
            infos = self._client.scheduler_info(n_workers=-1)["workers"].values()
            if any(info.get("nanny") == worker.nanny for info in infos):
                return True
            time.sleep(0.2)
        return False

    def check(self) -> None:
        """Raise ClusterLost if the scheduler has not answered for some seconds."""
        end = time.monotonic() + _GRACE
        while self._client.status != "running":
            if time.monotonic() > end or self._client.status == "closed":
                raise ClusterLost(
                    f"the Dask scheduler {self._address} is gone",
                    hint="connect to a cluster and call the same again: what is finished is kept",
                )
            time.sleep(0.1)

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """Turn an error of talking to a scheduler that is gone into ClusterLost."""
        try:
            yield
        except ClusterLost:
            raise
        except (OSError, CancelledError):
            self.check()
            raise

    def close(self, futures: list[Any], *, wait: bool) -> None:
        """Cancel everything; what has begun goes on unseen, so `wait` looks at the workers until it has ended."""
        if self._client.status != "running" or not futures:
            return
        self._client.cancel(futures, force=True)
        keys, quiet = {future.key for future in futures}, 0
        while wait and quiet < _QUIET and self._client.status == "running" and self.present:
            # one look is not enough: what a worker was about to begin may not know yet that it is cancelled
            running = {key for calls in self._client.call_stack().values() for key in calls}
            quiet = 0 if keys & running else quiet + 1
            time.sleep(_LOOK)


def open_workers() -> Workers:
    """Return the Dask cluster that the user has a client of, otherwise local threads."""
    client = open_client()
    return LocalThreads() if client is None else DaskCluster(client)


def open_client() -> Any | None:
    """Return the Dask client that the user has opened, if any.

    A plan inside a task of another one runs on local threads: the cluster's may all be waiting for it.
    """
    distributed = sys.modules.get("distributed")  # nobody opened a client who has not imported it
    if distributed is None or _in_task():
        return None
    try:
        return distributed.default_client()
    except ValueError:
        return None


def _in_task() -> bool:
    """Return whether a Dask worker runs this."""
    from distributed import get_worker

    try:
        get_worker()
    except ValueError:
        return False
    return True


def resident_memory() -> int:
    """Return the bytes of physical memory that this process uses."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def settle() -> None:
    """Wait a moment before the first work of a Dask worker's process.

    A nanny does not replace a process that dies before it has noticed its start: work that ends its process would
    end the worker for good, and in the end the cluster.
    """
    global _settled  # noqa: PLW0603
    if _settled or "distributed" not in sys.modules:
        return
    from distributed import get_worker

    with suppress(ValueError):  # no worker
        if get_worker().nanny is not None:
            time.sleep(_NOTICE)
    _settled = True


def look_at_workers() -> tuple[int, int | None, bool]:
    """Return the threads that there are now, the bytes that a task may use if known, and whether both are local."""
    client = open_client()
    if client is None:
        return settings().threads, _local_share(), True
    return max(sum(client.nthreads().values()), 1), _cluster_share(client), False


def _local_share() -> int:
    return max(settings().memory - max(resident_memory(), WARM), 0) // settings().threads


def _cluster_share(client: Any, resident: dict[str, int] | None = None) -> int | None:
    """Return the share of a thread on the worker that has least, None if no worker is there or none has a limit.

    The memory that workers use is what they last told, unless it is given by their addresses.
    """
    known = resident or {}
    infos = client.scheduler_info(n_workers=-1)["workers"]
    shares = [
        (_USABLE * info["memory_limit"] - max(known.get(address, info["metrics"].get("memory", 0)), WARM))
        / info["nthreads"]
        for address, info in infos.items()
        if info["memory_limit"]
    ]
    return int(max(min(shares), 0)) if shares else None


def _settled_memory() -> int:
    """Return the bytes that this process uses once it has given back what earlier tasks left."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    return resident_memory()
