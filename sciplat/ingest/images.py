"""FITS images become an image store: pixels in Zarr by sky cell, and a table of images that is a catalog.

Headers are read first (`plan.py`): they say which cells and shapes there are. Then every image is read, written as
whole shards and forgotten. The table is published last, and with it the images.
"""

import os
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from sciplat.errors import ArgumentError, SciplatError
from sciplat.ingest.fits_image import Source, file_sha256, read_planes
from sciplat.ingest.plan import FINEST_ORDER, Refused, Slot, check_any, default_order, plan_images, plan_slots
from sciplat.ingest.properties import citations
from sciplat.io.catalog_writer import CatalogWriter
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.io.image_store import (
    IMAGE_SCHEMA,
    TABLE,
    Plane,
    create_group,
    open_image_store,
    read_image_table,
    seal_group,
    write_plane,
    write_root,
)
from sciplat.io.publish import FileEntry, check_absent, new_write_id, read_manifest, version_numbers
from sciplat.io.storage import Storage, open_storage
from sciplat.lazy.images import Images
from sciplat.sky.cell import healpix_29, split_cells
from sciplat.tasks.progress import progress
from sciplat.tasks.stream import on_threads, stream

_TABLE_ROWS = 100_000  # of the images table in one cell


def ingest_images(
    sources: Source | Iterable[Source],
    url: str | os.PathLike[str],
    *,
    profile: str = "auto",
    order: int | None = None,
    zero_points: str | os.PathLike[str] | None = None,
    citation: str | None = None,
    bad: Literal["report", "refuse"] = "report",
    storage_options: Mapping[str, Any] | None = None,
) -> Images:
    """Make an image store of FITS files.

    Parameters
    ----------
    sources : path, pattern, folder, or any number of these
        FITS files, also tile-compressed (.fz) or gzipped.
    url : str or path
        Of the new store.
    profile : str
        How headers and extensions are read: "auto", "generic", "sdss", "decam", or the path of a TOML file.
    order : int, optional
        Of the store's cells; by default such that a cell has about four times the area of an image.
    zero_points : path, optional
        Table with the zero points of the images, for headers that hold none.
    citation : str, optional
        How to cite the images; what is made of them repeats it.
    bad : {"report", "refuse"}
        A file that cannot be read becomes a line of the report, or an error.
    storage_options : Mapping, optional
        For the file system of a remote URL.

    Returns
    -------
    Images
        The store; ``.report`` names the files that were not ingested, and why.

    Raises
    ------
    StoreExists
        If something stands at the URL.
    InputNotFound, InputError, WcsError, ProfileError, ArgumentError
        If nothing can be read, or with ``bad="refuse"`` one file cannot; nothing is left behind.
    """
    _check_arguments(order, bad)
    storage = open_storage(url, storage_options)
    check_absent(storage, ("Norder=", "zarr.json", TABLE))
    check_absent(storage.child(TABLE))
    images, refused = plan_images(sources, profile, zero_points, bad)
    cell_order = default_order(images) if order is None else int(order)
    write_id = new_write_id()
    slots = plan_slots(images, cell_order, write_id)
    properties = {"order": cell_order, "profile": profile, "citations": citations(citation)}
    try:
        return _write(storage, slots, refused, properties, bad)
    except BaseException:  # Ctrl-C as well: an unfinished store is no use to anybody
        _abandon(storage, slots, write_id)
        raise


def _check_arguments(order: object, bad: str) -> None:
    if order is not None and not (isinstance(order, int | np.integer) and 0 <= order <= FINEST_ORDER):
        raise ArgumentError(f"the order of the cells is 0 to {FINEST_ORDER}", found=repr(order))
    if bad not in ("report", "refuse"):
        raise ArgumentError(f"bad={bad!r} is unknown", hint='"report" or "refuse"')


@dataclass(frozen=True)
class StoreImage:
    """Read one image and write its planes, beside the data."""

    storage: Storage
    bad: str

    def __call__(self, slot: Slot) -> dict[str, Any] | Refused:
        """Return what only the pixels tell, or why they cannot be read."""
        header = slot.header
        try:
            planes = read_planes(header)
            digest = file_sha256(header.path)
        except SciplatError as error:
            if self.bad == "refuse":
                raise
            return Refused(str(header.path), error)
        written: dict[Plane, Any] = {"science": planes.science, "variance": planes.variance, "mask": planes.mask}
        for plane, pixels in written.items():
            if pixels is not None:
                write_plane(self.storage, slot.group, slot.index, plane, pixels)
        return {
            "image_id": header.image_id,
            "has_variance": planes.variance is not None,
            "has_mask": planes.mask is not None,
            "source_sha256": digest,
        }


def _write(storage: Storage, slots: list[Slot], refused: list[Refused], properties: dict[str, Any], bad: str) -> Images:
    write_root(storage, properties["order"])
    groups: defaultdict[str, list[Slot]] = defaultdict(list)
    for slot in slots:
        groups[slot.group].append(slot)
    # on threads, which end before Ctrl-C goes on: Zarr's own would write on while the store is removed
    deque(on_threads(lambda group: _create_group(storage, group, groups[group]), iter(groups)), maxlen=0)
    done = list(progress(stream(StoreImage(storage, bad), slots), what="images", total=len(slots)))
    refused = refused + [item for item in done if isinstance(item, Refused)]
    stored = {item["image_id"]: item for item in done if not isinstance(item, Refused)}
    check_any(list(stored), refused)
    sealed = {group: seal_group(storage, group) for group in sorted(groups)}
    kept = [slot for slot in slots if slot.header.image_id in stored]
    rows = [_row(slot, stored[slot.header.image_id], sealed[slot.group]) for slot in kept]
    report = {"images": len(rows), "refused": [[item.source, item.reason] for item in refused]}
    files = tuple(entry for entries in sealed.values() for entry in entries)
    return _publish(storage, rows, files, properties | {"report": report})


def _create_group(storage: Storage, path: str, members: list[Slot]) -> None:
    """Make the arrays of the planes that any image of the group has."""
    header = members[0].header
    kinds = {plane.kind for slot in members for plane in slot.header.planes}
    planes: list[Plane] = ["science"]
    planes += ["variance"] if kinds - {"mask"} else []
    planes += ["mask"] if "mask" in kinds else []
    mjd = np.array([np.nan if slot.header.mjd is None else slot.header.mjd for slot in members])
    create_group(storage, path, (len(members), header.ny, header.nx), planes, mjd)


def _row(slot: Slot, stored: dict[str, Any], files: tuple[FileEntry, ...]) -> dict[str, Any]:
    """Return the image's row of the table; every name in the schema is one of these."""
    header, site = slot.header, slot.outline
    shards = (f"../{slot.group}/{plane}/c/{slot.index}/" for plane in ("science", "variance", "mask"))
    prefixes = tuple(shards)
    return {
        **{name: getattr(header, name) for name in _HEADER_COLUMNS},
        **stored,
        HEALPIX_COLUMN: int(healpix_29([site.ra], [site.dec])[0]),
        "ra": site.ra,
        "dec": site.dec,
        "corners": list(site.corners),
        "cells": site.coverage.to_uniq().tolist(),
        "wcs": header.wcs_json,
        "source": str(header.path),
        "group": slot.group,
        "index": slot.index,
        "stored_bytes": sum(entry.size for entry in files if entry.path.startswith(prefixes)),
    }


_HEADER_COLUMNS = (
    "image_id",
    "band",
    "mjd",
    "exposure",
    "gain",
    "read_noise",
    "zero_point",
    "saturation",
    "psf_fwhm",
    "background",
    "instrument",
    "ny",
    "nx",
    "mask_bad",
    "mask_saturated",
)


def _publish(
    storage: Storage, rows: list[dict[str, Any]], files: tuple[FileEntry, ...], properties: dict[str, Any]
) -> Images:
    table = pa.Table.from_pylist(rows, schema=IMAGE_SCHEMA)
    table = table.sort_by([(HEALPIX_COLUMN, "ascending"), ("image_id", "ascending")])
    about = {
        "position": ["ra", "dec"],
        "id": "image_id",
        "kind": "images",
        "frame": "icrs",
        "epoch": None,
        "rows_per_cell": _TABLE_ROWS,
        **properties,
    }
    parts = split_cells(table[HEALPIX_COLUMN].to_numpy(), _TABLE_ROWS)
    writer = CatalogWriter.begin(storage.child(TABLE), about)
    try:
        cells = [(cell, table.slice(first, last - first)) for cell, first, last in parts]
        reports = [writer.cells.write(cell, rows, _TABLE_ROWS) for cell, rows in cells]
        writer.publish(IMAGE_SCHEMA, reports, extra=files)
    except BaseException:
        writer.abandon()
        raise
    store = open_image_store(storage)
    return Images(store, read_image_table(store))


def _abandon(storage: Storage, slots: list[Slot], write_id: str) -> None:
    """Remove what this write left, unless it is published; what another writer has published meanwhile stays."""
    table = storage.child(TABLE)
    published = version_numbers(table)
    if published and any(write_id in entry.path for entry in read_manifest(table).files):
        return
    if not published:
        storage.remove("zarr.json")
    for group in {slot.group for slot in slots}:
        storage.remove(group)
        storage.remove_empty(group.rpartition("/")[0])
    storage.remove_empty(f"{TABLE}/versions")
