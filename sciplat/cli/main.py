"""The command `sciplat`: its groups, and how errors end it."""

import sys
from typing import Any

import click

from sciplat import __version__
from sciplat.cli.cluster import cluster, quota, usage
from sciplat.cli.cone import cone
from sciplat.cli.crossmatch import crossmatch, groups
from sciplat.cli.demo import demo
from sciplat.cli.gateway import gateway
from sciplat.cli.ingest import ingest
from sciplat.cli.inspect import head, info, verify
from sciplat.cli.photometry import photometry
from sciplat.cli.plan import calibrate, replay, rerun, status
from sciplat.cli.token import token
from sciplat.cli.versions import collect, versions
from sciplat.errors import SciplatError


class _Group(click.Group):
    """Ends with one message and no traceback: status 2 for what the user can correct, 1 for the rest."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SciplatError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2 if error.kind == "usage" else 1)
        except BrokenPipeError:
            raise  # who reads the output has seen enough: click ends quietly
        except OSError as error:
            told = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
            click.echo(f"error: {told}", err=True)
            sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="sciplat")
def main() -> None:
    """Sky catalogs and images partitioned by sky pixel, measured where they lie."""


_LOOKING = (info, head, cone, verify, versions, collect)
_PLANS = (photometry, crossmatch, groups, status, rerun, replay, calibrate)
_CLUSTERS = (cluster, quota, usage, token, gateway)
for command in (demo, ingest, *_LOOKING, *_PLANS, *_CLUSTERS):
    main.add_command(command)
