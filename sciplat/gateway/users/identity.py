"""Who sends a request, and what they may do with it: the gateway's authenticator.

A token of ours (`sciplat_...`) is looked up in the token files, any other is shown to the JupyterHubs. It arrives as
"Bearer TOKEN", as "Basic" with the user's name and the token as password, or as "jupyterhub TOKEN"; the last two are
what stock clients send. Nothing is remembered in cookies, so that a revoked token is refused at once.
"""

import asyncio
import base64
import ipaddress
import pwd
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import web
from dask_gateway_server.auth import Authenticator
from dask_gateway_server.models import Cluster, User

from sciplat.errors import GatewayError, SciplatError, SiteError, TokenRefused
from sciplat.gateway.users.failed_logins import MOST, FailedLogins
from sciplat.gateway.users.groups import GroupFile, unix_groups, unix_user
from sciplat.gateway.users.hub import Hub
from sciplat.gateway.users.tokens import PREFIX, Tokens, is_user_name, refused

__all__ = ["SiteAuthenticator", "SiteUser", "find_cluster", "is_person", "parse_authorization", "source_address"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_HUB_SCOPES = frozenset({"read", "clusters", "tokens"})  # of whom a hub vouches for
_NO_CLUSTER = "There is no such cluster, or it is not yours"
_HOW_TO_BEGIN = "make a token with: sciplat token create"
_TOKEN = re.compile(r"[\x21-\x7e]{1,1024}")
_READING = ("GET", "HEAD")
_CLUSTERS = "/api/v1/clusters/"
_FIRST_PERSON, _NOBODY = 1000, 65534  # numbers of Unix users; those below are the machine's own services


class SiteUser(User):  # type: ignore[misc]
    """A user, as far as the token reaches that they came with.

    Attributes
    ----------
    name : str
    groups : set of str
    admin : bool
        Whether they may list and stop the clusters of others; not enter them, since a cluster runs code as its owner.
    scopes : frozenset of str
        What the token is good for, some of `sciplat.gateway.users.tokens.SCOPES`.
    via : str
        What vouched for them: "token ID" or "hub".
    """

    def __init__(
        self, name: str, *, groups: Iterable[str] = (), admin: bool = False, scopes: Iterable[str] = (), via: str = ""
    ) -> None:
        super().__init__(name, groups, admin)
        self.scopes = frozenset(scopes)
        self.via = via


class SiteAuthenticator(Authenticator):  # type: ignore[misc]
    """Several ways of proving who one is, side by side, as the site file names them.

    Its parent has `site` and `audit`.

    Attributes
    ----------
    token_files : list of Tokens
        The first is where new tokens are made.
    hubs : list of Hub
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.site = self.parent.site
        self.audit = self.parent.audit
        witnesses = self.site.authenticators
        default = self.site.state / "tokens.json"
        self.token_files = [Tokens(witness.path or default) for witness in witnesses if witness.type == "token-file"]
        self.hubs = [Hub(witness.api_url, witness.service) for witness in witnesses if witness.type == "jupyterhub"]
        self._group_file = GroupFile(self.site.groups.file) if self.site.groups.source == "file" else None
        self._failed_logins = FailedLogins()

    async def setup(self, app: web.Application) -> None:
        """Guard the routes that upstream authenticates by itself."""
        app.middlewares.extend([_refuse_malformed, self._write_down_heartbeats])

    async def cleanup(self) -> None:
        """Close the connections to the hubs."""
        for hub in self.hubs:
            await hub.close()

    async def authenticate_and_handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request in its user's name; write down who asked for what, unless they only read."""
        status, reason = 500, "internal error"
        try:
            user = await self.authenticate(request)
            request["user"] = user
            name = request.match_info.get("cluster_name")
            if name is not None:
                await find_cluster(request.app["backend"], name, user)
            response = await handler(request)
            status, reason = response.status, response.reason or ""
        except web.HTTPException as error:
            status, reason = error.status, error.reason
            raise
        finally:
            self._write_down(request, request.get("known"), status, reason)
        return response

    async def authenticate(self, request: web.Request) -> SiteUser:
        """Return who sends a request, if their token is good for it; otherwise raise aiohttp's 401, 403, 429 or 502."""
        header = request.headers.get("Authorization")
        if header is None:  # stock clients always try this way first
            raise _unauthorized(f"A token is needed; {_HOW_TO_BEGIN}")
        user = await self.identify(request, header)
        request["known"] = user  # to the audit log, even if they are refused
        scope = _scope_of(request)
        if scope not in user.scopes and not (scope == "metrics" and user.admin):
            raise web.HTTPForbidden(reason=f"This token has not the scope {scope!r}, which this request needs")
        if scope != "metrics":  # whoever collects them needs no account
            await self._require_account(user.name, to_start=request.method == "POST" and _route(request) == _CLUSTERS)
        return user

    async def identify(self, request: web.Request, header: str) -> SiteUser:
        """Return whose token it is, whatever it is good for.

        Parameters
        ----------
        request : aiohttp.web.Request
            Where it came from; failures are counted by address.
        header : str
            Value of an Authorization header, such as "Bearer TOKEN".

        Raises
        ------
        aiohttp.web.HTTPException
            401 with the reason; 403 for who is known but not let in; 429 after too many failures; 502 without the hub.
        """
        try:
            return await self._whose(header)
        except TokenRefused as error:
            if error.code == "scope":
                raise web.HTTPForbidden(reason=_line(error)) from None
            raise self._failed(source_address(request), _line(error)) from None
        except GatewayError as error:
            raise web.HTTPBadGateway(reason=_line(error)) from None
        except SiteError as error:
            self.log.error("%s", error)  # noqa: TRY400
            reason = "The gateway's tokens cannot be read; its operator finds the reason in the log"
            raise web.HTTPInternalServerError(reason=reason) from None

    def _failed(self, source: str, reason: str) -> web.HTTPException:
        """Return the answer to a failed login: its reason, or, after too many from its address, just that."""
        count, seconds = self._failed_logins.failed(source, time.monotonic())
        if count == MOST:
            self.audit.write("logins-blocked", source=source, outcome="too many failures")
        if count <= MOST:
            return _unauthorized(reason)
        reason = f"Too many failed logins from this address; try again in {seconds:.0f} s"
        return web.HTTPTooManyRequests(reason=reason, headers={"Retry-After": f"{max(seconds, 1):.0f}"})

    async def _whose(self, header: str) -> SiteUser:
        claimed, token = parse_authorization(header)
        groups: tuple[str, ...] = ()
        admin, via = False, "hub"
        if token.startswith(PREFIX):
            record = _first_known(self.token_files, token)
            name, groups, scopes, via = record.user, record.groups, frozenset(record.scopes), f"token {record.id}"
        else:
            witness = await self._ask_hubs(token)
            name, groups, admin, scopes = witness.name, witness.groups, witness.admin, _HUB_SCOPES | {"admin"}
        if claimed not in {None, name}:
            raise refused("unknown", "This token is not that of the user it came with")
        if not is_user_name(name):
            hint = "lower-case letters, digits, '_', '.' and '-', at most 32"
            raise web.HTTPForbidden(reason=f"The gateway cannot work for users with such a name; it takes {hint}")
        groups = await self._groups_of(name, groups)
        admins = self.site.admins
        remembered = via != "hub" and self.site.groups.source == "authenticator"  # by the token: they may have changed
        admin = admin or name in admins.users or not (remembered or set(groups).isdisjoint(admins.groups))
        admin = admin and "admin" in scopes
        return SiteUser(name, groups=groups, admin=admin, scopes=scopes if admin else scopes - {"admin"}, via=via)

    async def _ask_hubs(self, token: str) -> Any:
        """Return what the first hub says that knows a token; else the last one's refusal or silence."""
        trouble: SciplatError = refused("unknown", "This token is not known here", hint=_HOW_TO_BEGIN)
        for hub in self.hubs:
            try:
                return await hub.identify(token)
            except (TokenRefused, GatewayError) as error:
                if not isinstance(trouble, GatewayError):  # a hub that is silent may know it
                    trouble = error
        raise trouble

    async def _groups_of(self, name: str, claimed: tuple[str, ...]) -> tuple[str, ...]:
        if self._group_file is not None:
            return self._group_file.groups_of(name)
        if self.site.groups.source == "unix":
            return await asyncio.to_thread(unix_groups, name)  # a directory service may be slow
        return claimed

    async def _require_account(self, name: str, *, to_start: bool) -> None:
        """Refuse who is no Unix user where workers run as one; and root, and clusters of other system accounts."""
        if self.site.backend == "local":
            return
        account = await asyncio.to_thread(unix_user, name)
        if account is None:
            raise web.HTTPForbidden(reason=f"{name} has no Unix account on the gateway's machine")
        if account.pw_uid == 0:
            raise web.HTTPForbidden(reason=f"{name} is the superuser, as whom no cluster may run")
        if to_start and not is_person(account):
            raise web.HTTPForbidden(reason=f"{name} is a system account (uid {account.pw_uid}), which gets no clusters")

    @web.middleware
    async def _write_down_heartbeats(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Write down those that come with another cluster's token, which upstream refuses by itself."""
        response = await handler(request)
        if response.status == 401 and _route(request).endswith("/heartbeat"):
            count, _ = self._failed_logins.failed(source_address(request), time.monotonic())
            if count <= MOST:
                self._write_down(request, None, 401, "This is not the cluster's token")
        return response

    def _write_down(self, request: web.Request, user: SiteUser | None, status: int, reason: str) -> None:
        unnamed = status == 401 and "Authorization" not in request.headers
        if unnamed or status == 429 or (request.method in _READING and status < 400):
            return  # the flood of blocked logins has one line of its own
        self.audit.write(
            "request",
            user=user and user.name,
            cluster=request.match_info.get("cluster_name") or request.match_info.get("cluster"),
            source=source_address(request),
            outcome="ok" if status < 400 else reason,
            status=status,
            method=request.method,
            route=_route(request),
            via=user and user.via,
        )


async def find_cluster(backend: Any, name: str, user: SiteUser, *, admins: bool = False) -> Cluster:
    """Return a user's cluster; an absent one and another user's are the same 404.

    Parameters
    ----------
    backend : dask_gateway_server.backends.Backend
    name : str
    user : SiteUser
    admins : bool
        Whether admins may have it too.
    """
    cluster = await backend.get_cluster(name)
    if cluster is None or not (user.has_permissions(cluster) or (admins and user.admin)):
        raise web.HTTPNotFound(reason=_NO_CLUSTER)
    return cluster


def is_person(account: pwd.struct_passwd) -> bool:
    """Return whether a Unix user is a person, not a service of the machine."""
    return account.pw_uid >= _FIRST_PERSON and account.pw_uid != _NOBODY


def parse_authorization(header: str) -> tuple[str | None, str]:
    """Return the user that an Authorization header names, if it names one, and its token.

    Raises
    ------
    TokenRefused
        If it is none that the gateway understands.
    """
    scheme, _, rest = header.strip().partition(" ")
    user, token = None, rest.strip()
    if scheme.lower() == "basic":
        try:
            user, _, token = base64.b64decode(token, validate=True).decode().partition(":")
        except ValueError:
            raise refused("unknown", "The Authorization header is not base64 text") from None
    elif scheme.lower() not in {"bearer", "jupyterhub"}:
        raise refused("unknown", "The Authorization header must be Bearer, Basic or jupyterhub, and a token")
    if not _TOKEN.fullmatch(token):
        raise refused("unknown", "The Authorization header has no token", hint=_HOW_TO_BEGIN)
    return user, token


def source_address(request: web.Request) -> str:
    """Return the address from which a request came: what our own proxy says, or the peer if that is not our proxy."""
    peer = request.remote or ""
    if _is_loopback(peer):
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", [])).rpartition(",")[2].strip()
        try:
            return str(ipaddress.ip_address(forwarded))
        except ValueError:
            return peer
    return peer


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


@web.middleware
async def _refuse_malformed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse an Authorization header of one word, which upstream's routes for schedulers cannot take apart."""
    header = request.headers.get("Authorization")
    if header is not None and " " not in header:
        reason = "The Authorization header must be Bearer, Basic or jupyterhub, and a token"
        return web.json_response({"error": reason}, status=401, headers={"WWW-Authenticate": "Bearer"})
    return await handler(request)


def _first_known(files: Iterable[Tokens], text: str) -> Any:
    """Return the record of a token from the first file that knows it."""
    trouble = refused("unknown", "This gateway takes no tokens of its own; use one of the hub")
    for file in files:
        try:
            return file.check(text, time.time())
        except TokenRefused as error:
            trouble = error
            if error.code != "unknown":
                break
    raise trouble


def _scope_of(request: web.Request) -> str:
    """Return the scope that a request needs."""
    route = _route(request)
    if route == "/metrics":
        return "metrics"
    if request.method in _READING:
        return "read"
    return "tokens" if route.startswith("/api/sciplat/tokens") else "clusters"


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else request.path


def _unauthorized(reason: str) -> web.HTTPUnauthorized:
    return web.HTTPUnauthorized(reason=reason, headers={"WWW-Authenticate": "Bearer"})


def _line(error: SciplatError) -> str:
    """Return an error in one line, for JSON."""
    found = f" ({error.found})" if error.found else ""
    hint = f"; {error.hint}" if error.hint else ""
    return " ".join(f"{error.what}{found}{hint}".split())
