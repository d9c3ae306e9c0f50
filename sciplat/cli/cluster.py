"""`sciplat cluster`, `quota` and `usage`: what one has at a gateway, why it waits, and what it has cost."""

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from sciplat.errors import GatewayError, TokenRefused
from sciplat.gateway.client.login import find_login
from sciplat.gateway.units import format_memory

if TYPE_CHECKING:
    from sciplat.gateway.client.connection import Connection

_ADDRESS = click.option(
    "--gateway", "address", metavar="URL", help="The gateway; by default the one of $SCIPLAT_GATEWAY, or your own."
)
_SHORT = 8  # characters of a cluster's name that people see
_BEGIN = re.compile(r"[0-9a-f]{1,32}")


@click.group(short_help="Your clusters at a gateway: list, stop, logs, why.")
def cluster() -> None:
    """Your clusters at a gateway: list them, stop them, read their logs, ask why they wait."""


@cluster.command("list", short_help="List clusters, one in a line.")
@_ADDRESS
@click.option("--all", "everybody", is_flag=True, help="Everybody's clusters, for who runs the gateway.")
@click.option("--ended", is_flag=True, help="Also those that ended within a day.")
def list_clusters(address: str | None, *, everybody: bool, ended: bool) -> None:
    """List clusters, one in a line: name, owner, state, workers, profile, start."""
    found = _clusters(_connect(address), everybody=everybody, ended=ended)
    if not found:
        click.echo("no clusters")
        return
    rows: list[tuple[str, ...]] = [("cluster", "user", "state", "workers", "profile", "started", "")]
    for one in found:
        count = one["workers"]
        workers = f"{count['running']}/{count['asked']}"
        why = one.get("reason") or "; ".join(one.get("waiting", [])[:1])
        rows.append((one["name"][:_SHORT], one["user"], one["status"], workers, one["profile"], one["started"], why))
    _table(rows)


@cluster.command(short_help="Stop a cluster.")
@_ADDRESS
@click.argument("name", metavar="ID")
def stop(address: str | None, name: str) -> None:
    """Stop a cluster; the first characters of its name are enough."""
    connection = _connect(address)
    full = _full_name(connection, name)
    connection.delete(f"/api/sciplat/clusters/{quote(full, safe='')}")
    click.echo(f"stopped {full[:_SHORT]}")


@cluster.command(short_help="Print the end of the logs of scheduler and workers.")
@_ADDRESS
@click.argument("name", metavar="ID")
@click.option("--lines", default=40, show_default=True, type=click.IntRange(1, 5000), help="Of each log.")
@click.option("--worker", metavar="NAME", help="Only this worker's.")
def logs(address: str | None, name: str, lines: int, worker: str | None) -> None:
    """Print the end of the logs of a cluster's scheduler and workers, also after the end."""
    connection = _connect(address)
    answer = connection.cluster(_full_name(connection, name), "logs", lines=lines, worker=worker)
    for part, text in answer["logs"].items():
        click.echo(f"--- {printable(part)}")
        for line in text.splitlines():
            click.echo(printable(line))


@cluster.command(short_help="Say what a cluster waits for, or why it ended.")
@_ADDRESS
@click.argument("name", metavar="ID")
def why(address: str | None, name: str) -> None:
    """Say what each part of a cluster is waiting for, or why it ended."""
    connection = _connect(address)
    full = _full_name(connection, name)
    state = connection.cluster(full)
    if state.get("reason"):
        click.echo(printable(f"{state['status']}: {state['reason']}"))
        return
    lines = connection.cluster(full, "why")["lines"] or [f"nothing is waiting: the cluster is {state['status']}"]
    for line in lines:
        click.echo(printable(line))


@click.command(short_help="Print what you may have at a gateway, and what is left.")
@_ADDRESS
def quota(address: str | None) -> None:
    """Print what you may have at a gateway, what you use, what is left, and when it is counted anew."""
    accounts = _connect(address).get("/api/sciplat/quota")["accounts"]
    if not accounts:
        click.echo("this gateway sets you no limits")
    for account in accounts:
        click.echo(printable(f"{account['kind']} {account['name']}"))
        rows: list[tuple[str, ...]] = [("", "limit", "used", "left", "")]
        for limit in account["limits"]:
            told = [_amount(limit["limit"], limit[key]) for key in ("cap", "used", "left")]
            resets = f"resets {limit['resets']}" if limit.get("resets") else ""
            rows.append((f"  {limit['limit'].replace('_', '-')}", *told, resets))
        _table(rows)


@click.command(short_help="Print what clusters have used.")
@_ADDRESS
@click.option("--by", default="user", show_default=True, help="user, group, cluster, or several: user,group.")
@click.option("--since", default="30 d", show_default=True, help="How far back, like 7d.")
def usage(address: str | None, by: str, since: str) -> None:
    """Print what clusters have used: core-hours, GPU-hours, memory; everybody's for who runs the gateway."""
    rows = _connect(address).get("/api/sciplat/usage", by=by, since=since)["rows"]
    keys = [one.strip() for one in by.split(",")]
    table: list[tuple[str, ...]] = [(*keys, "core-hours", "gpu-hours", "GiB-hours", "clusters", "workers")]
    for row in rows:
        hours = [f"{row[key]:,.2f}" for key in ("core_hours", "gpu_hours", "memory_gib_hours")]
        told = [str(row[key])[: _SHORT if key == "cluster" else None] for key in keys]
        table.append((*told, *hours, str(row["clusters"]), str(row["workers"])))
    _table(table)


def printable(text: str) -> str:
    """Return a line that somebody else wrote without what would steer the terminal."""
    return "".join(one if one.isprintable() or one == "\t" else "\N{REPLACEMENT CHARACTER}" for one in text)


def _connect(address: str | None) -> "Connection":
    from sciplat.gateway.client.connection import Connection  # urllib.request takes a while to load

    return Connection(find_login(address))


def _clusters(connection: "Connection", *, everybody: bool = False, ended: bool = False) -> list[dict[str, Any]]:
    query = {"all": 1 if everybody else None, "ended": 1 if ended else None}
    return list(connection.get("/api/sciplat/clusters", **query)["clusters"])


def _full_name(connection: "Connection", name: str) -> str:
    """Return the one cluster whose name begins so: one's own, or as an administrator anybody's."""
    if not _BEGIN.fullmatch(name):
        raise GatewayError("a cluster's name is 0-9 and a-f", found=repr(name)[:80], hint="sciplat cluster list")
    if len(name) == 32:
        return name
    for everybody in (False, True):
        try:
            found = [one["name"] for one in _clusters(connection, ended=True, everybody=everybody)]
        except TokenRefused:
            if not everybody:
                raise
            break  # only administrators may look
        fitting = [one for one in found if one.startswith(name)]
        if len(fitting) == 1:
            return str(fitting[0])
        if fitting:
            raise GatewayError(f"several clusters begin with {name}", hint="name more characters")
    raise GatewayError(f"no cluster begins with {name}", hint="sciplat cluster list --ended")


def _amount(limit: str, value: float | None) -> str:
    if value is None:
        return "no limit"
    if limit == "memory":
        return format_memory(int(value))
    return f"{value:,.2f}" if limit == "core_hours" else f"{value:g}"


def _table(rows: list[tuple[str, ...]]) -> None:
    """Print rows in columns; the last one is as wide as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        click.echo(printable("  ".join([*cells, row[-1]]).rstrip()))
