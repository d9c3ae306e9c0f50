"""Which gateway a user means and what opens it: from the environment, or from what `sciplat gateway start` left."""

import json
import os
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from sciplat.errors import GatewayError, SiteError, TokenRefused
from sciplat.gateway.private import read_private, state_folder

_TOKEN = re.compile(r"[\x21-\x7e]{1,1024}")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Login:
    """An address and what opens it.

    Attributes
    ----------
    address : str
        "http://host:port/prefix", without a slash at the end.
    token : str
    scheme : {"Bearer", "jupyterhub"}
        Whose token it is: the gateway's own, or a hub's.
    proxy : str or None
        Where traffic to schedulers goes, "gateway://host:port": a hub's proxy cannot carry it. None leaves it to
        dask-gateway's configuration.
    """

    address: str
    token: str = field(repr=False)
    scheme: str = "Bearer"
    proxy: str | None = None

    @property
    def header(self) -> dict[str, str]:
        """The HTTP header that logs in."""
        return {"Authorization": f"{self.scheme} {self.token}"}


def find_login(address: str | None = None) -> Login:
    """Return the gateway that is meant, and a token for it.

    Parameters
    ----------
    address : str, optional
        By default `$SCIPLAT_GATEWAY`, then dask-gateway's own configuration, then the gateway that this user has
        started with `sciplat gateway start`.

    Returns
    -------
    Login
        With the token in `$SCIPLAT_TOKEN`, then, if it is this user's own gateway, the one that
        `sciplat gateway start` has stored, then the one of the notebook server in `$JUPYTERHUB_API_TOKEN`.

    Raises
    ------
    GatewayError
        If no gateway is known, or its address cannot be one.
    TokenRefused
        If no token is known.
    """
    own = _own()
    known = os.environ.get("SCIPLAT_GATEWAY") or _configured("gateway.address")
    named = address or known or (own and own.address)
    if not named:
        raise GatewayError(
            "no gateway is known", hint="sciplat gateway start, or set SCIPLAT_GATEWAY to the address of one"
        )
    named = _checked(named)
    token, scheme = _token(named, own)
    # What is configured belongs to the gateway that is configured, whoever names it.
    configured = _configured("gateway.proxy-address") if known and _checked(known) == named else None
    return Login(named, token, scheme, _proxy(named, configured))


def _own() -> Login | None:
    """Return the login of the gateway that this user has started, if there is one."""
    path = state_folder() / "client.json"
    if not path.exists():
        return None
    try:
        kept = json.loads(read_private(path))
        return Login(_checked(str(kept["address"])), str(kept["token"]))
    except SiteError:
        raise  # others may read it
    except (ValueError, KeyError, TypeError) as error:
        raise GatewayError(f"{path} cannot be read", found=str(error)[:80], hint="sciplat gateway start") from None


def _token(named: str, own: Login | None) -> tuple[str, str]:
    """Return a token for a gateway, and whose it is."""
    mine = own.token if own is not None and own.address == named else None
    choices = (
        (os.environ.get("SCIPLAT_TOKEN"), "Bearer"),
        (mine, "Bearer"),
        (os.environ.get("JUPYTERHUB_API_TOKEN"), "jupyterhub"),
    )
    for token, scheme in choices:
        if token and token.strip():
            if not _TOKEN.fullmatch(token.strip()):
                raise TokenRefused("a token has no blanks and only plain characters", hint="look at $SCIPLAT_TOKEN")
            return token.strip(), scheme
    raise TokenRefused(f"no token for the gateway {named}", hint="set SCIPLAT_TOKEN; sciplat token create makes one")


def _configured(key: str) -> str | None:
    """Return a setting of dask-gateway, with the environment's variables in place."""
    import dask

    value = dask.config.get(key, None)
    try:
        return None if value is None else str(value).format(**os.environ)
    except (LookupError, ValueError, AttributeError) as error:
        raise GatewayError(f"the setting {key} cannot be read", found=f"{value!r}: {error}"[:200]) from None


def _checked(address: str) -> str:
    """Return an address without a slash at its end."""
    try:
        parts = urlsplit(address)
        good = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or "@" in parts.netloc or "?" in address or "#" in address or re.search(r"[^\x21-\x7e]", address):
        raise GatewayError(
            "a gateway's address is like http://127.0.0.1:8000 or https://host/prefix", found=repr(address)[:200]
        )
    return address.rstrip("/")


def _proxy(address: str, configured: str | None) -> str:
    """Return where traffic to schedulers goes: where it is configured, which may be a port alone, or to the gateway."""
    parts = urlsplit(address)
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    if configured is None:
        return f"gateway://{host}:{parts.port or _PORTS[parts.scheme]}"
    return f"gateway://{host}:{configured}" if configured.isdigit() else configured
