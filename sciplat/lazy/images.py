"""Images as users see them: a lazy collection of exposures on the sky, measured where they lie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sciplat.errors import ArgumentError, ColumnError
from sciplat.io.hats import parse_cell_path
from sciplat.io.image_store import ImageStore, open_image_store, read_image_table
from sciplat.io.storage import open_storage
from sciplat.lazy.catalog import Catalog
from sciplat.lazy.fingerprint import Record
from sciplat.lazy.image_cost import image_ranges
from sciplat.lazy.photometry import Photometry
from sciplat.lazy.region import describe_region
from sciplat.sky.align import meeting_pairs
from sciplat.sky.angle import AngleLike, Length, parse_length
from sciplat.sky.cell import Cell
from sciplat.sky.region import Region
from sciplat.steps.photometry import BACKGROUNDS, Apertures, Background

if TYPE_CHECKING:
    import os

    import xarray as xr


@dataclass(frozen=True)
class Images:
    """Exposures with their WCS, variance and mask.

    Parameters
    ----------
    store : ImageStore
    rows : pyarrow.Table
        The rows of the images table that belong to this collection.
    chosen : tuple of dict
        How they were chosen, as JSON: regions and bands in the order of the calls.
    """

    store: ImageStore
    rows: pa.Table = field(repr=False)
    chosen: tuple[Record, ...] = ()

    def __repr__(self) -> str:
        return f"<Images: {len(self):,} images, bands {', '.join(self.bands) or 'unknown'}>"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>"

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @property
    def table(self) -> Catalog:
        """The table of all images in the store, also of those left out here: a catalog like any other."""
        return Catalog.of_store(self.store.table)

    @property
    def schema(self) -> pa.Schema:
        """Columns of the images table."""
        return self.rows.schema

    @property
    def columns(self) -> list[str]:
        """Names of the columns of the images table."""
        return list(self.schema.names)

    @property
    def cells(self) -> list[Cell]:
        """Cells of the store's groups that hold these images."""
        found = {parse_cell_path(group) for group in self.rows["group"].to_pylist()}
        return sorted((cell for cell in found if cell is not None), key=lambda cell: cell.start)

    @property
    def properties(self) -> dict[str, Any]:
        """What the store says of itself."""
        return dict(self.store.table.manifest.properties)

    @property
    def version(self) -> int:
        """Number of the store's version."""
        return self.store.table.manifest.number

    @property
    def report(self) -> dict[str, Any]:
        """What was ingested, and which files were not and why."""
        return dict(self.properties["report"])

    @property
    def bands(self) -> list[str]:
        """Bands of these images, sorted."""
        return sorted({band for band in self.rows["band"].to_pylist() if band is not None})

    def within(self, region: Region) -> "Images":
        """Keep the images that may touch a region."""
        ranges, owner = image_ranges(self.rows)
        touched, _ = meeting_pairs(ranges, region.cover().ranges)
        rows = self.rows.take(pa.array(np.unique(owner[touched])))
        return replace(self, rows=rows, chosen=(*self.chosen, {"within": describe_region(region)}))

    def select_bands(self, *bands: str) -> "Images":
        """Keep the images of some bands.

        Raises
        ------
        ArgumentError
            If no image has such a band.
        """
        if unknown := [band for band in bands if band not in self.bands]:
            raise ArgumentError(
                f"there is no image of band {unknown[0]!r}", found=", ".join(self.bands) or "no band is known"
            )
        rows = self.rows.filter(pa.array(np.isin(self.rows["band"].to_pylist(), bands)))
        return replace(self, rows=rows, chosen=(*self.chosen, {"bands": list(bands)}))

    @property
    def origin(self) -> Record:
        """Which images these are, as JSON."""
        table = self.store.table
        where = {"url": self.store.storage.url, "version": self.version, "digest": table.digest}
        return {**where, "citation": "; ".join(self.properties.get("citations", [])), "chosen": list(self.chosen)}

    def photometry(
        self,
        catalog: Catalog,
        *,
        radii: Sequence[AngleLike],
        annulus: tuple[AngleLike, AngleLike] | None = None,
        background: Background = "median",
        bands: Sequence[str] | None = None,
        keep: Sequence[str] = (),
    ) -> Catalog:
        """Measure every source of a catalog on every one of these images that holds it. Lazy.

        Parameters
        ----------
        catalog : Catalog
            Sources in ICRS.
        radii : sequence of angle or "6 pix"
            Of the circular apertures; column names end in _0, _1... in this order.
        annulus : tuple of two angles or pixels, optional
            Inner and outer radius of the local background; nothing is taken out without it.
        background : {"median", "mean", "mode"}
            Of the annulus: median, 3-sigma clipped mean, or 3 median - 2 mean.
        bands : sequence of str, optional
            As ``.select_bands(*bands)``.
        keep : sequence of str
            Columns of the catalog that the result repeats; a name that is taken gets the suffix _catalog.

        Returns
        -------
        Catalog
            One row for each source and image whose array holds the source's centre.

        Raises
        ------
        AngleError
            If a radius has no unit.
        ArgumentError, ColumnError
            If another argument makes no sense.
        """
        images = self if bands is None else self.select_bands(*_names(bands))
        kept = _names(keep)
        if len(images) == 0:
            raise ArgumentError("there is no image to measure", hint="a larger region")
        if missing := [name for name in kept if name not in catalog.columns]:
            raise ColumnError(f"the catalog has no column {missing[0]!r}", found=", ".join(catalog.columns))
        apertures = _apertures(radii, annulus, background)
        order = int(self.properties["order"])
        identity = catalog.properties["id"]
        sources = catalog.select(*kept, *([identity] if identity else []))  # nothing else is read
        node = Photometry(sources.node, self.store.storage, images.rows, order, apertures, kept, origin=images.origin)
        stored = catalog.stored + sum(images.rows["stored_bytes"].to_pylist())
        return Catalog(node, None, stored)

    def to_xarray(self, group: str) -> "xr.Dataset":
        """Open one group of the store as a lazy xarray Dataset with dimensions (image, y, x).

        Parameters
        ----------
        group : str
            A value of the column "group".
        """
        import xarray as xr

        if group not in set(self.rows["group"].to_pylist()):
            raise ArgumentError(f"there is no group {group!r}", hint='.rows["group"] names them')
        dataset: xr.Dataset = xr.open_zarr(f"{self.store.storage.url}/{group}", consolidated=False, chunks=None)
        return dataset


def open_images(
    url: "str | os.PathLike[str]",
    *,
    bands: Sequence[str] | None = None,
    region: Region | None = None,
    version: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Images:
    """Open an image store; only its table of images is read.

    Parameters
    ----------
    url : str or path
    bands : sequence of str, optional
        As ``.select_bands(*bands)``.
    region : Region, optional
        As ``.within(region)``.
    version : int, optional
        The newest by default.
    storage_options : Mapping, optional
        For the file system of a remote URL.

    Raises
    ------
    StoreNotFound
        If there is no such store or version.
    """
    store = open_image_store(open_storage(url, storage_options), version)
    images = Images(store, read_image_table(store))
    images = images if bands is None else images.select_bands(*bands)
    return images if region is None else images.within(region)


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return one name, or several each once."""
    return (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))


def _apertures(
    radii: Sequence[AngleLike], annulus: tuple[AngleLike, AngleLike] | None, background: Background
) -> Apertures:
    if isinstance(radii, str) or not len(radii):
        raise ArgumentError("radii is a list of one or more radii", found=repr(radii), hint='radii=["2 arcsec"]')
    if background not in BACKGROUNDS:
        raise ArgumentError(f"there is no background {background!r}", hint=", ".join(BACKGROUNDS))
    ring: tuple[Length, Length] | None = None
    if annulus is not None:
        if isinstance(annulus, str) or len(annulus) != 2:
            raise ArgumentError("annulus is two radii", found=repr(annulus), hint='annulus=("15 pix", "25 pix")')
        ring = parse_length(annulus[0], what="annulus"), parse_length(annulus[1], what="annulus")
        if ring[0].unit == ring[1].unit and ring[0].value >= ring[1].value:
            raise ArgumentError("the annulus has no area", found=f"{ring[0]} to {ring[1]}", hint="(inner, outer)")
    return Apertures(tuple(parse_length(radius) for radius in radii), ring, background)
