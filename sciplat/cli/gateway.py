"""`sciplat gateway`: start one, check a site's file, stop one."""

import sys
from pathlib import Path

import click

from sciplat.errors import MissingDependency, SiteError
from sciplat.gateway.private import state_folder

_CONFIG = click.option(
    "--config", type=click.Path(path_type=Path), help="The site file; without it a gateway for you alone."
)


@click.group(short_help="Run a gateway that hands out Dask clusters.")
def gateway() -> None:
    """Run a gateway that hands out Dask clusters: to yourself, or to a site's many users."""


@gateway.command(short_help="Start a gateway and keep it running.")
@_CONFIG
def start(config: Path | None) -> None:
    """Start a gateway, and keep it running until Ctrl-C or SIGTERM.

    Without a site file it is yours alone: on this machine's loopback, with a token that only you can read, and its
    state in a folder of yours. `sciplat.open_cluster()` finds it.
    """
    needs_server()
    from sciplat.gateway.server.embedded import own_site, welcome
    from sciplat.gateway.server.supervisor import supervise
    from sciplat.gateway.site.check import find_risks
    from sciplat.gateway.site.schema import load_site

    path = own_site(state_folder()) if config is None else config
    site = load_site(path)
    for risk in find_risks(site):
        click.echo(f"warning: {risk}", err=True)
    supervise(site, path.absolute(), lambda: click.echo(welcome(site)))


@gateway.command(short_help="Stop a gateway and its proxy.")
@_CONFIG
def stop(config: Path | None) -> None:
    """Stop a gateway and its proxy; a site that keeps its clusters finds them again when it is started."""
    needs_server()
    from sciplat.gateway.server.supervisor import stop as stop_processes
    from sciplat.gateway.site.schema import load_site

    if config is None and not _own().exists():
        click.echo("nothing was running")
        return
    ended = stop_processes(load_site(config or _own()))
    click.echo(f"stopped {', '.join(ended)}" if ended else "nothing was running")


@gateway.command(short_help="Say what is wrong with a site file or this machine.")
@_CONFIG
def check(config: Path | None) -> None:
    """Say what is wrong with a site file, or with this machine for it; status 1 if anything is."""
    needs_server()
    from sciplat.gateway.site.check import find_problems
    from sciplat.gateway.site.schema import load_site

    if config is None and not _own().exists():
        raise SiteError("you have no gateway of your own yet", hint="sciplat gateway start makes one")
    site = load_site(config or _own())
    problems = find_problems(site)
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        sys.exit(1)
    profiles = "1 profile" if len(site.profiles) == 1 else f"{len(site.profiles)} profiles"
    click.echo(f"good: {site.backend}, {profiles}, at {site.address}")


def _own() -> Path:
    return state_folder() / "site.yaml"


def needs_server() -> None:
    """Refuse what the packages of a server are missing for."""
    try:
        import dask_gateway_server  # noqa: F401
        import pydantic  # noqa: F401
        import sqlalchemy  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            "a gateway needs dask-gateway-server",
            found=f"no {error.name}",
            hint="pip install 'sciplat[gateway-server]'",
        ) from error
