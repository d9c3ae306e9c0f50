"""Opening catalogs: a store's manifest is read, and nothing else."""

import os
from collections.abc import Mapping
from typing import Any

from sciplat.errors import ArgumentError
from sciplat.io.catalog_store import open_catalog_store
from sciplat.io.image_store import TABLE
from sciplat.io.storage import open_storage
from sciplat.lazy.catalog import Catalog
from sciplat.sky.region import Region


def open_catalog(
    url: str | os.PathLike[str],
    *,
    columns: list[str] | None = None,
    region: Region | None = None,
    version: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Catalog:
    """Open a catalog store; only its manifest is read.

    Parameters
    ----------
    url : str or path
    columns : list of str, optional
        As ``.select(*columns)``.
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
    storage = open_storage(url, storage_options)
    if storage.names(f"{TABLE}/versions"):
        raise ArgumentError(
            f"{url} is an image store, not a catalog", hint="open_images(url); its table of images is a catalog"
        )
    catalog = Catalog.of_store(open_catalog_store(storage, version))
    catalog = catalog if columns is None else catalog.select(*columns)
    return catalog if region is None else catalog.within(region)
