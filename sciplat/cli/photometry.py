"""`sciplat photometry`: measure a catalog's sources on every image that holds them."""

from typing import Any

import click


@click.command(short_help="Measure a catalog's sources on every image that holds them.")
@click.argument("images")
@click.argument("catalog")
@click.argument("url")
@click.option(
    "--radius",
    "radii",
    metavar="LENGTH",
    multiple=True,
    required=True,
    help='"2 arcsec" or "6 pix"; once for each aperture.',
)
@click.option("--annulus", metavar="INNER OUTER", nargs=2, help='Radii of the background: "15 pix" "25 pix".')
@click.option(
    "--background", metavar="[median|mean|mode]", default="median", show_default=True, help="Statistic of the annulus."
)
@click.option("--band", "bands", metavar="NAME", multiple=True, help="Only this band; once for each of several.")
@click.option(
    "--keep", metavar="COLUMN", multiple=True, help="Of the catalog, repeated in the result; once for each of several."
)
@click.option("--replace", is_flag=True, help="Publish a new version of the store at URL.")
@click.option(
    "--on-error",
    metavar="[raise|quarantine]",
    default="raise",
    show_default=True,
    help="Stop at a cell that fails, or leave it out.",
)
@click.option("--restart", is_flag=True, help="Drop what an unfinished run left at URL.")
@click.option("--explain", is_flag=True, help="Say what it takes, and stop.")
def photometry(
    images: str,
    catalog: str,
    url: str,
    *,
    replace: bool,
    on_error: str,
    restart: bool,
    explain: bool,
    bands: tuple[str, ...],
    **measured: Any,
) -> None:
    """Measure the sources of the store CATALOG on the images of the store IMAGES into the new store URL."""
    from sciplat.lazy.images import open_images
    from sciplat.lazy.open import open_catalog

    plan = open_images(images).photometry(open_catalog(catalog), bands=bands or None, **measured)
    click.echo(str(plan.explain()))
    if explain:
        return
    made = plan.write(url, replace=replace, on_error=on_error, restart=restart)  # type: ignore[arg-type]  # checked there
    click.echo(f"{url}: {len(made):,} measurements in {len(made.cells)} cells")
