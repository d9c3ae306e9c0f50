"""What the server answers besides dask-gateway's own API: /api/sciplat, dashboards, health and metrics."""

import asyncio
import shutil
import time
from typing import Any

from aiohttp import web
from dask_gateway_server.routes import api_handler
from sqlalchemy import text

from sciplat.errors import StorageError
from sciplat.gateway.quota.refusals import one_line
from sciplat.gateway.web.accounts import ACCOUNT_ROUTES
from sciplat.gateway.web.answer import Handler
from sciplat.gateway.web.clusters import CLUSTER_ROUTES
from sciplat.gateway.web.dashboard import Dashboards
from sciplat.gateway.web.metrics import Metrics

_PATIENCE = 5.0  # seconds for a part of the gateway to answer
_ROOM = 100 * 1024**2  # bytes of free disk below which an operator is warned


def add_routes(app: web.Application) -> None:
    """Add our routes to the server's.

    Parameters
    ----------
    app : aiohttp.web.Application
        With "backend" (a SiteBackend), "authenticator" (a SiteAuthenticator) and "gateway" (which has `site`).
    """
    app.middlewares.extend([_tell_trouble, _need_object])
    metrics = Metrics(app["backend"])
    app.on_response_prepare.append(metrics.count)

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": metrics.content_type})

    app.add_routes([*CLUSTER_ROUTES, *ACCOUNT_ROUTES])
    app.add_routes([web.get("/metrics", api_handler(show_metrics, user_authenticated=True))])
    app.add_routes([web.get(path, show_health) for path in ("/health", "/api/sciplat/health")])
    Dashboards(app).add_routes()


@web.middleware
async def _tell_trouble(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell in words that the ledger does not answer, whatever route needed it."""
    try:
        return await handler(request)
    except StorageError as error:
        return web.json_response({"error": one_line(error)}, status=503)


@web.middleware
async def _need_object(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a body that is no JSON object, or bounds that are no numbers, over which upstream's handlers stumble."""
    if request.path.startswith("/api/v1/") and (request.method == "POST" or request.can_read_body):
        try:
            body = await request.json()
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            return web.json_response({"error": "the body of this request is no JSON object"}, status=400)
        for name in ("minimum", "maximum"):
            if type(body.get(name)) not in {int, type(None)} or (body.get(name) or 0) < 0:
                return web.json_response({"error": f"{name} is a number of workers"}, status=422)
    return await handler(request)


async def show_health(request: web.Request) -> web.Response:
    """Tell anybody whether the gateway is well, and no more than that."""
    health = await find_health(request.app)
    return web.json_response(health, status=503 if health["status"] == "fail" else 200)


async def find_health(app: web.Application) -> dict[str, Any]:
    """Return what works: {"status": "pass", "warn" or "fail", "checks": {part: the same}}.

    Without the database or the ledger nothing can be granted; without the proxy, or with little disk left, clusters
    that run go on.
    """
    backend, site = app["backend"], app["gateway"].site
    checks = {
        "database": "pass" if _database_answers(backend) else "fail",
        "ledger": "pass" if await _ledger_answers(backend) else "fail",
        "proxy": "pass" if await _connects(site.address) else "warn",
        "disk": "pass" if shutil.disk_usage(site.state).free > _ROOM else "warn",
    }
    worst = next((status for status in ("fail", "warn") if status in checks.values()), "pass")
    return {"status": worst, "checks": checks}


def _database_answers(backend: Any) -> bool:
    try:
        with backend.db.db.connect() as connection:
            connection.execute(text("SELECT 1"))
    except Exception:
        backend.log.exception("The database does not answer")
        return False
    return True


async def _ledger_answers(backend: Any) -> bool:
    try:
        asked = asyncio.to_thread(backend.ledger.standings, "", (), time.time())
        await asyncio.wait_for(asked, _PATIENCE)
    except Exception:
        backend.log.exception("The ledger does not answer")
        return False
    return True


async def _connects(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_PATIENCE):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except OSError:  # a timeout is one
        return False
    writer.close()
    return True
