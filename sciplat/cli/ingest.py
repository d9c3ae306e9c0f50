"""`sciplat ingest`: foreign files become stores."""

from typing import Any

import click

from sciplat.errors import ArgumentError

_MODE_HELP = "Make the store, or add rows to it in a new version."
_PROFILE_HELP = "How headers are read: auto, generic, sdss, decam, or a TOML file."


@click.group(short_help="Make a store of tables or images, or add rows to one.")
def ingest() -> None:
    """Make a store of tables or of FITS images, or add rows to a catalog."""


@ingest.command("catalog", short_help="Make a catalog store of tables, or add rows to one.")
@click.argument("sources", nargs=-1, required=True)
@click.argument("url")
@click.option("--ra", metavar="COLUMN", help="Right ascension in degrees; by default found by its usual names.")
@click.option("--dec", metavar="COLUMN", help="Declination in degrees.")
@click.option("--rows-per-cell", metavar="N", type=int, help="Cells hold at most so many rows; 1,000,000 by default.")
@click.option("--frame", metavar="[icrs|fk5|galactic]", help="Of the positions; icrs by default.")
@click.option("--epoch", metavar="YEAR|COLUMN", help='Of the positions, for example "J2016.0", or a column.')
@click.option("--pmra", metavar="COLUMN", help="Proper motion in right ascension times cos(dec); needs --pmdec.")
@click.option("--pmdec", metavar="COLUMN", help="Proper motion in declination.")
@click.option("--parallax", metavar="COLUMN", help="Parallax; needs --pmra and --pmdec.")
@click.option("--rv", metavar="COLUMN", help="Radial velocity; needs --pmra and --pmdec.")
@click.option("--ra-error", metavar="COLUMN", help="Error of the right ascension; needs --dec-error.")
@click.option("--dec-error", metavar="COLUMN", help="Error of the declination.")
@click.option("--error-corr", metavar="COLUMN", help="Correlation of the two errors.")
@click.option("--citation", help="How to cite the catalog.")
@click.option("--mode", metavar="[create|append]", default="create", show_default=True, help=_MODE_HELP)
@click.option(
    "--bad",
    metavar="[refuse|skip]",
    default="refuse",
    show_default=True,
    help="What becomes of rows without a position.",
)
@click.option("--memory", metavar="SIZE", help='At most this much, as "2GiB"; what does not fit is sorted on disk.')
@click.option("--restart", is_flag=True, help="Drop what an unfinished ingest left at URL.")
def catalog(
    sources: tuple[str, ...],
    url: str,
    *,
    pmra: str | None,
    pmdec: str | None,
    parallax: str | None,
    rv: str | None,
    ra_error: str | None,
    dec_error: str | None,
    error_corr: str | None,
    **options: object,
) -> None:
    """Make the catalog store URL of Parquet, CSV, FITS, VOTable or Arrow tables, or add rows to it.

    After a kill or an error the same command goes on with what is left.
    """
    from sciplat.ingest.catalog import ingest_catalog
    from sciplat.sky.motion import Errors, Motion

    motion = _pair(Motion, {"pmra": pmra, "pmdec": pmdec}, {"parallax": parallax, "rv": rv}, "--pmra and --pmdec")
    errors = _pair(Errors, {"ra": ra_error, "dec": dec_error}, {"corr": error_corr}, "--ra-error and --dec-error")
    made = ingest_catalog(list(sources), url, motion=motion, errors=errors, **options)  # type: ignore[arg-type]  # click gives the types
    report = made.report
    click.echo(
        f"{url}: version {made.version}, {report['rows']:,} rows ingested, {report['skipped']:,} skipped; "
        f"{len(made):,} rows in {len(made.cells):,} cells"
    )
    for cell, rows in report["cells_over_limit"]:
        click.echo(f"  cell {cell} holds {rows:,} rows at one place", err=True)


def _pair(kind: Any, needed: dict[str, str | None], more: dict[str, str | None], what: str) -> Any:
    """Return the columns that are named together, None if none is.

    Raises
    ------
    ArgumentError
        If one of those that are needed is missing.
    """
    named = {name: column for name, column in (needed | more).items() if column is not None}
    if not named:
        return None
    if not needed.keys() <= named.keys():
        raise ArgumentError(f"{what} go together", found=", ".join(named))
    return kind(**named)


@ingest.command("images", short_help="Make an image store of FITS files.")
@click.argument("sources", nargs=-1, required=True)
@click.argument("url")
@click.option("--profile", metavar="NAME|FILE", default="auto", show_default=True, help=_PROFILE_HELP)
@click.option("--order", metavar="N", type=int, help="HEALPix order of the cells; by default it fits the images' size.")
@click.option("--zero-points", metavar="FILE", help="Table with the zero points of the images.")
@click.option("--citation", help="How to cite the images.")
@click.option(
    "--bad",
    metavar="[report|refuse]",
    default="report",
    show_default=True,
    help="What becomes of files that cannot be read.",
)
def images(sources: tuple[str, ...], url: str, **options: object) -> None:
    """Make the image store URL of FITS files, tile-compressed ones too."""
    from sciplat.ingest.images import ingest_images

    made = ingest_images(list(sources), url, **options)  # type: ignore[arg-type]  # click gives the types
    refused = made.report["refused"]
    click.echo(f"{url}: {len(made):,} images in bands {', '.join(made.bands)}; {len(refused)} files refused")
    for source, reason in refused:
        click.echo(f"  {source}: {reason}", err=True)
