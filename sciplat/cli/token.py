"""`sciplat token`: what opens a gateway to a program."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from sciplat.cli.cluster import printable
from sciplat.cli.gateway import needs_server
from sciplat.gateway.client.login import find_login
from sciplat.gateway.units import parse_duration

if TYPE_CHECKING:
    from sciplat.gateway.client.connection import Connection
    from sciplat.gateway.site.schema import Site
    from sciplat.gateway.users.tokens import Token, Tokens

_ADDRESS = click.option("--gateway", "address", metavar="URL", help="The gateway at which the token is yours.")
_CONFIG = click.option(
    "--config", type=click.Path(path_type=Path), help="The site file, for who runs the gateway: anybody's tokens."
)


@click.group(short_help="Make, list and revoke tokens for a gateway.")
def token() -> None:
    """Tokens: make one, list them, take one back at once."""


@token.command(short_help="Make a token and print it.")
@_ADDRESS
@_CONFIG
@click.argument("name")
@click.option("--user", help="Whose; with --config.")
@click.option("--scope", "scopes", multiple=True, default=("read", "clusters"), show_default=True)
@click.option("--expires", default="90 d", show_default=True, help="After how long, or never (with --config).")
def create(
    address: str | None, config: Path | None, name: str, user: str | None, scopes: tuple[str, ...], expires: str
) -> None:
    """Make a token and print it: it is not kept anywhere, and not shown again."""
    lifetime = None if expires == "never" else parse_duration(expires, what="--expires")
    if config is None:
        if lifetime is None:
            raise click.UsageError("--expires never goes with --config: a gateway gives no such tokens")
        told = _connect(address, user).post("/api/sciplat/tokens", name=name, scopes=list(scopes), lifetime=lifetime)
        click.echo(told["token"])
        return
    if user is None:
        raise click.UsageError("--config makes a token for anybody: name --user")
    site = _site(config)
    made, text = _tokens(site).create(user, name, scopes=scopes, lifetime=lifetime, now=time.time())
    _audit(site, "token-created", made)
    click.echo(text)


@token.command("list", short_help="List tokens.")
@_ADDRESS
@_CONFIG
@click.option("--user", help="Whose; with --config.")
def list_tokens(address: str | None, config: Path | None, user: str | None) -> None:
    """List tokens: number, owner, name, what it opens, until when."""
    rows = _connect(address, user).get("/api/sciplat/tokens")["tokens"] if config is None else _described(config, user)
    if not rows:
        click.echo("no tokens")
    for one in rows:
        click.echo(printable("  ".join([one["id"], one["user"], one["name"], ",".join(one["scopes"]), one["state"]])))


@token.command(short_help="Take a token back.")
@_ADDRESS
@_CONFIG
@click.argument("number", metavar="ID")
def revoke(address: str | None, config: Path | None, number: str) -> None:
    """Take a token back; it opens nothing from now on."""
    if config is None:
        _connect(address, None).delete(f"/api/sciplat/tokens/{quote(number, safe='')}")
    else:
        site = _site(config)
        _audit(site, "token-revoked", _tokens(site).revoke(number, now=time.time()))
    click.echo(f"revoked {number}")


def _connect(address: str | None, user: str | None) -> "Connection":
    from sciplat.gateway.client.connection import Connection

    if user is not None:
        raise click.UsageError("--user goes with --config: at a gateway you see your own tokens")
    return Connection(find_login(address))


def _site(config: Path) -> "Site":
    needs_server()
    from sciplat.gateway.site.schema import load_site

    return load_site(config)


def _tokens(site: "Site") -> "Tokens":
    from sciplat.gateway.users.tokens import Tokens

    return Tokens(site.token_file)


def _audit(site: "Site", event: str, token: "Token") -> None:
    """Note what was done to a token past the gateway, and by which Unix user."""
    from sciplat.gateway.server.embedded import own_name
    from sciplat.gateway.users.audit import Audit

    log = Audit(site.state / "audit.jsonl")
    log.write(event, user=token.user, token=token.id, name=token.name, scopes=token.scopes, by=own_name())


def _described(config: Path, user: str | None) -> list[dict[str, Any]]:
    from sciplat.gateway.users.tokens import described

    return [described(one) for one in _tokens(_site(config)).list(user)]
