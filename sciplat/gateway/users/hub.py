"""A JupyterHub as a witness: whose a token is, of which groups, and whether it may use the gateway's service."""

import hashlib
import time
from dataclasses import dataclass
from typing import Any

import aiohttp

from sciplat.errors import GatewayError
from sciplat.gateway.users.tokens import refused

_REMEMBERED = 3.0  # s; a revocation holds after that
_PATIENCE = 5.0  # s


@dataclass(frozen=True)
class HubUser:
    """What a hub says of a token's owner."""

    name: str
    groups: tuple[str, ...]
    admin: bool


class Hub:
    """A JupyterHub's REST API.

    Parameters
    ----------
    api_url : str
        Such as "http://127.0.0.1:8081/hub/api".
    service : str
        The gateway's name among the hub's services; a token needs the scope to access it.
    """

    def __init__(self, api_url: str, service: str) -> None:
        self.api_url = api_url.rstrip("/")
        self.service = service
        self._session: aiohttp.ClientSession | None = None
        self._answers: dict[bytes, tuple[float, HubUser]] = {}

    async def identify(self, token: str) -> HubUser:
        """Return whose token it is, as the hub says now or said within the last 3 s.

        Raises
        ------
        TokenRefused
            unknown: the hub does not know it, or it is a service's; scope: it may not use the gateway.
        GatewayError
            If the hub gives no answer, or none that makes sense.
        """
        now = time.monotonic()
        digest = hashlib.sha256(token.encode()).digest()
        asked, user = self._answers.get(digest, (-_REMEMBERED, None))
        if user is None or now - asked >= _REMEMBERED:
            user = _user(await self._ask(token), self.service)
            self._answers = {key: old for key, old in self._answers.items() if now - old[0] < _REMEMBERED}
            self._answers[digest] = now, user  # the time before the hub was asked
        return user

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(self, token: str) -> Any:
        """Return what the hub says of a token; it is asked with that token itself."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_PATIENCE), cookie_jar=aiohttp.DummyCookieJar()
            )
        headers = {"Authorization": f"token {token}"}
        try:
            # a redirect would carry the token elsewhere
            async with self._session.get(f"{self.api_url}/user", headers=headers, allow_redirects=False) as answer:
                if answer.status in {401, 403, 404}:
                    raise refused("unknown", "The hub does not know this token, or it has been revoked")
                if answer.status != 200:
                    raise GatewayError("The JupyterHub cannot say whose token this is", found=f"status {answer.status}")
                return await answer.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise GatewayError("The JupyterHub does not answer", found=type(error).__name__) from error


def _user(answer: Any, service: str) -> HubUser:
    """Read a hub's user model; it has admin and groups even for tokens that can do nothing but name their owner."""
    if not isinstance(answer, dict) or not isinstance(answer.get("name"), str):
        raise GatewayError("The JupyterHub cannot say whose token this is", found="an answer without a name")
    if answer.get("kind") != "user":
        raise refused("unknown", "This token is a service's, not a user's")
    if {"access:services", f"access:services!service={service}"}.isdisjoint(_texts(answer.get("scopes"))):
        hint = "ask the hub's operator for that scope, or take a token that has it"
        raise refused("scope", f"This token lacks the hub's scope access:services!service={service}", hint=hint)
    return HubUser(answer["name"], tuple(_texts(answer.get("groups"))), answer.get("admin") is True)


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
