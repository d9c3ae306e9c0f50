"""`sciplat photometry`: measure a catalog's sources on every image that holds them."""

import click


@click.command()
@click.argument("images")
@click.argument("catalog")
@click.argument("url")
@click.option("--radius", "radii", multiple=True, required=True, help='"2 arcsec" or "6 pix"; once for each aperture.')
@click.option("--annulus", nargs=2, help='Inner and outer radius of the background: "15 pix" "25 pix".')
@click.option("--background", default="median", show_default=True, help="Of the annulus: median, mean or mode.")
@click.option("--band", "bands", multiple=True, help="Measure these bands only.")
@click.option("--keep", multiple=True, help="Columns of the catalog that the result repeats.")
@click.option("--replace", is_flag=True, help="Publish a new version of the store at URL.")
@click.option("--explain", is_flag=True, help="Say what it takes, and stop.")
def photometry(
    images: str,
    catalog: str,
    url: str,
    *,
    radii: tuple[str, ...],
    annulus: tuple[str, str] | None,
    background: str,
    bands: tuple[str, ...],
    keep: tuple[str, ...],
    replace: bool,
    explain: bool,
) -> None:
    """Measure the sources of the store CATALOG on the images of the store IMAGES into the new store URL."""
    from sciplat.lazy.catalog import open_catalog
    from sciplat.lazy.images import open_images

    plan = open_images(images).photometry(
        open_catalog(catalog),
        radii=radii,
        annulus=annulus,
        background=background,  # type: ignore[arg-type]  # checked there, with a message
        bands=bands or None,
        keep=keep,
    )
    click.echo(str(plan.explain()))
    if explain:
        return
    made = plan.write(url, replace=replace)
    click.echo(f"{url}: {len(made):,} measurements in {len(made.cells)} cells")
