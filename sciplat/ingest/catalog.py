"""Tables of sources become a catalog store: positions checked, rows sorted along the sky, cells by their rows."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from sciplat.config import parse_bytes
from sciplat.errors import ArgumentError, InputError
from sciplat.ingest.merge import Ingest
from sciplat.ingest.properties import Said, added_properties, new_properties
from sciplat.ingest.sources import Source, open_sources
from sciplat.io.catalog_store import CatalogStore
from sciplat.io.publish import check_absent, read_manifest, version_numbers
from sciplat.io.staging import staging_areas
from sciplat.io.storage import Storage, open_storage
from sciplat.lazy.catalog import Catalog
from sciplat.lazy.open import open_store
from sciplat.sky.motion import Errors, Motion
from sciplat.tasks.budget import plan_budget
from sciplat.tasks.workers import open_workers


def ingest_catalog(  # noqa: PLR0913  # what a catalog is, is said in many words
    sources: Source | Iterable[Source],
    url: str | os.PathLike[str],
    *,
    ra: str | None = None,
    dec: str | None = None,
    rows_per_cell: int | None = None,
    frame: str | None = None,
    epoch: str | None = None,
    motion: Motion | None = None,
    errors: Errors | None = None,
    citation: str | None = None,
    mode: Literal["create", "append"] = "create",
    bad: Literal["refuse", "skip"] = "refuse",
    memory: int | str | None = None,
    restart: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Catalog:
    """Make a catalog store of tables with positions, or add rows to one.

    What is done is kept beside the store: after a kill, Ctrl-C or an error the same call goes on with what is left,
    and gives the same files bit for bit. It runs on local threads, or on the Dask cluster whose client is open.

    Parameters
    ----------
    sources : path, pattern, folder, pyarrow.Table, DataFrame, astropy Table, or any number of these
        Parquet, CSV, TSV, ECSV, FITS, VOTable or Arrow files.
    url : str or path
        Of the store.
    ra, dec : str, optional
        Columns with the position in degrees; found by their usual names otherwise.
    rows_per_cell : int, optional
        Cells are split until none holds more, by default 1,000,000; only a cell of the
        highest order may, whose rows are all at one place.
    frame : {"icrs", "fk5", "galactic"}, optional
        Of the positions; ICRS by default.
    epoch : str, optional
        Of the positions: a Julian or Besselian year, for example "J2016.0", or a column.
    motion : Motion, optional
        Columns with proper motion, parallax and radial velocity.
    errors : Errors, optional
        Columns with the errors of the positions.
    citation : str, optional
        How to cite the catalog; what is made of it repeats it.
    mode : {"create", "append"}
        Make the store, or a new version of it with these rows added: only cells that get rows are written anew. The
        store then knows its position, frame, epoch and rows per cell, and the columns must be its own; a wider float is
        rounded to the store's.
    bad : {"refuse", "skip"}
        What to do with rows whose position is missing or off the sphere: declinations lie within 90 degrees of the
        equator, right ascensions from -360 to 360.
    memory : int or str, optional
        Bytes that this process may use, for example "2 GiB", whatever the size of the input; the setting by default.
        Rows that do not fit are sorted in files beside the store, about as large as the input, that are removed at
        the end. The workers of a cluster have limits of their own.
    restart : bool
        Drop what an unfinished ingest left there.
    storage_options : Mapping, optional
        For the file system of a remote URL.

    Returns
    -------
    Catalog
        The store; ``.report`` counts rows read and skipped, and names cells with more rows than `rows_per_cell`.

    Raises
    ------
    StoreExists, StoreNotFound
        If something stands at the URL, or nothing that rows could be added to.
    InputNotFound, InputError, ColumnError, PositionError, ArgumentError
        If the input cannot be used; nothing is left behind.
    PlanChanged
        If another ingest was begun there and not finished.
    ConflictError
        If another writer has changed the same cells meanwhile.
    StorageError
        If the store's disk is full or gone; the same call goes on.
    """
    _check(mode, ("create", "append"), "mode")
    _check(bad, ("refuse", "skip"), "bad")
    said = Said(ra, dec, rows_per_cell, frame, epoch, motion, errors, citation)
    storage = open_storage(url, storage_options)
    parent = _parent(storage, mode)
    limit = None if memory is None else parse_bytes(memory, what="memory")
    budget = plan_budget(open_workers(), limit)
    opened = open_sources(sources, chunk=budget.chunk)
    if not opened.parts:
        raise InputError("there is nothing to ingest", found=f"{len(opened.schema)} columns, no row")
    if parent is None:
        properties = new_properties(opened.schema, said)
    else:
        properties = added_properties(opened.schema, said, parent)
    ingest = Ingest(storage, opened, properties, parent, skip_bad=bad == "skip", budget=budget)
    return Catalog.of_store(ingest.run(restart=restart))


def _check(value: str, known: tuple[str, str], what: str) -> None:
    if value not in known:
        raise ArgumentError(f"{what}={value!r} is unknown", hint=f'"{known[0]}" or "{known[1]}"')


def _parent(storage: Storage, mode: str) -> CatalogStore | None:
    """Return the store that rows are added to, None if one is to be made.

    Raises
    ------
    StoreExists, StoreNotFound, ArgumentError
        If that cannot be, before anything long is read.
    """
    if mode == "append":
        parent = open_store(storage)
        if not parent.has_digests:
            raise ArgumentError(
                f"{storage.url} is a HATS catalog of another program: rows are added to sciplat's stores only",
                hint="sciplat.open_catalog(url).write(new_url) makes a store of it; add the rows there",
            )
        if parent.manifest.properties["kind"] == "images":
            raise ArgumentError(f"{storage.url} is the table of an image store", hint="sciplat ingest images")
        return parent
    killed = version_numbers(storage) and any(
        read_manifest(storage).write_id in area.writers for area in staging_areas(storage)
    )
    if not killed:  # after it had published: the same call is to end well
        check_absent(storage)
    return None
