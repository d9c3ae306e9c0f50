"""What users have: their quotas, what they used, their tokens. Nothing here shows another user's name or cluster."""

import asyncio
import time
from typing import Any

from aiohttp import web

from sciplat.errors import ArgumentError, TokenRefused
from sciplat.gateway.quota.limits import LIMITS, Standing, period_end
from sciplat.gateway.quota.refusals import own_holders
from sciplat.gateway.units import iso, parse_duration
from sciplat.gateway.users.tokens import described
from sciplat.gateway.web.answer import answer, read_object

_KEYS = ("user", "group", "cluster")
_DAY = 86_400.0
_LONGEST = 366 * _DAY  # of a report, and of a token's life
_HOLDERS = 20  # clusters that an answer names for a limit


async def show_quota(request: web.Request) -> dict[str, Any]:
    """Answer with what the user and their groups may have, have, and have left; of groups the totals."""
    user, backend, now = request["user"], request.app["backend"], time.time()
    standings = backend.ledger.standings(user.name, sorted(user.groups), now)
    return {"accounts": [_account(backend, standing, user.name, now) for standing in standings]}


def _account(backend: Any, standing: Standing, user: str, now: float) -> dict[str, Any]:
    account, limits = standing.account, []
    for limit in LIMITS:
        cap, used = standing.limits.cap(limit), standing.used.of(limit)
        holders = own_holders(backend, user, account, limit, now)[:_HOLDERS] if used else []
        limits.append(
            {
                "limit": limit,
                "cap": cap,
                "used": used,
                "left": None if cap is None else max(cap - used, 0),
                "resets": iso(period_end(now, standing.limits.period)) if limit == "core_hours" else None,
                "holders": [{"cluster": cluster, "amount": amount} for cluster, amount in holders],
            }
        )
    return {"kind": account.kind, "name": account.name, "period": standing.limits.period, "limits": limits}


async def show_usage(request: web.Request) -> dict[str, Any]:
    """Answer with what was used: by the user, or for an admin by everybody."""
    user, ledger, now = request["user"], request.app["backend"].ledger, time.time()
    by = [key.strip() for key in request.query.get("by", "user").split(",")]
    if not set(by) <= set(_KEYS) or len(set(by)) < len(by):
        raise ArgumentError("by is a list of user, group and cluster", found=repr(",".join(by))[:80], hint="user,group")
    span = parse_duration(request.query.get("since", "30 d"), what="since")
    if span > _LONGEST:
        raise ArgumentError("since reaches back at most 366 days", found=repr(request.query["since"])[:80])
    whose = None if user.admin else user.name
    rows = await asyncio.to_thread(ledger.usage, by, now - span, now, user=whose)
    return {"rows": rows, "since": iso(now - span), "until": iso(now)}


async def list_tokens(request: web.Request) -> dict[str, Any]:
    """Answer with the user's tokens, without what opens."""
    now = time.time()
    return {"tokens": [described(one, now) for file in _files(request) for one in file.list(request["user"].name)]}


async def create_token(request: web.Request) -> dict[str, Any]:
    """Make a token for the user, good for no more than they may do with the one that they came with."""
    user, body, now = request["user"], await read_object(request), time.time()
    name, scopes = body.get("name"), body.get("scopes", ["read", "clusters"])
    lifetime = body.get("lifetime", 90 * _DAY)
    if not isinstance(name, str):
        raise ArgumentError("a token has a name, so that its owner knows it again")
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise ArgumentError("scopes is a list of names")
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or not 0 < lifetime <= _LONGEST:
        raise ArgumentError("lifetime is a number of seconds, at most 366 days of them", found=repr(lifetime)[:80])
    beyond = [scope for scope in scopes if scope not in user.scopes]
    if beyond:
        raise ArgumentError(
            "a token cannot open more than the one it is made with",
            found=repr(beyond)[:80],
            hint=", ".join(sorted(user.scopes)),
        )
    # Without its owner's groups, which only a hub may know, a token would be a way round the groups' quotas.
    token, text = _files(request)[0].create(
        user.name, name, scopes=scopes, lifetime=float(lifetime), groups=sorted(user.groups), now=now
    )
    request.app["backend"].audit.write("token-created", user=user.name, token=token.id, scopes=token.scopes)
    return {"token": text, **described(token, now)}


async def revoke_token(request: web.Request) -> None:
    """Revoke one of the user's tokens."""
    user, number = request["user"], request.match_info["token"]
    for file in _files(request):
        try:
            file.revoke(number, user=user.name, now=time.time())
        except TokenRefused as error:
            reason = error.what
        else:
            request.app["backend"].audit.write("token-revoked", user=user.name, token=number)
            return
    raise web.HTTPNotFound(reason=reason)


def _files(request: web.Request) -> list[Any]:
    files: list[Any] = request.app["authenticator"].token_files
    if not files:
        raise web.HTTPNotFound(reason="This gateway has no tokens of its own; the hub's tokens open it")
    return files


ACCOUNT_ROUTES = (
    web.get("/api/sciplat/quota", answer(show_quota)),
    web.get("/api/sciplat/usage", answer(show_usage)),
    web.get("/api/sciplat/tokens", answer(list_tokens)),
    web.post("/api/sciplat/tokens", answer(create_token)),
    web.delete("/api/sciplat/tokens/{token}", answer(revoke_token)),
)
