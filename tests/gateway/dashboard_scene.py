"""A gateway, a cluster whose dashboard says what it is asked, and a browser; and a real scheduler for it."""

import contextlib
import json
import os
import re
import subprocess
import sys

from tornado.httpserver import HTTPServer
from tornado.web import Application, RedirectHandler, RequestHandler
from tornado.websocket import WebSocketHandler

from sciplat.gateway.inside.guard import SCHEDULER_ENVIRONMENT, Guard
from tests.gateway.quiet_gateway import HOST, quiet_gateway, until

LARGE = os.urandom(1024**2)


class Page(RequestHandler):
    """Says what it was asked."""

    def get(self, path):
        self.set_header("Set-Cookie", "sciplat-dashboard=stolen; Path=/")
        self.set_header("X-Sciplat-Anything", "1")
        self.set_header("Content-Type", "application/json")
        self.write(json.dumps({"path": self.request.uri, "headers": dict(self.request.headers)}))


class Large(RequestHandler):
    """Gives much."""

    def get(self):
        self.write(LARGE)


class Echo(WebSocketHandler):
    """Gives back what it gets."""

    def select_subprotocol(self, subprotocols):
        self.offered = subprotocols
        return "bokeh" if "bokeh" in subprotocols else None

    def open(self):
        self.write_message(json.dumps({"offered": self.offered, "headers": dict(self.request.headers)}))

    def on_message(self, message):
        if message == "bye":
            self.close()
        else:
            self.write_message(message, binary=isinstance(message, bytes))


PAGES = [(r"/large", Large), (r"/ws", Echo), (r"/old", RedirectHandler, {"url": "/status"}), (r"/(.*)", Page)]


class Scene:
    """A gateway, a cluster of alice's whose dashboard says what it is asked, and a browser."""

    def __init__(self, gateway, cluster, port):
        self.gateway, self.cluster, self.session = gateway, cluster, gateway.session
        self.base, self.port = f"/clusters/{cluster.name}", port

    @property
    def dashboard(self):
        return f"http://{HOST}:{self.port}"

    async def get(self, path, cookie=None, method="GET", **headers):
        """Return the answer, not followed, with its text."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if cookie:
            sent["Cookie"] = "; ".join([cookie, sent.get("Cookie", "")])
        url = self.gateway.url + path
        async with self.session.request(method, url, headers=sent, allow_redirects=False) as reply:
            reply.read_text = (await reply.read()).decode(errors="replace")
        return reply

    async def ticket(self, user="alice"):
        """Return the path that a ticket opens."""
        status, found = await self.gateway.ask("POST", f"/api/sciplat{self.base}/ticket", user)
        assert status == 200, found
        return found["url"]

    async def enter(self):
        """Return a cookie and the dashboard's root for it."""
        reply = await self.get(await self.ticket())
        assert reply.status == 303, reply.read_text
        return cookie_of(reply), reply.headers["Location"].removesuffix("/status")

    async def log_in(self, token, form=None, path=None, **fields):
        """Send the login form."""
        path = path or f"{self.base}/login"
        page = await self.get(path)
        field = re.search(r'name="form" value="([^"]+)"', page.read_text)[1]
        data = {"form": field if form is None else form, **({"token": token} if token else {}), **fields}
        headers = {"Cookie": cookie_of(page)}
        url = self.gateway.url + f"{self.base}/login"
        async with self.session.post(url, data=data, headers=headers, allow_redirects=False) as reply:
            reply.read_text = await reply.text()
        return reply

    def websocket(self, root, cookie):
        """Return a websocket to the dashboard, once it is entered."""
        headers = {"Cookie": cookie, "Origin": "http://elsewhere.example"}
        return self.session.ws_connect(
            self.gateway.url + root + "/ws", protocols=["bokeh", "a-token"], headers=headers, max_msg_size=0
        )


def cookie_of(reply):
    """Return the cookie that a browser would send."""
    return reply.headers["Set-Cookie"].split(";")[0]


@contextlib.asynccontextmanager
async def scene(state, router=None, **settings):
    """Run the gateway, and a dashboard in the same loop."""
    async with quiet_gateway(state, **settings) as gateway:
        cluster = await gateway.cluster("alice")
        guard = Guard(Application(PAGES), cluster.token, lambda: None) if router is None else router
        server = HTTPServer(guard)
        server.listen(0, HOST)
        (socket,) = server._sockets.values()
        port = socket.getsockname()[1]
        await gateway.beat(cluster, dashboard=f"http://{HOST}:{port}")
        await until(lambda: cluster.status.name == "RUNNING")
        try:
            yield Scene(gateway, cluster, port)
        finally:
            server.stop()
            await server.close_all_connections()


def start_scheduler(folder, gateway, cluster):
    """Start a cluster's scheduler."""
    for name, content in (("dask.crt", cluster.tls_cert), ("dask.pem", cluster.tls_key)):
        (folder / name).write_bytes(content)
    command = gateway.backend.get_scheduler_command(cluster)
    environment = {**gateway.backend.get_scheduler_env(cluster), **SCHEDULER_ENVIRONMENT}
    environment["DASK_GATEWAY_API_URL"] = f"{gateway.url}/api"
    if "--no-dashboard" not in command:
        command.append("--no-dashboard")
    with (folder / "scheduler.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *command[1:]],
            env={**os.environ, **environment},
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
