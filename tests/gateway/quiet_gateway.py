"""A whole gateway on a real socket, with database, ledger and tokens, whose clusters have no processes."""

import asyncio
import contextlib
import json
import logging
import time
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import aiohttp
from aiohttp import web
from dask_gateway_server.routes import default_routes
from traitlets.config import Configurable

from sciplat.gateway.backends.backend import SiteBackend
from sciplat.gateway.private import make_folders
from sciplat.gateway.server.server import traits
from sciplat.gateway.site.schema import Site
from sciplat.gateway.users.audit import Audit
from sciplat.gateway.users.identity import SiteAuthenticator
from sciplat.gateway.web.routes import add_routes
from tests.gateway.identity_scene import listen

HOST = "127.0.0.1"


class Parent(Configurable):
    """What backend and authenticator ask the server for."""

    def __init__(self, site):
        super().__init__(config=traits(site))
        self.site, self.address = site, site.api_address
        self.audit = Audit(site.state / "audit.jsonl")


class QuietBackend(SiteBackend):
    """Starts nothing: what clusters would say comes from the test."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.refused = Counter()
        self.waits, self.logs = [], {}

    async def probe(self, config, user):
        pass

    async def start_scheduler(self, cluster):
        yield {"job_id": "17"}

    async def start_worker(self, worker):
        yield {"job_id": "18"}

    async def do_stop_cluster(self, cluster):
        pass

    async def do_stop_worker(self, worker):
        pass

    async def do_check_clusters(self, clusters):
        return [True] * len(clusters)

    async def do_check_workers(self, workers):
        return [True] * len(workers)

    async def reap(self, owned):
        return []

    async def read_logs(self, cluster, names, lines):
        return {name: "\n".join(self.logs[name][-lines:]) for name in names}

    async def why(self, cluster):
        if isinstance(self.waits, Exception):
            raise self.waits
        return list(self.waits)


class Gateway:
    """A running gateway and its users' way to it."""

    def __init__(self, url, app, session):
        self.url, self.backend, self.authenticator, self.session = url, app["backend"], app["authenticator"], session
        self.site, self.tokens = self.backend.site, self.authenticator.token_files[0]
        self._texts = {}

    def token(self, user, *scopes):
        """Return a token of a user."""
        scopes = scopes or ("read", "clusters", "tokens", "metrics", "admin")
        if (user, scopes) not in self._texts:
            self._texts[user, scopes] = self.tokens.create(user, "test", scopes=scopes, now=time.time())[1]
        return self._texts[user, scopes]

    async def ask(self, method, path, user=None, body=None, token=None):
        """Return status and JSON of an answer."""
        token = token or (user and self.token(user))
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.session.request(method, self.url + path, headers=headers, json=body) as reply:
            text = await reply.text()
        return reply.status, json.loads(text) if text else None

    async def get(self, path, user):
        """Return the JSON of an answer that is well."""
        status, found = await self.ask("GET", path, user)
        assert status == 200, found
        return found

    async def cluster(self, user, **options):
        """Return a new cluster of a user, as far as it comes by itself."""
        status, made = await self.ask("POST", "/api/v1/clusters/", user, {"cluster_options": options})
        assert status == 201, made
        return self.backend.db.get_cluster(made["name"])

    async def beat(self, cluster, count=0, active=(), dashboard="", **more):
        """Let a cluster say that it runs."""
        message = {
            "scheduler_address": f"tls://{HOST}:40000",
            "dashboard_address": dashboard,
            "api_address": f"http://{HOST}:40001",
            "count": count,
            "active_workers": list(active),
            "closing_workers": [],
            "closed_workers": [],
            **more,
        }
        headers = {"Authorization": f"token {cluster.token}"}
        path = f"/api/v1/clusters/{cluster.name}/heartbeat"
        async with self.session.post(self.url + path, headers=headers, json=message) as reply:
            assert reply.ok, await reply.text()

    def audited(self, event):
        """Return the lines of the audit log about one kind of event."""
        lines = self.backend.audit.path.read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["event"] == event]


@contextlib.asynccontextmanager
async def quiet_gateway(state: Path, **settings):
    """Run a gateway on a free port of the loopback; admin is an admin."""
    site = Site(state=state, on_stop="stop", **{"admins": {"users": ["admin"]}, **settings})
    make_folders(state)
    log = logging.getLogger("gateway")
    app = web.Application()
    app.add_routes(default_routes)
    parent = Parent(site)
    backend, authenticator = QuietBackend(parent=parent, log=log), SiteAuthenticator(parent=parent, log=log)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", web.NotAppKeyWarning)  # upstream's keys are texts, as upstream knows
        app["backend"], app["authenticator"], app["log"] = backend, authenticator, log
        app["gateway"] = SimpleNamespace(site=site)
        add_routes(app)
        await authenticator.setup(app)
        await backend.setup(app)
        try:
            async with listen(app) as port, aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
                yield Gateway(f"http://{HOST}:{port}", app, session)
        finally:
            await backend.cleanup()
            await authenticator.cleanup()


async def until(condition, seconds=10.0):
    """Wait for what is true at last."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        await asyncio.sleep(0.01)
