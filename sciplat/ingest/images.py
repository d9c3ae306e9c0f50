"""FITS images become an image store: pixels in Zarr by sky cell, and a table of images that is a catalog.

Headers are read first: they say which cells and shapes there are. Then every image is read, written as whole
shards and forgotten. The table is published last, and with it the images.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from sciplat.errors import ArgumentError, InputError, SciplatError
from sciplat.ingest.fits_image import ImageHeader, describe_images, file_sha256, find_images, read_planes
from sciplat.ingest.zero_points import read_zero_points
from sciplat.io.catalog_writer import CatalogWriter
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.io.image_store import (
    IMAGE_SCHEMA,
    TABLE,
    Plane,
    create_group,
    group_path,
    open_image_store,
    read_image_table,
    seal_group,
    write_plane,
    write_root,
)
from sciplat.io.publish import FileEntry, check_absent, new_write_id
from sciplat.io.storage import Storage, open_storage
from sciplat.lazy.images import Images
from sciplat.sky.cell import Cell, cell_area, healpix_29, split_cells
from sciplat.sky.footprint import Footprint, footprint
from sciplat.steps.wcs import ImageWcs
from sciplat.tasks.progress import progress
from sciplat.tasks.stream import on_threads, stream

_TABLE_ROWS = 100_000  # of the images table in one cell
_CELL_PER_IMAGE = 4  # area of a cell to that of an image: an image touches few cells, a cell holds few images
_FINEST_ORDER = 10


@dataclass(frozen=True)
class Slot:
    """One image and its place in the store."""

    header: ImageHeader
    footprint: Footprint
    group: str
    index: int


@dataclass(frozen=True)
class Refused:
    """One file or image that was not ingested, and why."""

    source: str
    reason: str


def ingest_images(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    url: str | os.PathLike[str],
    *,
    profile: str = "auto",
    order: int | None = None,
    zero_points: str | os.PathLike[str] | None = None,
    bad: Literal["report", "refuse"] = "report",
    storage_options: Mapping[str, Any] | None = None,
) -> Images:
    """Make an image store of FITS files.

    Parameters
    ----------
    sources : path, pattern, folder, or a list of these
        FITS files, also tile-compressed (.fz) or gzipped.
    url : str or path
        Of the new store.
    profile : str
        How headers and extensions are read: "auto", "generic", "sdss", "decam", or the path of a TOML file.
    order : int, optional
        Of the store's cells; by default such that a cell has about four times the area of an image.
    zero_points : path, optional
        Table with the zero points of the images, for headers that hold none.
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
    headers, refused = _describe(sources, profile, zero_points, bad)
    sites = [footprint(ImageWcs(header.wcs).pixel_to_sky, header.ny, header.nx) for header in headers]
    cell_order = _default_order(sites) if order is None else order
    write_id = new_write_id()
    slots = _slots(headers, sites, cell_order, write_id)
    properties = {"order": cell_order, "profile": profile}
    try:
        return _write(storage, slots, refused, properties, bad)
    except BaseException:  # Ctrl-C as well: an unfinished store is no use to anybody
        _abandon(storage, slots)
        raise


def _check_arguments(order: int | None, bad: str) -> None:
    if order is not None and not 0 <= order <= _FINEST_ORDER:
        raise ArgumentError(f"the order of the cells is 0 to {_FINEST_ORDER}", found=repr(order))
    if bad not in ("report", "refuse"):
        raise ArgumentError(f"bad={bad!r} is unknown", hint='"report" or "refuse"')


def _describe(
    sources: Any, profile: str, zero_points: str | os.PathLike[str] | None, bad: str
) -> tuple[list[ImageHeader], list[Refused]]:
    """Read all headers; return the images, and what cannot be used."""
    files = find_images(sources, profile)
    table = None if zero_points is None else read_zero_points(Path(zero_points), profile)

    def describe(file: Any) -> list[ImageHeader] | Refused:
        try:
            found = describe_images(file, profile)
        except SciplatError as error:
            if bad == "refuse":
                raise
            return Refused(str(file.path), _one_line(error))
        return found if table is None else [table.applied(header) for header in found]

    # files come back in any order; the images are put in the order of their names
    described = list(progress(on_threads(describe, iter(files)), what="headers", total=len(files)))
    refused = sorted((item for item in described if isinstance(item, Refused)), key=lambda item: item.source)
    images = sorted(
        (header for item in described if not isinstance(item, Refused) for header in item),
        key=lambda header: (header.image_id, str(header.path)),
    )
    unique: dict[str, ImageHeader] = {}
    for header in images:
        if header.image_id in unique:
            error = InputError(
                f"two images are called {header.image_id!r}", found=f"{unique[header.image_id].path}, {header.path}"
            )
            if bad == "refuse":
                raise error
            refused.append(Refused(str(header.path), _one_line(error)))
        else:
            unique[header.image_id] = header
    _check_any(list(unique), refused)
    return list(unique.values()), refused


def _check_any(images: Sequence[object], refused: list[Refused]) -> None:
    if not images:
        first = refused[0]
        raise InputError(
            f"none of {len(refused)} files can be ingested", found=f"{first.source}: {first.reason}", hint="--profile"
        )


def _default_order(sites: list[Footprint]) -> int:
    area = float(np.median([site.coverage.area for site in sites]))
    order = 0
    while order < _FINEST_ORDER and cell_area(order + 1) > _CELL_PER_IMAGE * area:
        order += 1
    return order


def _slots(headers: list[ImageHeader], sites: list[Footprint], order: int, write_id: str) -> list[Slot]:
    """Give every image its group, by the cell of its centre and its shape, and its place in it."""
    counts: defaultdict[str, int] = defaultdict(int)
    slots = []
    for header, site in zip(headers, sites, strict=True):
        index = int(healpix_29([site.ra], [site.dec])[0])
        group = group_path(Cell(order, index >> 2 * (29 - order)), write_id, header.ny, header.nx)
        slots.append(Slot(header, site, group, counts[group]))
        counts[group] += 1
    return slots


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
            return Refused(str(header.path), _one_line(error))
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
    for group, members in groups.items():
        header = members[0].header
        mjd = np.array([np.nan if slot.header.mjd is None else slot.header.mjd for slot in members])
        create_group(storage, group, (len(members), header.ny, header.nx), ["science", "variance", "mask"], mjd)
    done = list(progress(stream(StoreImage(storage, bad), slots), what="images", total=len(slots)))
    refused = refused + [item for item in done if isinstance(item, Refused)]
    stored = {item["image_id"]: item for item in done if not isinstance(item, Refused)}
    _check_any(list(stored), refused)
    sealed = {group: seal_group(storage, group) for group in sorted(groups)}
    kept = [slot for slot in slots if slot.header.image_id in stored]
    rows = [_row(slot, stored[slot.header.image_id], sealed[slot.group]) for slot in kept]
    report = {"images": len(rows), "refused": [[item.source, item.reason] for item in refused]}
    files = tuple(entry for entries in sealed.values() for entry in entries)
    return _publish(storage, rows, files, properties | {"report": report})


def _row(slot: Slot, stored: dict[str, Any], files: tuple[FileEntry, ...]) -> dict[str, Any]:
    """Return the image's row of the table; every name in the schema is one of these."""
    header, site = slot.header, slot.footprint
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
        "kind": "object",
        "frame": "icrs",
        "epoch": None,
        "rows_per_cell": _TABLE_ROWS,
        **properties,
    }
    writer = CatalogWriter.begin(storage.child(TABLE), about)
    parts = split_cells(table[HEALPIX_COLUMN].to_numpy(), _TABLE_ROWS)
    reports = [writer.write_cell(cell, table.slice(first, last - first), _TABLE_ROWS) for cell, first, last in parts]
    writer.publish(IMAGE_SCHEMA, reports, extra=files)
    store = open_image_store(storage)
    return Images(store, read_image_table(store))


def _abandon(storage: Storage, slots: list[Slot]) -> None:
    """Remove what was written; nothing pointed to it."""
    for group in {slot.group for slot in slots}:
        storage.remove(group)
    storage.remove(TABLE)
    storage.remove("zarr.json")
    for order in [name for name in storage.names("") if name.startswith("Norder=")]:
        for index in storage.names(order):
            if not storage.names(f"{order}/{index}"):
                storage.remove(f"{order}/{index}")
        if not storage.names(order):
            storage.remove(order)
    if not storage.names(""):
        storage.remove("")


def _one_line(error: SciplatError) -> str:
    return f"{error.what}; found {error.found}" if error.found else error.what
