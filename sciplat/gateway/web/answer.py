"""How our routes answer: JSON, for a user who is known, with errors in one line."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from dask_gateway_server.backends.base import PublicException
from dask_gateway_server.routes import api_handler

from sciplat.errors import ArgumentError, SciplatError
from sciplat.gateway.quota.refusals import one_line

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(find: Callable[[web.Request], Awaitable[Any]]) -> Handler:
    """Return a route's handler that lets users in and sends what `find` returns as JSON; None is an empty answer.

    Parameters
    ----------
    find : callable
        Gets the request, with the user as `request["user"]`. What it raises of our own is the user's mistake: 422.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            found = await find(request)
        except (SciplatError, PublicException) as error:
            raise web.HTTPUnprocessableEntity(reason=one_line(error)) from None
        return web.Response(status=204) if found is None else web.json_response(found)

    handler: Handler = api_handler(handle, user_authenticated=True)
    return handler


def read_flag(request: web.Request, name: str) -> bool:
    """Return whether a flag is set in the query: "1" or "0"; absent is not."""
    text = request.query.get(name, "0")
    if text not in {"0", "1"}:
        raise ArgumentError(f"{name} is 0 or 1", found=repr(text)[:80])
    return text == "1"


def read_number(request: web.Request, name: str, default: int, most: int) -> int:
    """Return a whole number of the query, from 1 to `most`."""
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise ArgumentError(f"{name} is a number from 1 to {most}", found=repr(text)[:80])
    return int(text)


async def read_object(request: web.Request) -> dict[str, Any]:
    """Return the JSON object in a request's body."""
    try:
        body = await request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise ArgumentError("the body of this request is a JSON object")
    return body
