"""Runs in every cluster's scheduler: tells the gateway how the cluster is, and lets it end when nobody uses it.

It does what dask-gateway's own preload does, and besides: workers whose end is near are told as closing, so that others
take their places while they still work; a cluster is idle only while no workers queue; heartbeats go on while workers
that close hand on what they hold; and the dashboard answers the gateway alone.
"""

import asyncio
import collections
import logging
import math
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import click
from dask_gateway import scheduler_preload as upstream
from distributed.diagnostics.plugin import SchedulerPlugin
from tornado.httpclient import HTTPClientError

from sciplat.gateway.inside.guard import Guard
from sciplat.gateway.inside.versions import installed_versions

logger = logging.getLogger("distributed.scheduler")

_SOON = 0.5  # seconds in which several changes make one heartbeat
_LOOK = 1.0  # seconds between two looks whether the cluster is idle, or shorter for short timeouts
_MOST_DENIALS = 3
# Seconds for which the gateway may say that it does not know this cluster, by HTTP's status. 404 is the answer of a
# proxy that has just begun and has not heard yet where the gateway is.
_PATIENCE = {401: 5.0, 409: 5.0, 404: 60.0}
_PAGES = (
    "distributed.http.scheduler.info",
    "distributed.http.scheduler.prometheus",
    "distributed.http.scheduler.json",
    "distributed.http.health",
    "distributed.http.statics",
)


class Bell:
    """Wakes who waits; a ring that comes while nobody waits is kept, where upstream's `Waiter` loses it."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._later: asyncio.TimerHandle | None = None

    async def wait(self, seconds: float) -> None:
        """Return after some seconds, or when it rings."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._rung.wait(), seconds)
        self._rung.clear()
        if self._later is not None:
            self._later.cancel()
            self._later = None

    async def interrupt(self) -> None:
        """Ring now."""
        self._rung.set()

    def interrupt_soon(self) -> None:
        """Ring in a moment, once for all that happens until then."""
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(_SOON, self._rung.set)


class SiteSchedulerService(upstream.GatewaySchedulerService):  # type: ignore[misc]
    """The gateway's part of a scheduler.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    **options
        As upstream's.
    """

    def __init__(self, scheduler: Any, **options: Any) -> None:
        super().__init__(scheduler, **options)
        self.waiter = Bell()
        self.heartbeat_initial = 0.0  # the gateway waits for the first one
        self.versions = installed_versions()
        self._told: set[str] = set()  # closing workers that the gateway knows of
        self._gone: set[str] = set()  # workers that reached their end before the gateway knew
        self._awaited = 0.0  # when workers were last seen to queue, seconds since the epoch
        self._denials: list[float] = []  # when the gateway has just said that it knows no such cluster
        self._tasks: set[asyncio.Task[None]] = set()
        scheduler.add_plugin(_OnlyStaying(self))

    # workers come and go

    def worker_added(self, worker_address: str) -> None:
        """Tell the gateway soon, and at once when the worker's end is near."""
        super().worker_added(worker_address)
        self.waiter.interrupt_soon()
        leaves = self.address_to_worker[worker_address].metrics.get("leaves")
        if leaves is not None:
            delay = max(leaves - time.time(), 0)
            asyncio.get_running_loop().call_later(delay, lambda: self._start(self.waiter.interrupt()))

    def worker_removed(self, worker_address: str) -> None:
        """Remember who left as foreseen: the gateway must hear that before it hears that they are gone."""
        ws = self.address_to_worker[worker_address]
        if _is_leaving(ws) and ws.name not in self._told:
            self._gone.add(ws.name)
        super().worker_removed(worker_address)

    @property
    def staying(self) -> set[str]:
        """Names of the workers that are there and neither close nor are about to end."""
        leaving = {ws.name for ws in self.scheduler.workers.values() if _is_leaving(ws)}
        there: set[str] = self.active_workers - leaving - self.closing_workers
        return there

    # how many workers

    async def adapt_loop(self) -> None:
        """Follow the work: up at once, down to what the last few looks have in common."""
        window: collections.deque[int] = collections.deque(maxlen=self.adaptive_window)
        while True:
            try:
                wanted = self._wanted()
                window.append(wanted)
                if wanted > self.count:
                    await self._scale(wanted)
                elif max(window) < self.count:
                    await self._scale(max(window))
            except Exception:
                logger.exception("Error in adaptive loop")
            await asyncio.sleep(self.adaptive_period)

    def _wanted(self) -> int:
        """Return how many workers the work asks for.

        dask's target counts all workers that are there. Here those that leave do not count, and each of them that has
        work is given a successor: the work may not end in time.
        """
        workers = self.scheduler.workers.values()
        wanted = self.scheduler.adaptive_target(target_duration=self.target_duration)
        if wanted <= len(workers):
            unfinished = sum(1 for ws in workers if _is_leaving(ws) and ws.processing)
            wanted = max(len(self.staying) - (len(workers) - wanted), unfinished)
        least, most = self.minimum or 0, math.inf if self.maximum is None else self.maximum
        return int(min(max(wanted, least), most))

    def _surplus(self) -> list[str]:
        """Return the workers that are to close because fewer are wanted."""
        more = len(self.staying) - self.count
        names: list[str] = self.scheduler.workers_to_close(n=more, attribute="name") if more > 0 else []
        return names

    # what the gateway is told

    async def heartbeat(self) -> None:
        """Tell the gateway how the cluster is; let workers close only when it knows."""
        surplus = self._surplus()
        staying = self.staying - set(surplus)
        workers = list(self.scheduler.workers.values())
        closing = ({ws.name for ws in workers} - staying) | self._gone
        closed = set(self.closed_workers)
        message = {
            "scheduler_address": self.scheduler.address,
            "dashboard_address": self.dashboard_address,
            "api_address": self.api_address,
            "count": self.count,
            "active_workers": sorted(staying, key=str),
            "closing_workers": sorted(closing, key=str),
            "closed_workers": sorted(closed, key=str),
            "versions": self.versions,
            "ends": {str(ws.name): ws.metrics["ends"] for ws in workers if "ends" in ws.metrics},
            "quiet_since": self.scheduler.idle_since,
        }
        await self._tell(message)
        self._told = closing
        self._gone -= closing
        self.closed_workers -= closed - closing  # a list of all workers there ever were would grow without end
        if surplus:
            self.closing_workers.update(surplus)
            self._start(self._retire(surplus))

    async def _tell(self, message: dict[str, Any]) -> None:
        """Send a heartbeat; end this cluster if the gateway says again and again that it knows no such cluster."""
        try:
            await self.gateway.heartbeat(message)
        except (OSError, HTTPClientError) as error:
            patience, now = _PATIENCE.get(getattr(error, "code", 0)), time.monotonic()
            self._denials = [*self._denials, now] if patience is not None else []
            if patience is not None and len(self._denials) >= _MOST_DENIALS and now - self._denials[0] >= patience:
                logger.warning("The gateway does not know this cluster any more: %s", error)
                self._start(self.scheduler.close(reason="it belongs to no gateway"))
            raise
        self._denials = []

    async def _retire(self, names: list[str]) -> None:
        """Let workers close; one that holds results which nobody else can take stays, and is asked again."""
        try:
            await self.scheduler.retire_workers(names=names, remove=True, close_workers=True)
        finally:
            self.closing_workers.difference_update(names)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # idleness

    def idle_since(self) -> float | None:
        """Return since when nothing runs, waits or is waited for, in seconds since the epoch; None if something is."""
        if self.count > len(self.staying):
            self._awaited = time.time()
            return None
        since = self.scheduler.idle_since  # dask looks several times a second: for tasks, and for any change of one
        return None if since is None else max(since, self._awaited)

    async def check_idle(self) -> None:
        """Ask the gateway to stop the cluster when it has been idle for too long."""
        while True:
            await asyncio.sleep(min(_LOOK, self.idle_timeout / 4))
            since = self.idle_since()
            if since is None or time.time() - since < self.idle_timeout:
                continue
            logger.warning("Cluster has been idle for %g seconds, shutting down", self.idle_timeout)
            try:
                await self.gateway.shutdown()
            except (OSError, HTTPClientError) as error:
                logger.warning("The gateway cannot be asked to stop this cluster: %s", error)
            await asyncio.sleep(self.heartbeat_max)  # until it has stopped, or can be asked again


class _OnlyStaying(SchedulerPlugin):  # type: ignore[misc]
    """Lets dask choose workers to close only among those that would stay."""

    def __init__(self, service: SiteSchedulerService) -> None:
        self._service = service

    def valid_workers_downscaling(self, scheduler: Any, workers: list[Any]) -> list[Any]:  # noqa: ARG002
        staying = self._service.staying
        return [ws for ws in workers if ws.name in staying]


def _is_leaving(ws: Any) -> bool:
    """Return whether a worker takes no more tasks because its end is near; its preload tells when that begins."""
    return bool(ws.metrics.get("leaves", math.inf) <= time.time())


def _add_pages(scheduler: Any) -> None:
    """Make the pages of the dashboard."""
    from distributed.http.utils import get_handlers

    modules = list(_PAGES)
    try:
        from distributed.dashboard.scheduler import connect
    except ImportError:
        modules.append("distributed.http.scheduler.missing_bokeh")
    else:
        connect(scheduler.http_application, scheduler.http_server, scheduler)
    scheduler.http_application.add_handlers(".*$", get_handlers(scheduler, modules))


@click.command(params=list(upstream.dask_setup.params))
def dask_setup(
    scheduler: Any,
    dg_adaptive_period: float,
    dg_heartbeat_period: float,
    dg_idle_timeout: float,
    dg_api_address: str,
) -> None:
    """Guard the dashboard, and begin to talk with the gateway; a scheduler that cannot do both ends."""
    try:
        gateway = upstream.make_gateway_client()
        scheduler.http_server.request_callback = Guard(
            scheduler.http_application, gateway.token, lambda: _add_pages(scheduler)
        )
        service = SiteSchedulerService(
            scheduler,
            gateway=gateway,
            adaptive_period=dg_adaptive_period,
            heartbeat_period=dg_heartbeat_period,
            idle_timeout=dg_idle_timeout,
        )
        host, port = dg_api_address.rsplit(":", 1)
        service.listen((host, int(port)))
    except Exception:
        logger.exception("Error starting the gateway's part of the scheduler")
        sys.exit(1)
    scheduler.services["gateway"] = service
