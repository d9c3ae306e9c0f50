"""Passes a browser's requests on to a scheduler's dashboard and its answers back; HTTP and websockets.

The dashboard is the process of a user. It is sent nothing but what it needs to answer, and is believed only with the
proof that it knows its cluster's secret: its port may belong to something else by now.
"""

import asyncio
import hmac
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiohttp
from aiohttp import ClientWebSocketResponse, WSCloseCode, WSMsgType, web
from yarl import URL

from sciplat.gateway.inside.guard import PROOF_HEADER, SECRET_HEADER, dashboard_proof, dashboard_secret
from sciplat.gateway.web.dashboard_page import PROTECTION

_ASKED = ("Accept", "Accept-Language", "Cache-Control", "If-Modified-Since", "If-None-Match", "Range", "User-Agent")
_ANSWERED = (
    "Accept-Ranges", "Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Length", "Content-Range",
    "Content-Type", "ETag", "Expires", "Last-Modified", "Vary",
)  # fmt: skip
_LARGEST = 8 * 1024**2  # bytes of a websocket's message: a whole page's plots come in one
_MOST_SOCKETS = 20  # of a user: where a browser does not read, each keeps three messages in the gateway's memory
_CONNECT = 5.0  # seconds
_SILENCE = 60.0  # seconds


class Forward:
    """The way to dashboards; `serve` keeps its connections as long as the server runs."""

    def __init__(self) -> None:
        self._sockets: weakref.WeakSet[web.WebSocketResponse] = weakref.WeakSet()
        self._open: Counter[str] = Counter()

    async def serve(self, _: web.Application) -> AsyncIterator[None]:
        """Hold the connections; for aiohttp's `cleanup_ctx`."""
        self._client = aiohttp.ClientSession(
            auto_decompress=False,  # what is compressed goes on as it came
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_SILENCE),
            ws_response_class=_WebSocket,
        )
        yield
        await self._client.close()

    async def close(self, _: web.Application) -> None:
        """End the websockets, on which a server that stops would wait; for aiohttp's `on_shutdown`."""
        for socket in list(self._sockets):
            await socket.close(code=WSCloseCode.GOING_AWAY)

    async def send(self, request: web.Request, cluster: Any, base: str) -> web.StreamResponse:
        """Return a dashboard's answer.

        Parameters
        ----------
        request : aiohttp.web.Request
            For /clusters/NAME/MARK/...
        cluster : Cluster
        base : str
            What the browser sees in the place of the dashboard's root, with no slash at the end.
        """
        headers = {name: request.headers[name] for name in _ASKED if name in request.headers}
        headers["Accept-Encoding"] = request.headers.get("Accept-Encoding", "identity")
        headers[SECRET_HEADER] = dashboard_secret(cluster.token)
        url = _target(request, cluster)
        try:
            reply = await self._client.request(request.method, url, headers=headers, allow_redirects=False)
        except (aiohttp.ClientError, OSError) as error:
            raise _no_answer() from error
        async with reply:
            _believe(reply.headers, cluster)
            return await _pass_on(request, reply, base)

    async def tunnel(
        self, request: web.Request, cluster: Any, holds: Callable[[], Awaitable[None]]
    ) -> web.StreamResponse:
        """Join a browser's websocket to a dashboard's until one of them closes or `holds` returns or raises."""
        if self._open[cluster.username] >= _MOST_SOCKETS:
            raise web.HTTPTooManyRequests(reason=f"More than {_MOST_SOCKETS} plots are open; close some")
        self._open[cluster.username] += 1
        try:
            return await self._join(request, cluster, holds)
        finally:
            self._open[cluster.username] -= 1

    async def _join(
        self, request: web.Request, cluster: Any, holds: Callable[[], Awaitable[None]]
    ) -> web.StreamResponse:
        protocols = [one.strip() for one in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if one.strip()]
        headers = {SECRET_HEADER: dashboard_secret(cluster.token)}
        try:
            inner: Any = await self._client.ws_connect(
                _target(request, cluster), protocols=protocols, headers=headers, max_msg_size=_LARGEST
            )
        except (aiohttp.ClientError, OSError) as error:
            raise _no_answer() from error
        try:
            _believe(inner.headers, cluster)
            outer = web.WebSocketResponse(protocols=[inner.protocol] if inner.protocol else (), max_msg_size=_LARGEST)
            await outer.prepare(request)
            self._sockets.add(outer)
            await _first_of(_pump(inner, outer), _pump(outer, inner), holds())
            await outer.close(code=WSCloseCode.GOING_AWAY)
        finally:
            await inner.close()
        return outer


class _WebSocket(ClientWebSocketResponse):
    """A websocket that remembers the headers of the answer with which it began."""

    headers: Any

    def __init__(self, reader: Any, writer: Any, protocol: Any, response: Any, *rest: Any, **more: Any) -> None:
        super().__init__(reader, writer, protocol, response, *rest, **more)
        self.headers = response.headers


def rest_of(request: web.Request) -> str:
    """Return the path and query of a request after /clusters/NAME/MARK/, or /clusters/NAME/, as they were sent."""
    depth = 4 if "mark" in request.match_info else 3
    rest = "".join(request.rel_url.raw_path.split("/", depth)[depth:])
    query = request.rel_url.raw_query_string
    return f"{rest}?{query}" if query else rest


def _target(request: web.Request, cluster: Any) -> URL:
    return URL(f"{cluster.dashboard_address}/{rest_of(request)}", encoded=True)


def _believe(headers: Any, cluster: Any) -> None:
    """Refuse an answer that does not come from the cluster's own dashboard."""
    shown = headers.get(PROOF_HEADER, "").encode("utf-8", "surrogateescape")
    if not hmac.compare_digest(shown, dashboard_proof(cluster.token).encode()):
        raise _no_answer()


def _no_answer() -> web.HTTPBadGateway:
    return web.HTTPBadGateway(reason="The cluster's dashboard does not answer; sciplat cluster logs may say why")


async def _pass_on(request: web.Request, reply: aiohttp.ClientResponse, base: str) -> web.StreamResponse:
    """Send the browser what it needs of an answer; no cookies, which would be the gateway's."""
    headers = {name: reply.headers[name] for name in _ANSWERED if name in reply.headers}
    location = reply.headers.get("Location", "")
    if location:
        headers["Location"] = base + location if location.startswith("/") else location
    answer = web.StreamResponse(status=reply.status, headers={**headers, **PROTECTION})
    await answer.prepare(request)
    async for chunk in reply.content.iter_any():
        await answer.write(chunk)
    await answer.write_eof()
    return answer


async def _pump(source: Any, sink: Any) -> None:
    """Copy messages until the source ends or the sink is gone."""
    with suppress(ConnectionError):
        async for message in source:
            if message.type == WSMsgType.TEXT:
                await sink.send_str(message.data)
            elif message.type == WSMsgType.BINARY:
                await sink.send_bytes(message.data)
            else:
                break


async def _first_of(*works: Awaitable[None]) -> None:
    """Wait until the first ends, then end the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
