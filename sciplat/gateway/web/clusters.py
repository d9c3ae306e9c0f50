"""Clusters as their owners, and whoever runs the gateway, see them: state, reasons, logs, the end.

The routes' parameter is `cluster`, not `cluster_name`: admins are let through here, and nowhere else.
"""

import re
import time
from typing import Any

from aiohttp import web
from dask_gateway_server.backends.db_base import JobStatus

from sciplat.errors import ArgumentError
from sciplat.gateway.quota.refusals import one_line, tell
from sciplat.gateway.units import iso
from sciplat.gateway.users.identity import find_cluster
from sciplat.gateway.web.answer import answer, read_flag, read_number

_DAY = 86_400.0
_LINES = 100  # of a log, unless more or fewer are asked for
_MOST_LINES = 5000
_MOST_LOGS = 50  # in one answer: the newest workers'
_LONGEST = 1024**2  # characters of a log in an answer
_WORKER = re.compile(r"[0-9a-f]{1,32}")
_ENDED = {JobStatus.STOPPED: "stopped", JobStatus.FAILED: "failed"}


def describe(cluster: Any) -> dict[str, Any]:
    """Return a cluster of the database for its owner: in words, with times in ISO 8601 and memory in bytes.

    Parameters
    ----------
    cluster : dask_gateway_server.backends.db_base.Cluster

    Returns
    -------
    dict
        No keys or addresses. "ends" is when its lifetime will be over, None if it has none or has ended.
    """
    started, config = cluster.start_time / 1000, cluster.config
    running = sum(worker.status == JobStatus.RUNNING for worker in cluster.active_workers())
    asked = cluster.count if cluster.is_active() else 0
    return {
        "name": cluster.name,
        "user": cluster.username,
        "status": status_of(cluster),
        "profile": config.profile,
        "workers": {"asked": asked, "running": running, "waiting": max(asked - running, 0)},
        "cores": config.worker_cores,
        "memory": config.worker_memory,
        "started": iso(started),
        "ends": iso(started + config.lifetime) if config.lifetime and cluster.is_active() else None,
        "ended": None if cluster.stop_time is None else iso(cluster.stop_time / 1000),
        "reason": cluster.state.get("reason", ""),
    }


def status_of(cluster: Any) -> str:
    """Return a cluster's state: queueing, starting, running, stopping, stopped or failed."""
    if cluster.status in _ENDED:
        return _ENDED[cluster.status]
    if cluster.target > JobStatus.RUNNING:
        return "stopping"
    if cluster.status == JobStatus.RUNNING:
        return "running"
    return "queueing" if "job_id" in cluster.state else "starting"  # a batch system has it, and has not said more


async def list_clusters(request: web.Request) -> dict[str, Any]:
    """Answer with the user's clusters, or everybody's."""
    user, db = request["user"], request.app["backend"].db
    everybody, ended = read_flag(request, "all"), read_flag(request, "ended")
    if everybody and not user.admin:
        raise web.HTTPForbidden(reason="Only an admin of this gateway may list everybody's clusters")
    found = db.name_to_cluster if everybody else db.username_to_clusters.get(user.name, {})
    recent = (time.time() - _DAY) * 1000
    shown = [one for one in found.values() if one.status not in _ENDED or (ended and (one.stop_time or 0) >= recent)]
    return {"clusters": [describe(one) for one in sorted(shown, key=lambda one: one.start_time)]}


async def show_cluster(request: web.Request) -> dict[str, Any]:
    """Answer with one cluster's state, what it waits for, and the versions of its packages."""
    cluster, backend = await _cluster(request), request.app["backend"]
    beat = backend.beats.get(cluster.name)
    return {
        **describe(cluster),
        "waiting": await _waiting(backend, cluster),
        "versions": {} if beat is None else beat.versions,
    }


async def stop_cluster(request: web.Request) -> None:
    """Stop a cluster; its owner learns if it was somebody else."""
    cluster, backend = await _cluster(request), request.app["backend"]
    if cluster.username != request["user"].name and cluster.is_active():
        reason = "stopped by an admin of the gateway"
        backend.db.update_cluster(cluster, state={**cluster.state, "reason": reason})
    await backend.stop_cluster(cluster.name)


async def show_why(request: web.Request) -> dict[str, Any]:
    """Answer with what a cluster waits for, or why it ended."""
    cluster = await _cluster(request)
    if cluster.status in _ENDED:
        return {"lines": [": ".join(filter(None, [status_of(cluster), cluster.state.get("reason", "")]))]}
    return {"lines": await _waiting(request.app["backend"], cluster)}


async def show_logs(request: web.Request) -> dict[str, Any]:
    """Answer with the ends of the logs: of the scheduler and the newest workers, or of what `worker` names."""
    cluster, read = await _cluster(request), request.app["backend"].read_logs
    lines = read_number(request, "lines", _LINES, _MOST_LINES)
    asked = request.query.get("worker", "")
    names = [_worker(cluster, asked)] if asked else ["", *list(cluster.workers)[-_MOST_LOGS:]]
    found = await read(cluster, names, lines)
    return {"logs": {name or "scheduler": text[-_LONGEST:] for name, text in found.items()}}


async def _cluster(request: web.Request) -> Any:
    """Return the database's cluster that a request is about, if it is the user's or they are an admin."""
    backend, name = request.app["backend"], request.match_info["cluster"]
    await find_cluster(backend, name, request["user"], admins=True)
    return backend.db.get_cluster(name)


async def _waiting(backend: Any, cluster: Any) -> list[str]:
    """Return what a cluster waits for: in the batch system, for its quota, and what came of its last worker."""
    if not cluster.is_active():
        return []
    try:
        lines = list(await backend.why(cluster))
    except Exception as error:  # noqa: BLE001 (its state is known, whatever the batch system says)
        backend.log.warning("Nothing is known of what %s waits for: %s", cluster.name, error)
        lines = [f"what it waits for is not known: {one_line(error)}"]
    refusal = backend.refusals.get(cluster.name)
    if refusal is not None:
        lines.append(tell(backend, refusal, cluster.username))
    if cluster.state.get("last"):
        lines.append(f"the last worker that did not start: {cluster.state['last']}")
    return lines


def _worker(cluster: Any, asked: str) -> str:
    """Return the name of the one worker whose name begins so; the scheduler's is empty."""
    if asked == "scheduler":
        return ""
    found = [name for name in cluster.workers if _WORKER.fullmatch(asked) and name.startswith(asked)]
    if len(found) != 1:
        raise ArgumentError(f"{'no worker' if not found else 'more than one worker'} begins so", found=repr(asked)[:80])
    return str(found[0])


_PATH = "/api/sciplat/clusters/{cluster}"
CLUSTER_ROUTES = (
    web.get("/api/sciplat/clusters", answer(list_clusters)),
    web.get(_PATH, answer(show_cluster)),
    web.delete(_PATH, answer(stop_cluster)),
    web.get(f"{_PATH}/why", answer(show_why)),
    web.get(f"{_PATH}/logs", answer(show_logs)),
)
