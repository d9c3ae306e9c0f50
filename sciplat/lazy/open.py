"""Opening catalogs: a store's manifest is read, or what another writer's catalog says of itself, and no rows."""

import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from sciplat.errors import ArgumentError, StoreNotFound
from sciplat.io.catalog_store import CatalogStore
from sciplat.io.foreign import open_any_catalog
from sciplat.io.hats import COLLECTION
from sciplat.io.image_store import TABLE
from sciplat.io.staging import STAGING
from sciplat.io.storage import LocalStorage, Storage, open_storage
from sciplat.lazy.catalog import Catalog
from sciplat.sky.region import Region

_OF_CATALOGS = {"versions", COLLECTION, "hats.properties", "properties"}
_INGEST = "ingest_catalog(url, new_url), or sciplat ingest catalog, makes a store of it"
_CHECK = "check the path, or ingest one: ingest_catalog(tables, url)"
_TABLES = {".parquet": "Parquet", ".csv": "CSV", ".fits": "FITS", ".vot": "VOTable"}


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
    ArgumentError
        If there is an image store, or the version, columns or region are none.
    StoreNotFound
        If there is no such store or version.
    StoreCorrupt, InputError
        If what stands there is damaged, or is no catalog that we read.
    StorageError
        If the storage does not answer, or refuses to.
    """
    storage = open_storage(url, storage_options)
    given: object = columns  # callers are not all checked for types
    if given is not None and not isinstance(given, list | tuple):
        raise ArgumentError("columns is a list of names", found=repr(columns), hint='columns=["ra", "dec", "mag"]')
    catalog = Catalog.of_store(open_store(storage, version))
    catalog = catalog if columns is None else catalog.select(*columns)
    return catalog if region is None else catalog.within(region)


def open_store(storage: Storage, version: int | None = None) -> CatalogStore:
    """Return the catalog at a place, or say what stands there instead.

    Raises
    ------
    ArgumentError, StoreNotFound, StoreCorrupt, InputError, StorageError
        As `open_catalog`.
    """
    try:
        return open_any_catalog(storage, version)
    except StoreNotFound as error:
        raise _absence(storage, error) from None


def _absence(storage: Storage, error: StoreNotFound) -> ArgumentError | StoreNotFound:
    """Return the error that says what stands where no catalog is, and what can be done with that."""
    url, names = storage.url, storage.names("")
    if storage.names(f"{TABLE}/versions"):
        return ArgumentError(
            f"{url} is an image store, not a catalog", hint="open_images(url); its .table of images is a catalog"
        )
    is_local = isinstance(storage, LocalStorage)
    if _OF_CATALOGS & set(names) or not (names or is_local):  # it is the catalog that lacks something; or who knows
        return error
    kinds = {kind for name in names if (kind := _TABLES.get(PurePath(name).suffix.lower()))}
    if kinds:
        found, hint = f"a folder of {' and '.join(sorted(kinds))} files", _INGEST
    elif storage.names(STAGING):
        found, hint = "what an unfinished write has left", "call the same again, and it goes on (sciplat status URL)"
    elif names:
        found, hint = f"a folder with {', '.join(names[:3])}{', ...' if names[3:] else ''}", _CHECK
    elif is_local and Path(url).is_file():
        found, hint = "a file", _INGEST
    else:
        found, hint = "an empty folder" if is_local and Path(url).is_dir() else "nothing at that path", _CHECK
    return StoreNotFound(f"there is no store at {url}", found=found, hint=hint)
