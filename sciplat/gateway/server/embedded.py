"""A gateway for one user: its site file, written once, and the token that its owner's programs find."""

import json
import os
import pwd
import secrets
import socket
import time
from pathlib import Path

from sciplat.errors import SiteError, TokenRefused
from sciplat.gateway.private import make_folders, read_private, state_folder, write_first, write_private
from sciplat.gateway.site.schema import Site, TokenFile
from sciplat.gateway.users.tokens import SCOPES, Tokens, is_user_name

_PORTS = range(10_000, 32_768)  # below those that the kernel hands out by itself: nobody takes them by chance
_TEXT = """\
# Made by `sciplat gateway start` for one user. Change it as you like, and start again.
state: {state}
address: 127.0.0.1:{port}
api_address: 127.0.0.1:{api_port}
backend: local
on_stop: stop
admins: {{users: [{user}]}}
quotas: {{}}
"""


def own_site(state: Path) -> Path:
    """Return the site file of one's own gateway; make it, with ports that are free, if there is none.

    Parameters
    ----------
    state : Path
        The folder of its state.
    """
    path = state / "site.yaml"
    if not path.exists():
        make_folders(state)
        port, api_port = _free_ports(2)
        told = json.dumps(str(state), ensure_ascii=False)  # YAML has no pairs of halves beyond \uffff
        write_first(path, _TEXT.format(state=told, port=port, api_port=api_port, user=json.dumps(own_name())))
    return path


def welcome(site: Site) -> str:
    """Return what one who has started a gateway wants to know; for an own one, keep a token for its owner."""
    address = f"http{'s' if site.tls else ''}://{site.address}{site.prefix}"
    lines = [f"gateway at {address}, state in {site.state}"]
    with_tokens = any(isinstance(one, TokenFile) for one in site.authenticators)
    if with_tokens and site.backend == "local" and site.state == state_folder():
        lines.append(f"sciplat.open_cluster() finds it; the token is in {keep_token(site, address)}")
    elif with_tokens:
        lines.append("sciplat token create --config FILE --user USER NAME lets a user in")
    return "\n".join([*lines, "Ctrl-C stops it"])


def keep_token(site: Site, address: str) -> Path:
    """Keep address and token of one's own gateway in a file that only its owner may read; return the file."""
    path, tokens, now = site.state / "client.json", Tokens(site.token_file), time.time()
    token = _kept_token(path, tokens, now)
    if token is None:
        _, token = tokens.create(own_name(), "own", scopes=SCOPES, lifetime=None, now=now)
    write_private(path, json.dumps({"address": address, "token": token}))
    return path


def own_name() -> str:
    """Return the name of the user of this process, as a gateway knows users."""
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container may run under any number
        name = ""
    return name if is_user_name(name) else "owner"


def _kept_token(path: Path, tokens: Tokens, now: float) -> str | None:
    """Return the token that is kept already, if it still opens the gateway."""
    if not path.exists():
        return None
    text = read_private(path)
    try:
        token = str(json.loads(text)["token"])
        tokens.check(token, now)
    except (ValueError, KeyError, TypeError, TokenRefused) as error:
        if isinstance(error, SiteError):  # of the token file
            raise
        return None
    return token


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody on this machine listens on."""
    found: list[int] = []
    while len(found) < count:
        port = secrets.choice(_PORTS)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        if port not in found:
            found.append(port)
    return found
