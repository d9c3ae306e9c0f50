"""`sciplat crossmatch` and `groups`: rows that lie near each other on the sky."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from sciplat.cli.inspect import completeness

if TYPE_CHECKING:
    from sciplat.lazy.catalog import Catalog

_RADIUS_HELP = 'Pairs are no farther apart than this: "1 arcsec", at most "10 deg".'
_FIND_HELP = """nearest: for each row of LEFT the nearest one of RIGHT; mutual: pairs that are each other's nearest;
all: every pair."""
_NEIGHBOURS_HELP = "With nearest: so many rows of RIGHT for each row of LEFT."
_HOW_HELP = """inner: pairs alone; left, right, outer: also the rows of that catalog, or of both, that have no match;
anti: rows of LEFT that have none; xor: rows of either catalog that have none."""
_EPOCH_HELP = """Stars that have proper motions are moved to this date before they meet: "J2016.0". By default those of
LEFT are moved to the epoch of RIGHT."""
_SIGMA_HELP = "Pairs are no farther apart than N times their position errors combined; both catalogs must know theirs."
_PROBABILITY_HELP = "Add how probable it is that a pair is one source; needs the errors of both catalogs."
_LINK_HELP = 'Rows are linked that are no farther apart than this: "2 arcsec"; chains of links are a group.'
_REACH_HELP = "How far around its cell a group is looked for; by default 30 radii. Wider groups are refused."
_WRITING = (
    click.option("--replace", is_flag=True, help="Publish a new version of the store at URL."),
    click.option(
        "--on-error",
        metavar="[raise|quarantine]",
        default="raise",
        show_default=True,
        help="Stop at a cell that fails, or leave it out.",
    ),
    click.option("--restart", is_flag=True, help="Drop what an unfinished run left at URL."),
    click.option("--explain", is_flag=True, help="Say what it takes, and stop."),
)


def _writes(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a plan that makes a store."""
    for option in reversed(_WRITING):
        command = option(command)
    return command


@click.command(short_help="Match two catalogs by the places of their rows on the sky.")
@click.argument("left")
@click.argument("right")
@click.argument("url")
@click.option("--radius", metavar="ANGLE", help=_RADIUS_HELP)
@click.option("--find", metavar="[nearest|mutual|all]", default="nearest", show_default=True, help=_FIND_HELP)
@click.option("--neighbours", metavar="N", type=int, default=1, show_default=True, help=_NEIGHBOURS_HELP)
@click.option("--how", metavar="[inner|left|right|outer|anti|xor]", default="inner", show_default=True, help=_HOW_HELP)
@click.option("--epoch", metavar="YEAR", help=_EPOCH_HELP)
@click.option("--no-motion", is_flag=True, help="Leave all stars where the catalogs have them.")
@click.option("--n-sigma", metavar="N", type=float, help=_SIGMA_HELP)
@click.option("--probability", is_flag=True, help=_PROBABILITY_HELP)
@click.option(
    "--suffix", metavar="TEXT", default="_other", show_default=True, help="Of columns of RIGHT whose names are taken."
)
@_writes
def crossmatch(
    left: str,
    right: str,
    url: str,
    *,
    no_motion: bool,
    replace: bool,
    on_error: str,
    restart: bool,
    explain: bool,
    **matching: Any,
) -> None:
    """Match the rows of the catalogs LEFT and RIGHT by their places on the sky, into the new store URL.

    --radius or --n-sigma says how near two rows must be; of both, both count. No pair is lost at the border of a cell.
    """
    from sciplat.lazy.open import open_catalog

    plan = open_catalog(left).crossmatch(open_catalog(right), motion=not no_motion, **matching)
    made = _made(plan, url, explain=explain, replace=replace, on_error=on_error, restart=restart)
    if made is not None:
        click.echo(completeness(made.report))


@click.command(short_help="Tell which rows of a catalog are near each other.")
@click.argument("catalog")
@click.argument("url")
@click.option("--radius", metavar="ANGLE", required=True, help=_LINK_HELP)
@click.option("--reach", metavar="ANGLE", help=_REACH_HELP)
@_writes
def groups(catalog: str, url: str, *, radius: str, reach: str | None, **writing: Any) -> None:
    """Write the rows of the store CATALOG with the number and the size of their group into the new store URL."""
    from sciplat.lazy.open import open_catalog

    _made(open_catalog(catalog).groups(radius=radius, reach=reach), url, **writing)


def _made(plan: "Catalog", url: str, *, explain: bool, **writing: Any) -> "Catalog | None":
    """Say what a plan takes, then write it and say what there is, unless that was all that was asked for."""
    click.echo(str(plan.explain()))
    if explain:
        return None
    made = plan.write(url, **writing)
    click.echo(f"{url}: {len(made):,} rows in {len(made.cells):,} cells")
    return made
