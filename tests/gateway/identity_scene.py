"""A gateway with upstream's routes and our authenticator on a real socket, a cluster of alice's and one of bob's."""

import asyncio
import contextlib
import functools
import json
import logging
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web
from dask_gateway_server.models import Cluster, ClusterStatus, User
from dask_gateway_server.routes import api_handler, default_routes
from traitlets.config import Configurable

from sciplat.gateway.site.schema import Site
from sciplat.gateway.users.audit import Audit
from sciplat.gateway.users.identity import SiteAuthenticator

ALICES, BOBS, ABSENT = "a" * 32, "b" * 32, "c" * 32


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


class Clusters:
    """What the routes need of a backend."""

    def __init__(self) -> None:
        self.stopped: list[str] = []
        self.clusters = {
            name: Cluster(name, owner, "secret-of-" + owner, {}, {}, ClusterStatus.RUNNING, start_time=0)
            for name, owner in ((ALICES, "alice"), (BOBS, "bob"))
        }

    async def get_cluster(self, name: str, wait: bool = False) -> Cluster | None:
        return self.clusters.get(name)

    async def list_clusters(self, username: str, statuses: object = None) -> list[Cluster]:
        return [cluster for cluster in self.clusters.values() if cluster.username == username]

    async def stop_cluster(self, name: str) -> None:
        self.stopped.append(name)

    async def forward_message_to_scheduler(self, cluster: Cluster, message: dict) -> None:
        pass

    async def on_cluster_heartbeat(self, name: str, message: dict) -> None:
        pass


class Parent(Configurable):
    """What an authenticator's parent has in the gateway."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.audit = Audit(site.state / "audit.jsonl")


@dataclass
class Gateway:
    """A running gateway."""

    url: str
    port: int
    backend: Clusters
    authenticator: SiteAuthenticator
    session: aiohttp.ClientSession

    async def ask(self, method: str, path: str, authorization: str | None = None, **headers: str) -> tuple[int, Any]:
        """Return status and JSON of an answer."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if authorization is not None:
            sent["Authorization"] = authorization
        async with self.session.request(method, self.url + path, headers=sent, json={"count": 1}) as answer:
            self.headers: Mapping[str, str] = answer.headers
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    def audited(self) -> list[dict]:
        """Return the lines of the audit log."""
        path = self.authenticator.audit.path
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@api_handler(user_authenticated=True)
async def about_me(request: web.Request) -> web.Response:
    """Say what the authenticator found."""
    user: User = request["user"]
    found = {"name": user.name, "groups": sorted(user.groups), "admin": user.admin, "scopes": sorted(user.scopes)}
    return web.json_response({**found, "via": user.via})


@contextlib.asynccontextmanager
async def serve(site: Site) -> AsyncIterator[Gateway]:
    """Run a gateway on a free port of the loopback."""
    app = web.Application()
    app.add_routes(default_routes)
    app.router.add_get("/me", about_me)
    app.router.add_get("/metrics", about_me)
    app.router.add_post("/api/sciplat/tokens", about_me)
    backend, authenticator = Clusters(), SiteAuthenticator(parent=Parent(site), log=logging.getLogger("gateway"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", web.NotAppKeyWarning)  # upstream's keys are texts, as upstream knows
        app["backend"], app["authenticator"], app["log"] = backend, authenticator, logging.getLogger("gateway")
        await authenticator.setup(app)
        async with listen(app) as port, aiohttp.ClientSession() as session:
            yield Gateway(f"http://127.0.0.1:{port}", port, backend, authenticator, session)
        await authenticator.cleanup()


@contextlib.asynccontextmanager
async def listen(app: web.Application) -> AsyncIterator[int]:
    """Serve an application on a free port of the loopback."""
    runner = web.AppRunner(app)
    await runner.setup()
    server = web.TCPSite(runner, "127.0.0.1", 0)
    await server.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
