"""Tables of sources become a catalog store: positions checked, rows sorted along the sky, cells by their rows."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from sciplat.config import parse_bytes
from sciplat.errors import ArgumentError, InputError
from sciplat.ingest.merge import Ingest
from sciplat.ingest.position import position_columns
from sciplat.ingest.sources import Source, Sources, open_sources, unit_of
from sciplat.io.catalog_store import CatalogStore
from sciplat.io.hats import HEALPIX_COLUMN, identity_column
from sciplat.io.publish import check_absent, read_manifest, version_numbers
from sciplat.io.staging import staging_areas
from sciplat.io.storage import Storage, open_storage
from sciplat.lazy.catalog import Catalog
from sciplat.sky.motion import Errors, Motion, epoch_property, errors_properties, motion_properties
from sciplat.tasks.budget import plan_budget
from sciplat.tasks.workers import open_workers

FRAMES = ("icrs", "fk5", "galactic")
_ROWS_PER_CELL = 1_000_000


def ingest_catalog(  # noqa: PLR0913  # what a catalog is, is said in many words
    sources: Source | Iterable[Source],
    url: str | os.PathLike[str],
    *,
    ra: str | None = None,
    dec: str | None = None,
    rows_per_cell: int = _ROWS_PER_CELL,
    frame: str = "icrs",
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
    rows_per_cell : int
        Cells are split until none holds more; only a cell of the highest order may, whose rows are all at one place.
    frame : {"icrs", "fk5", "galactic"}
        Of the positions.
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
        store then knows its position, frame, epoch and rows per cell, and the columns must be its own.
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
    _check_arguments(rows_per_cell, frame, mode, bad)
    storage = open_storage(url, storage_options)
    parent = _parent(storage, mode)
    limit = None if memory is None else parse_bytes(memory, what="memory")
    budget = plan_budget(open_workers(), limit)
    opened = open_sources(sources, chunk=budget.chunk)
    if not opened.parts:
        raise InputError("there is nothing to ingest", found=f"{len(opened.schema)} columns, no row")
    if parent is None:
        names = position_columns(opened.schema, ra, dec, frame)
        properties: dict[str, Any] = {
            "position": list(names),
            "id": identity_column(opened.schema.names),
            "kind": "sources",
            "frame": frame,
            "epoch": epoch_property(epoch, opened.schema),
            "rows_per_cell": int(rows_per_cell),
            "citations": [citation] if citation else [],
        }
        properties |= {"motion": motion_properties(motion, opened.schema)} if motion else {}
        properties |= {"errors": errors_properties(errors, opened.schema)} if errors else {}
    else:
        given: dict[str, object] = {"ra": ra, "dec": dec, "epoch": epoch_property(epoch, opened.schema)}
        given |= {"motion": motion_properties(motion, opened.schema) if motion else None}
        given |= {"errors": errors_properties(errors, opened.schema) if errors else None}
        given |= {"frame": None if frame == "icrs" else frame}
        given |= {"rows_per_cell": None if rows_per_cell == _ROWS_PER_CELL else rows_per_cell}
        properties = _appended_properties(parent, opened, given, citation)
    ingest = Ingest(storage, opened, properties, parent, skip_bad=bad == "skip", budget=budget)
    return Catalog.of_store(ingest.run(restart=restart))


def _check_arguments(rows_per_cell: object, frame: str, mode: str, bad: str) -> None:
    if isinstance(rows_per_cell, bool) or not isinstance(rows_per_cell, int | np.integer) or rows_per_cell < 1:
        raise ArgumentError("rows_per_cell is a positive whole number", found=repr(rows_per_cell))
    if frame not in FRAMES:
        raise ArgumentError(f"the frame {frame!r} is unknown", hint=", ".join(FRAMES))
    if mode not in ("create", "append"):
        raise ArgumentError(f"mode={mode!r} is unknown", hint='"create" or "append"')
    if bad not in ("refuse", "skip"):
        raise ArgumentError(f"bad={bad!r} is unknown", hint='"refuse" or "skip"')


def _parent(storage: Storage, mode: str) -> CatalogStore | None:
    """Return the store that rows are added to, None if one is to be made.

    Raises
    ------
    StoreExists, StoreNotFound, ArgumentError
        If that cannot be, before anything long is read.
    """
    if mode == "append":
        parent = CatalogStore(storage, read_manifest(storage))
        if parent.manifest.properties["kind"] == "images":
            raise ArgumentError(f"{storage.url} is the table of an image store", hint="sciplat ingest images")
        return parent
    killed = version_numbers(storage) and any(
        read_manifest(storage).write_id in area.writers for area in staging_areas(storage)
    )
    if not killed:  # after it had published: the same call is to end well
        check_absent(storage)
    return None


def _appended_properties(
    parent: CatalogStore, opened: Sources, given: Mapping[str, object], citation: str | None
) -> dict[str, Any]:
    """Return the store's properties if rows with these columns can be added to it.

    Raises
    ------
    ArgumentError
        If the call says something else of the rows than the store does, or their columns are others.
    """
    said = parent.manifest.properties
    known = {**said, "ra": said["position"][0], "dec": said["position"][1]}
    for name, value in given.items():
        if value is not None and value != known.get(name):
            raise ArgumentError(
                f"{name}={value!r} is not what {parent.storage.url} has",
                found=repr(known.get(name)),
                hint=f"leave {name} out: the rows that are added are like those of the store",
            )
    ours = pa.schema([field for field in parent.schema if field.name != HEALPIX_COLUMN])
    if different := sorted(set(ours.names) ^ set(opened.schema.names)):
        raise ArgumentError(
            f"the sources have other columns than {parent.storage.url}",
            found=", ".join(different[:5]),
            hint="rename or remove them, or make a store of its own",
        )
    for field in ours:
        _check_fits(field, opened.schema.field(field.name))
    cited = [citation] if citation and citation not in said["citations"] else []
    rest = {name: value for name, value in said.items() if name not in ("report", "fingerprint")}
    return rest | {"citations": [*said["citations"], *cited]}


def _check_fits(ours: pa.Field, theirs: pa.Field) -> None:
    """Refuse a column of another unit, or of a type whose values the store's column cannot hold."""
    if unit_of(ours) and unit_of(theirs) and unit_of(ours) != unit_of(theirs):
        raise ArgumentError(
            f"the column {ours.name!r} has another unit than the store's", found=f"{unit_of(theirs)}, {unit_of(ours)}"
        )
    try:
        pa.unify_schemas([pa.schema([ours]), pa.schema([theirs.with_metadata(None)])], promote_options="permissive")
    except pa.ArrowException:
        raise ArgumentError(
            f"the column {ours.name!r} has another type than the store's", found=f"{theirs.type}, {ours.type}"
        ) from None
