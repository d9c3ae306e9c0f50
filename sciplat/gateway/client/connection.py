"""Talks to a gateway over HTTP: one request, one answer, errors as sciplat's."""

import ipaddress
import json
import ssl
import time
import urllib.request
from http.client import HTTPException, IncompleteRead
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit

from sciplat.errors import ClusterNotFound, GatewayAway, GatewayError, QuotaExceeded, SciplatError, TokenRefused
from sciplat.gateway.client.login import Login
from sciplat.gateway.quota.refusals import MARK

_ANSWER = 30.0  # seconds in which a gateway begins to answer, and in which it ends
_LARGEST = 128 * 1024**2  # bytes of an answer: the logs of fifty workers
_AWAY = {502, 503, 504}  # the proxy answers, and nobody behind it
_PLAIN = {404, 409, 422}  # refusals whose reason says it all


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing: the token would go along."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Connection:
    """A user's way to a gateway.

    A gateway on this machine is spoken to directly, any other one through the proxy that the environment names
    (`https_proxy`, `no_proxy`). `SSL_CERT_FILE` names the certificates of an authority of one's own.

    Parameters
    ----------
    login : Login
    """

    def __init__(self, login: Login) -> None:
        self.login = login
        direct = [urllib.request.ProxyHandler({})] if _is_local(login.address) else []
        self._opener = urllib.request.build_opener(_NoRedirect, *direct)

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """Return the answer to GET; what is None or empty in the query is left out."""
        asked = {key: value for key, value in query.items() if value is not None and value != ""}
        return self._request("GET", path + ("?" + urlencode(asked) if asked else ""))

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Return the answer to POST."""
        return self._request("POST", path, body)

    def delete(self, path: str) -> dict[str, Any]:
        """Return the answer to DELETE."""
        return self._request("DELETE", path)

    def cluster(self, name: str, part: str = "", **query: Any) -> dict[str, Any]:
        """Return what the gateway says of a cluster: its state, or a part of it like "why" or "logs"."""
        return self.get(f"/api/sciplat/clusters/{quote(name, safe='')}" + (f"/{part}" if part else ""), **query)

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 (Login has checked the address)
            self.login.address + path,
            data=data,
            method=method,
            headers={**self.login.header, "Content-Type": "application/json"},
        )
        address = self.login.address
        try:
            with self._opener.open(request, timeout=_ANSWER) as reply:
                return _parse(_read(reply), address)
        except HTTPError as error:
            with error:
                raise _refusal(error, address) from None
        except (HTTPException, OSError, UnicodeError) as error:  # no host's name can be so
            if isinstance(error, SciplatError):
                raise
            reason = error.reason if isinstance(error, URLError) else error
            untrusted = isinstance(reason, ssl.SSLError)
            hint = "SSL_CERT_FILE names an authority of one's own" if untrusted else "is it running there?"
            raise GatewayAway(
                f"the gateway {address} does not answer", found=str(reason) or type(reason).__name__, hint=hint
            ) from error


def _is_local(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(reply: Any) -> bytes:
    """Return an answer that is neither endless nor dripping."""
    parts, size, limit = [], 0, time.monotonic() + _ANSWER
    while part := reply.read1(65536):
        parts.append(part)
        size += len(part)
        if size > _LARGEST:
            raise GatewayError("the gateway's answer is too large", found=f"more than {_LARGEST >> 20} MiB")
        if time.monotonic() > limit:
            raise TimeoutError("it takes too long")
    told = reply.headers.get("Content-Length", "")
    if told.isdecimal() and size < int(told):
        raise IncompleteRead(parts[-1] if parts else b"", int(told) - size)
    return b"".join(parts)


def _parse(text: bytes, address: str) -> dict[str, Any]:
    """Return an answer: an object, empty where there is nothing to say."""
    try:
        found = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise GatewayError(
            f"{address} answers, but not as a gateway does", found=repr(text[:80]), hint="is the address right?"
        )
    return found


def _refusal(error: HTTPError, address: str) -> SciplatError:
    """Return what a refusal means."""
    try:
        reason = str(json.loads(_read(error))["error"])
    except (ValueError, KeyError, TypeError, RecursionError, HTTPException, OSError):
        reason = f"the gateway {address} is not there at present" if error.code in _AWAY else str(error.reason)
    if reason.startswith(MARK):
        return QuotaExceeded(reason.removeprefix(MARK), hint="sciplat quota shows what you have and use")
    if error.code in {401, 403}:
        hint = "sciplat token create makes one that is good" if error.code == 401 else ""
        return TokenRefused(f"the gateway {address} does not let you in: {reason}", hint=hint)
    if error.code in _AWAY:
        return GatewayAway(reason, hint="try again in a moment")
    if error.code in _PLAIN:
        return (ClusterNotFound if error.code == 404 else GatewayError)(reason)
    return _unexpected(error, reason, address)


def _unexpected(error: HTTPError, reason: str, address: str) -> SciplatError:
    """Return what it means when an answer is none that a gateway in order gives."""
    if error.code >= 500:
        return GatewayError(f"the gateway {address} has failed: {reason}", found=f"status {error.code}")
    if error.code < 400:
        where = str(error.headers.get("Location"))[:200]
        told = f"{address} sends us elsewhere, which no gateway does"
        return GatewayError(told, found=where, hint="is the address right?")
    return GatewayError(reason, found=f"status {error.code}")
