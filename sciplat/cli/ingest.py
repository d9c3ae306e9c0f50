"""`sciplat ingest`: foreign files become stores."""

import click


@click.group()
def ingest() -> None:
    """Make a store of foreign files."""


@ingest.command("catalog")
@click.argument("sources", nargs=-1, required=True)
@click.argument("url")
@click.option("--ra", help="Column of right ascension in degrees; found by its usual names otherwise.")
@click.option("--dec", help="Column of declination in degrees.")
@click.option("--rows-per-cell", type=int, default=1_000_000, show_default=True, help="Cells hold at most this many.")
@click.option("--frame", default="icrs", show_default=True, help="icrs, fk5 or galactic.")
@click.option("--epoch", help='Of the positions, for example "J2016.0".')
@click.option("--citation", help="How to cite the catalog.")
@click.option("--bad", default="refuse", show_default=True, help="Rows without a position: refuse or skip.")
def catalog(sources: tuple[str, ...], url: str, **options: object) -> None:
    """Make the catalog store URL of Parquet, CSV or FITS tables."""
    from sciplat.ingest.catalog import ingest_catalog

    made = ingest_catalog(list(sources), url, **options)  # type: ignore[arg-type]  # click gives the types
    report = made.properties["report"]
    click.echo(f"{url}: {report['rows']:,} rows in {len(made.cells)} cells, {report['skipped']:,} rows skipped")


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
