"""Who may read a cluster's dashboard: whoever knows the cluster's token, and that is the gateway.

dask's HTTP ports ask nobody for anything, and answer every user of the machine. A scheduler's is guarded by its
preload before there is anything to see, provided that it is started with ``--no-dashboard`` and
`SCHEDULER_ENVIRONMENT`; a worker's is closed by its preload, and has no pages with `WORKER_ENVIRONMENT`.
"""

import hashlib
import hmac
from collections.abc import Callable
from typing import Any

from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.routing import Router
from tornado.web import Application, ErrorHandler

SECRET_HEADER = "X-Sciplat-Dashboard"  # noqa: S105 (its name)
PROOF_HEADER = "X-Sciplat-Dashboard-Proof"
SCHEDULER_ENVIRONMENT = {"DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES": "[]"}
WORKER_ENVIRONMENT = {"DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "[]"}


def dashboard_secret(token: str) -> str:
    """Return what a request for a dashboard carries in `SECRET_HEADER`, made of the cluster's token, which it hides."""
    return _derived(token, b"dashboard")


def dashboard_proof(token: str) -> str:
    """Return what the answer carries in `PROOF_HEADER`: who only took over the port of a dashboard cannot know it."""
    return _derived(token, b"proof")


def _derived(token: str, purpose: bytes) -> str:
    return hmac.new(token.encode(), purpose, hashlib.sha256).hexdigest()


class Guard(Router):
    """Lets those requests pass that carry the secret, and answers 403 to all others, on every path.

    Parameters
    ----------
    application : tornado.web.Application
        What is guarded; websockets included.
    token : str
        The cluster's.
    add_pages : callable
        Makes the pages for the first request that may see them.
    """

    def __init__(self, application: Application, token: str, add_pages: Callable[[], None]) -> None:
        self._application = application
        self._secret, self._proof = dashboard_secret(token).encode(), dashboard_proof(token)
        self._add_pages: Callable[[], None] | None = add_pages

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> HTTPMessageDelegate | None:
        """Return what answers a request."""
        given = request.headers.get(SECRET_HEADER, "").encode()
        if not hmac.compare_digest(given, self._secret):
            return self._application.get_handler_delegate(request, ErrorHandler, {"status_code": 403})
        if self._add_pages is not None:
            self._add_pages()
            self._add_pages = None
        request.connection = _Proving(request.connection, self._proof)  # type: ignore[assignment]
        return self._application.find_handler(request, **kwargs)


class _Proving:
    """A connection whose answer carries the proof, whichever handler gives it."""

    def __init__(self, connection: Any, proof: str) -> None:
        self._connection = connection
        self._proof = proof

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def write_headers(self, start_line: Any, headers: Any, chunk: bytes | None = None) -> Any:
        headers[PROOF_HEADER] = self._proof
        return self._connection.write_headers(start_line, headers, chunk)
