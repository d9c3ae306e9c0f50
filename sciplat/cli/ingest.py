"""`sciplat ingest`: foreign files become stores."""

from typing import Any

import click

from sciplat.errors import ArgumentError


@click.group()
def ingest() -> None:
    """Make a store of foreign files."""


@ingest.command("catalog")
@click.argument("sources", nargs=-1, required=True)
@click.argument("url")
@click.option("--ra", help="Column of right ascension in degrees; found by its usual names otherwise.")
@click.option("--dec", help="Column of declination in degrees.")
@click.option("--rows-per-cell", type=int, help="Cells hold at most this many; 1,000,000 by default.")
@click.option("--frame", help="icrs (the default), fk5 or galactic.")
@click.option("--epoch", help='Of the positions, for example "J2016.0", or a column.')
@click.option("--pmra", help="Column of proper motion in right ascension, cos(dec) included; needs --pmdec.")
@click.option("--pmdec", help="Column of proper motion in declination.")
@click.option("--parallax", help="Column of parallax.")
@click.option("--rv", help="Column of radial velocity.")
@click.option("--ra-error", help="Column of the position's error; needs --dec-error.")
@click.option("--dec-error", help="Column of the position's error in declination.")
@click.option("--error-corr", help="Column of the correlation of the two errors.")
@click.option("--citation", help="How to cite the catalog.")
@click.option("--mode", default="create", show_default=True, help="create, or append: add rows in a new version.")
@click.option("--bad", default="refuse", show_default=True, help="Rows without a position: refuse or skip.")
@click.option("--memory", help='At most this much, for example "2GiB"; what does not fit is sorted on disk.')
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


@ingest.command("images")
@click.argument("sources", nargs=-1, required=True)
@click.argument("url")
@click.option("--profile", default="auto", show_default=True, help="auto, generic, sdss, decam, or a TOML file.")
@click.option("--order", type=int, help="Of the store's cells; fits the images' size by default.")
@click.option("--zero-points", help="Table with the zero points of the images.")
@click.option("--citation", help="How to cite the images.")
@click.option("--bad", default="report", show_default=True, help="Unreadable files: report or refuse.")
def images(sources: tuple[str, ...], url: str, **options: object) -> None:
    """Make the image store URL of FITS files, tile-compressed ones too."""
    from sciplat.ingest.images import ingest_images

    made = ingest_images(list(sources), url, **options)  # type: ignore[arg-type]  # click gives the types
    refused = made.report["refused"]
    click.echo(f"{url}: {len(made):,} images in bands {', '.join(made.bands)}; {len(refused)} files refused")
    for source, reason in refused:
        click.echo(f"  {source}: {reason}", err=True)
