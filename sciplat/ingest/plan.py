"""What an ingest of images will do, decided from headers alone: which images, in which cells, what is refused."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sciplat.errors import ArgumentError, InputError, SciplatError
from sciplat.ingest.fits_image import ImageFile, ImageHeader, Source, describe_images, find_images
from sciplat.ingest.zero_points import ZeroPoints, read_zero_points
from sciplat.io.image_store import group_path
from sciplat.sky.cell import MAX_ORDER, Cell, cell_area, healpix_29
from sciplat.sky.outline import Outline, outline
from sciplat.steps.wcs import ImageWcs
from sciplat.tasks.progress import progress
from sciplat.tasks.stream import on_threads

FINEST_ORDER = 10
_CELL_PER_IMAGE = 4  # area of a cell to that of an image: an image touches few cells, a cell holds few images


@dataclass(frozen=True)
class Located:
    """One image and where it lies on the sky."""

    header: ImageHeader
    outline: Outline


@dataclass(frozen=True)
class Slot:
    """One image and its place in the store."""

    header: ImageHeader
    outline: Outline
    group: str
    index: int


@dataclass(frozen=True)
class Refused:
    """One file or image that was not ingested, and why."""

    source: str
    error: SciplatError

    @property
    def reason(self) -> str:
        """The error in one line."""
        return f"{self.error.what}; found {self.error.found}" if self.error.found else self.error.what


def plan_images(
    sources: Source | Iterable[Source], profile: str, zero_points: str | os.PathLike[str] | None, bad: str
) -> tuple[list[Located], list[Refused]]:
    """Read all headers; return the images in the order of their names, and what cannot be used."""
    files = find_images(_listed(sources), profile)
    table = None if zero_points is None else read_zero_points(Path(zero_points), profile)

    def describe(file: ImageFile) -> list[Located] | Refused:
        try:
            headers = describe_images(file, profile)
            return [Located(header, _outline(header)) for header in headers]
        except SciplatError as error:
            if bad == "refuse":
                raise
            return Refused(str(file.path), error)

    # files come back in any order
    described = list(progress(on_threads(describe, iter(files)), what="headers", total=len(files)))
    refused = sorted((item for item in described if isinstance(item, Refused)), key=lambda item: item.source)
    found = [image for item in described if not isinstance(item, Refused) for image in item]
    images, twice = _unique(sorted(found, key=lambda image: (image.header.image_id, str(image.header.path))))
    if twice and bad == "refuse":
        raise twice[0].error
    check_any(images, refused)
    return images if table is None else _with_zero_points(images, table), refused + twice


def _listed(sources: Any) -> list[Source]:
    listed = [sources] if isinstance(sources, str | os.PathLike) else sources
    listed = list(listed) if isinstance(listed, Iterable) else [sources]
    if strange := [item for item in listed if not isinstance(item, str | os.PathLike)]:
        raise ArgumentError("sources are files, folders or patterns", found=type(strange[0]).__name__)
    return listed


def _outline(header: ImageHeader) -> Outline:
    try:
        return outline(ImageWcs(header.wcs).pixel_to_sky, header.ny, header.nx)
    except SciplatError as error:
        raise type(error)(f"{header.image_id}: {error.what}", found=error.found, hint=error.hint) from error


def _unique(images: list[Located]) -> tuple[list[Located], list[Refused]]:
    """Return the first image of every name, and the others."""
    unique: dict[str, Located] = {}
    twice = []
    for image in images:
        name, path = image.header.image_id, image.header.path
        first = unique.setdefault(name, image)
        if first is not image:
            paths = f"{first.header.path} and {path}"
            error = InputError(f"two images are called {name!r}", found=paths, hint="rename one of the files")
            twice.append(Refused(str(path), error))
    return list(unique.values()), twice


def _with_zero_points(images: list[Located], table: ZeroPoints) -> list[Located]:
    """Give the images their zero points; a table that knows none of them is another survey's."""
    if all(table.find(image.header) is None for image in images):
        known = ", ".join(" ".join(key) for key in list(table.values)[:3])
        raise InputError(
            "the table of zero points knows none of the images",
            found=f"{known or 'no zero point'} in the table; the first image is {images[0].header.image_id}",
            hint="compare the names, or leave --zero-points away",
        )
    return [replace(image, header=table.applied(image.header)) for image in images]


def check_any(images: Sequence[object], refused: list[Refused]) -> None:
    """Raise what was wrong with the files if no image is left."""
    if images:
        return
    first = refused[0]
    if len(refused) == 1:
        raise first.error
    raise InputError(
        f"none of {len(refused)} files can be ingested", found=f"{first.source}: {first.reason}", hint="--profile"
    )


def default_order(images: list[Located]) -> int:
    """Return the finest order whose cells have about four times the area of an image."""
    area = float(np.median([image.outline.coverage.area for image in images]))
    order = 0
    while order < FINEST_ORDER and cell_area(order + 1) > _CELL_PER_IMAGE * area:
        order += 1
    return order


def plan_slots(images: list[Located], order: int, write_id: str) -> list[Slot]:
    """Give every image its group, by the cell of its centre and its shape, and its place in it."""
    counts: defaultdict[str, int] = defaultdict(int)
    slots = []
    for image in images:
        header, site = image.header, image.outline
        index = int(healpix_29([site.ra], [site.dec])[0])
        group = group_path(Cell(order, index >> 2 * (MAX_ORDER - order)), write_id, header.ny, header.nx)
        slots.append(Slot(header, site, group, counts[group]))
        counts[group] += 1
    return slots
