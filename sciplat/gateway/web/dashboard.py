"""Dashboards behind the login: a cluster's owner, and nobody else, sees the pages of their scheduler.

The way in is a ticket, which a program of the owner asks for and which opens once, or a form that takes a token.
Either gives the browser a cookie for this one cluster. It ends with the cluster, and with the token behind it.

The dashboard's address has a mark that only pages of the session know, since browsers send cookies along with what a
page from another port of the same host asks for, and websockets may be read from there.
"""

import asyncio
import hmac
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from sciplat.gateway.users.identity import SiteUser, find_cluster, source_address
from sciplat.gateway.web.answer import Handler, answer
from sciplat.gateway.web.dashboard_page import PROTECTION, login_page, notice_page, ticket_page
from sciplat.gateway.web.forward import Forward, rest_of
from sciplat.gateway.web.vouchers import Vouchers

_TICKET = 60.0  # seconds
_SESSION = 12 * 3600.0  # seconds
_CHECK = 5.0  # seconds after which a token that was good is looked at again
_COOKIE = "sciplat-dashboard"
_FORM_COOKIE = "sciplat-login"
_PATH = "/clusters/{cluster:[0-9a-f]{32}}"
_MARKED = _PATH + "/{mark:~[A-Za-z0-9_-]{16}}/{path:.*}"


@dataclass
class _Pass:
    """What a ticket or a cookie stands for: one user at one of their clusters."""

    cluster: str
    user: str
    credential: str = field(repr=False)  # their Authorization header: a hub's tokens can be checked in no other way
    checked: float = field(default_factory=time.monotonic)
    mark: str = field(default_factory=lambda: "~" + secrets.token_urlsafe(12))


class Dashboards:
    """The routes of all dashboards.

    Parameters
    ----------
    app : aiohttp.web.Application
        With "backend", "authenticator" and "gateway".
    """

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._backend = app["backend"]
        self._site = app["gateway"].site
        self._tickets: Vouchers[_Pass] = Vouchers(_TICKET)
        self._sessions: Vouchers[_Pass] = Vouchers(_SESSION)
        self._forward = Forward()

    def add_routes(self) -> None:
        """Add the routes to the application."""
        self._app.cleanup_ctx.append(self._forward.serve)
        self._app.on_shutdown.append(self._forward.close)
        self._app.add_routes(
            [
                web.post("/api/sciplat/clusters/{cluster}/ticket", answer(self._give_ticket)),
                web.get(f"{_PATH}/login", _as_page(self._show_login)),
                web.post(f"{_PATH}/login", _as_page(self._log_in)),
                web.get(_MARKED, _as_page(self._show)),
                web.get(_PATH + "{path:(/.*)?}", _as_page(self._show)),
            ]
        )

    async def _give_ticket(self, request: web.Request) -> dict[str, Any]:
        """Answer the owner with an address below the gateway's that opens the dashboard once."""
        name, user = request.match_info["cluster"], request["user"]
        await find_cluster(self._backend, name, user)
        ticket = self._tickets.make(_Pass(name, user.name, request.headers["Authorization"]))
        return {"url": f"/clusters/{name}/login?ticket={ticket}"}

    async def _show_login(self, request: web.Request) -> web.StreamResponse:
        """Let a ticket in, or ask for a token. The page is the same whether or not there is such a cluster."""
        name, ticket = request.match_info["cluster"], request.query.get("ticket", "")
        found = self._tickets.find(ticket) if ticket else None
        if found is None or found.cluster != name:
            wrong = "This link has been used, or is older than a minute. Ask for another one." if ticket else ""
            return self._ask(request, wrong=wrong)
        # Somebody else's page would run in this browser on the gateway's own address: from "none", a link in a message.
        if request.headers.get("Sec-Fetch-Site") in {"cross-site", "none"}:
            form = secrets.token_urlsafe(16)
            return self._with_form(ticket_page(name, found.user, form, ticket), name, form)
        return await self._use_ticket(request, ticket)

    async def _log_in(self, request: web.Request) -> web.StreamResponse:
        """Take the login form, if it is ours: a page of another site knows neither the field nor the cookie."""
        name, fields = request.match_info["cluster"], await request.post()
        form, token, ticket = (str(fields.get(key, "")) for key in ("form", "token", "ticket"))
        cookie = request.cookies.get(_FORM_COOKIE, "")
        if not form or not hmac.compare_digest(form.encode(), cookie.encode()):
            return self._ask(request, wrong="This page was out of date. Please try again.", status=403)
        if ticket:
            return await self._use_ticket(request, ticket)
        credential = f"Bearer {token.strip()}"
        try:
            user: SiteUser = await self._app["authenticator"].identify(request, credential)
            if "clusters" not in user.scopes:
                raise web.HTTPForbidden(reason="This token has not the scope 'clusters'")
            await find_cluster(self._backend, name, user)
        except web.HTTPException as error:
            self._write_down(request, None, error.reason)
            return self._ask(request, wrong=error.reason, status=error.status)
        return self._open(request, _Pass(name, user.name, credential), "token")

    async def _use_ticket(self, request: web.Request, ticket: str) -> web.StreamResponse:
        found = self._tickets.find(ticket)
        self._tickets.end(ticket)
        if found is None or found.cluster != request.match_info["cluster"] or not await self._still(request, found):
            return self._ask(request, wrong="This link opens nothing any more. Ask for another one.", status=403)
        return self._open(request, found, "ticket")

    def _open(self, request: web.Request, found: _Pass, how: str) -> web.Response:
        """Give the browser its cookie, and send it to the dashboard."""
        self._write_down(request, found.user, "ok", how)
        base = self._base(found.cluster)
        reply = _redirect(f"{base}/{found.mark}/status")
        reply.set_cookie(
            _COOKIE,
            self._sessions.make(found),
            path=f"{base}/",
            max_age=int(_SESSION),
            httponly=True,
            samesite="Lax",
            secure=self._site.tls is not None,
        )
        return reply

    async def _show(self, request: web.Request) -> web.StreamResponse:
        """Show a part of the dashboard to whoever has the cookie and knows the mark; the cookie tells the mark."""
        name, cookie = request.match_info["cluster"], request.cookies.get(_COOKIE, "")
        found = self._sessions.find(cookie)
        if found is None or found.cluster != name or not await self._still(request, found):
            self._sessions.end(cookie)
            if "text/html" in request.headers.get("Accept", ""):
                return _redirect(f"{self._base(name)}/login")
            raise web.HTTPForbidden(reason="Log in first")
        root = f"{self._base(name)}/{found.mark}"
        if request.match_info.get("mark") != found.mark:
            return _redirect(f"{root}/{rest_of(request) or 'status'}")
        cluster = self._backend.db.get_cluster(name)
        if not cluster.dashboard_address:
            raise web.HTTPServiceUnavailable(reason="The cluster has not started yet; load this page again later")
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._forward.tunnel(request, cluster, lambda: self._hold(request, found))
        return await self._forward.send(request, cluster, root)

    async def _hold(self, request: web.Request, found: _Pass) -> None:
        """Return when the cluster or the token behind a session has ended."""
        while await self._still(request, found):  # noqa: ASYNC110 (a token file tells nobody that it has changed)
            await asyncio.sleep(_CHECK)

    async def _still(self, request: web.Request, found: _Pass) -> bool:
        """Return whether the cluster is still there, and the token that opened its dashboard still good."""
        cluster = self._backend.db.get_cluster(found.cluster)
        if cluster is None or not cluster.is_active():
            return False
        if time.monotonic() - found.checked < _CHECK:
            return True
        try:
            user: SiteUser = await self._app["authenticator"].identify(request, found.credential)
        except (web.HTTPUnauthorized, web.HTTPForbidden):
            return False
        found.checked = time.monotonic()
        return user.name == found.user and "clusters" in user.scopes

    def _ask(self, request: web.Request, *, wrong: str, status: int = 200) -> web.Response:
        name, form = request.match_info["cluster"], secrets.token_urlsafe(16)
        return self._with_form(login_page(name, form, wrong=wrong, status=status), name, form)

    def _with_form(self, page: web.Response, name: str, form: str) -> web.Response:
        page.set_cookie(
            _FORM_COOKIE,
            form,
            path=f"{self._base(name)}/login",
            httponly=True,
            samesite="Strict",
            secure=self._site.tls is not None,
        )
        return page

    def _base(self, name: str) -> str:
        """Return where browsers see a dashboard; the proxy takes the prefix away before requests come here."""
        return f"{self._site.prefix}/clusters/{name}"

    def _write_down(self, request: web.Request, user: str | None, outcome: str, how: str = "token") -> None:
        self._backend.audit.write(
            "dashboard-login",
            user=user,
            cluster=request.match_info["cluster"],
            source=source_address(request),
            outcome=outcome,
            how=how,
        )


def _redirect(to: str) -> web.Response:
    return web.Response(status=303, headers={**PROTECTION, "Location": to, "Cache-Control": "no-store"})


def _as_page(handler: Handler) -> Handler:
    """Return a handler whose errors are pages: people see them, not programs."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            return notice_page("No dashboard here", error.reason, error.status)

    return handle
