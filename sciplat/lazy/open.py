"""Opening catalogs: a store's manifest is read, or what another writer's catalog says of itself, and no rows."""

import os
from collections.abc import Mapping
from typing import Any

from sciplat.errors import ArgumentError, StoreNotFound
from sciplat.io.foreign import open_any_catalog
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
    """Open a catalog: a store of sciplat, or a HATS catalog or collection that others made. No rows are read.

    Of a collection the primary table is opened. Other writers' catalogs have no versions, and no digests that would
    tell a damaged file; their positions are taken to be ICRS.

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
        For the file system of a remote URL; credentials are neither shown nor recorded.

    Raises
    ------
    StoreNotFound
        If there is no such store or version.
    StoreCorrupt, InputError
        If what stands there is damaged, or is no catalog that we read.
    StorageError
        If the storage does not answer, or refuses to.
    """
    storage = open_storage(url, storage_options)
    try:
        store = open_any_catalog(storage, version)
    except StoreNotFound:
        if storage.names(f"{TABLE}/versions"):
            raise ArgumentError(
                f"{url} is an image store, not a catalog", hint="open_images(url); its table of images is a catalog"
            ) from None
        raise
    catalog = Catalog.of_store(store)
    catalog = catalog if columns is None else catalog.select(*columns)
    return catalog if region is None else catalog.within(region)
