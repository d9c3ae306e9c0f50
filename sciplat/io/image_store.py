"""Image stores: detector pixels in Zarr v3 groups by sky cell, and a table of images that is a catalog.

Axes are (image, y, x). Every write makes groups of its own, one for each cell and shape, with one shard for each
image and plane; the images table names group and index, and publishing the table publishes the images.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.errors import StoreCorrupt, StoreNotFound, may_pass
from sciplat.io.catalog_store import CatalogStore, open_catalog_store, read_cell
from sciplat.io.publish import FileEntry, file_entry
from sciplat.io.storage import LocalStorage, ObjectStorage, Storage, sync_path, writing
from sciplat.sky.cell import Cell

Plane = Literal["science", "variance", "mask"]
PLANES: dict[Plane, tuple[str, float]] = {
    "science": ("float32", float("nan")),
    "variance": ("float32", float("nan")),
    "mask": ("uint32", 0),
}
CHUNK = 512  # pixels: a stamp touches one or two chunks
TABLE = "images"  # folder of the images table

IMAGE_SCHEMA = pa.schema(
    [
        pa.field("_healpix_29", pa.int64()),
        pa.field("image_id", pa.string(), metadata={"ucd": "meta.id;meta.main"}),
        pa.field("ra", pa.float64(), metadata={"unit": "deg", "ucd": "pos.eq.ra;meta.main"}),
        pa.field("dec", pa.float64(), metadata={"unit": "deg", "ucd": "pos.eq.dec;meta.main"}),
        pa.field("corners", pa.list_(pa.float64()), metadata={"unit": "deg", "description": "ra, dec of 4 corners"}),
        pa.field("cells", pa.list_(pa.int64()), metadata={"description": "cells it may touch, NUNIQ coded"}),
        pa.field("band", pa.string(), metadata={"ucd": "instr.bandpass"}),
        pa.field("mjd", pa.float64(), metadata={"unit": "d", "description": "middle of the exposure, TAI"}),
        pa.field("exposure", pa.float64(), metadata={"unit": "s", "ucd": "time.duration;obs.exposure"}),
        pa.field("gain", pa.float64(), metadata={"unit": "electron/adu"}),
        pa.field("read_noise", pa.float64(), metadata={"unit": "electron"}),
        pa.field("zero_point", pa.float64(), metadata={"unit": "mag", "description": "AB magnitude of 1 adu"}),
        pa.field("saturation", pa.float64(), metadata={"unit": "adu"}),
        pa.field("psf_fwhm", pa.float64(), metadata={"unit": "arcsec"}),
        pa.field("background", pa.float64(), metadata={"unit": "adu", "description": "sky taken out of the pixels"}),
        pa.field("instrument", pa.string()),
        pa.field("wcs", pa.string(), metadata={"description": "FITS cards of the WCS as JSON"}),
        pa.field("ny", pa.int32()),
        pa.field("nx", pa.int32()),
        pa.field("has_variance", pa.bool_()),
        pa.field("has_mask", pa.bool_()),
        pa.field("mask_bad", pa.int64(), metadata={"description": "mask bits that make a pixel bad"}),
        pa.field("mask_saturated", pa.int64(), metadata={"description": "mask bits that mean saturated"}),
        pa.field("source", pa.string(), metadata={"ucd": "meta.ref.url"}),
        pa.field("source_sha256", pa.string()),
        pa.field("group", pa.string(), metadata={"description": "Zarr group in the store"}),
        pa.field("index", pa.int64(), metadata={"description": "place on the group's image axis"}),
        pa.field("stored_bytes", pa.int64(), metadata={"unit": "byte"}),
    ]
)


@dataclass(frozen=True)
class ImageStore:
    """One pinned version of an image store.

    Parameters
    ----------
    storage : Storage
        Of the whole store.
    table : CatalogStore
        The images table.
    """

    storage: Storage
    table: CatalogStore


@dataclass(frozen=True)
class Window:
    """Part of one image.

    Parameters
    ----------
    x0, y0 : int
        Image pixel of the arrays' first element.
    science : ndarray of float32, shape (ny, nx)
    variance : ndarray of float32, shape (ny, nx), or None
    mask : ndarray of uint32, shape (ny, nx), or None
    """

    x0: int
    y0: int
    science: NDArray[np.float32]
    variance: NDArray[np.float32] | None
    mask: NDArray[np.uint32] | None


def open_image_store(storage: Storage, version: int | None = None) -> ImageStore:
    """Open a version of an image store, the newest unless `version` is given.

    Raises
    ------
    StoreNotFound
        If there is none, or what stands there is a catalog.
    """
    try:
        table = open_catalog_store(storage.child(TABLE), version)
    except StoreNotFound:
        raise StoreNotFound(
            f"there is no image store at {storage.url}", hint="sciplat ingest images makes one; check the path"
        ) from None
    return ImageStore(storage, table)


def read_image_table(store: ImageStore) -> pa.Table:
    """Return the rows of the images table, in the order of the sky."""
    table = store.table
    parts = [read_cell(table.storage, entry.file) for entry in table.entries]
    return pa.concat_tables([table.schema.empty_table(), *parts])


def group_path(cell: Cell, write_id: str, ny: int, nx: int) -> str:
    """Return the path of the group that holds the images of one write, cell and shape."""
    return f"Norder={cell.order}/Npix={cell.index}/{write_id}-{ny}x{nx}"


def create_group(
    storage: Storage, path: str, shape: tuple[int, int, int], planes: list[Plane], mjd: NDArray[np.float64]
) -> None:
    """Make an empty group with the arrays of `planes`, each (image, y, x), and the coordinate `mjd`.

    Parameters
    ----------
    storage : Storage
    path : str
        From `group_path`.
    shape : tuple of int
        Images, ny, nx; never changed afterwards.
    planes : list of {"science", "variance", "mask"}
    mjd : ndarray, shape (images,)
    """
    import zarr

    with writing(f"{storage.url}/{path}", mjd.nbytes):
        store = _zarr_store(storage, path)
        group = zarr.create_group(store, zarr_format=3, attributes={"coordinates": "mjd"})
        _create_arrays(group, shape, planes, mjd)


def _create_arrays(group: Any, shape: tuple[int, int, int], planes: list[Plane], mjd: NDArray[np.float64]) -> None:
    from zarr.codecs import BloscCodec, Crc32cCodec

    _, ny, nx = shape
    chunk = (1, min(CHUNK, ny), min(CHUNK, nx))
    shard = (1, -(-ny // chunk[1]) * chunk[1], -(-nx // chunk[2]) * chunk[2])
    # bit-shuffled blosc is a fifth smaller than plain zstd on noise and reads faster; it has no checksum of its own
    codecs = [BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"), Crc32cCodec()]
    for plane in planes:
        dtype, fill = PLANES[plane]
        group.create_array(
            plane,
            shape=shape,
            dtype=dtype,
            chunks=chunk,
            shards=shard,
            compressors=codecs,
            fill_value=fill,
            dimension_names=["image", "y", "x"],
        )
    times = group.create_array(
        "mjd", shape=mjd.shape, dtype="float64", compressors=[Crc32cCodec()], dimension_names=["image"]
    )
    times[:] = mjd


def write_plane(storage: Storage, path: str, index: int, plane: Plane, pixels: NDArray[Any]) -> None:
    """Write one plane of one image as one whole shard."""
    import zarr

    # a plane of nothing but fill values is written as well: a shard that is not there has been lost
    config = {"write_empty_chunks": True}
    with writing(f"{storage.url}/{path}/{plane}", pixels.nbytes):
        zarr.open_array(_zarr_store(storage, f"{path}/{plane}"), mode="r+", config=config)[index] = pixels


def read_window(
    storage: Storage, path: str, index: int, planes: list[Plane], bounds: tuple[int, int, int, int]
) -> Window:
    """Read the pixels x0 <= x < x1, y0 <= y < y1 of one image.

    Parameters
    ----------
    storage : Storage
    path : str
        Group.
    index : int
        Place on the image axis.
    planes : list of {"science", "variance", "mask"}
    bounds : tuple of int
        x0, x1, y0, y1 inside the image.

    Raises
    ------
    StoreCorrupt
        If a chunk is missing or fails its checksum.
    """
    x0, x1, y0, y1 = bounds
    read: dict[Plane, Any] = {}
    for plane in planes:
        try:
            if not storage.size(f"{path}/{plane}/c/{index}/0/0"):
                raise ValueError("its shard is empty")  # zarr would give fill values
            array = open_plane(storage, f"{path}/{plane}")
            read[plane] = array[index, y0:y1, x0:x1]
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            if may_pass(error):
                raise
            raise StoreCorrupt(
                f"the {plane} plane of image {index} in {path} cannot be read",
                found=f"{type(error).__name__}: {error}",
                hint="sciplat verify names all damaged files",
            ) from None
    return Window(x0, y0, read["science"], read.get("variance"), read.get("mask"))


def write_root(storage: Storage, order: int) -> None:
    """Write the root group, whose attributes say what the store is."""
    attributes = {"sciplat": {"kind": "images", "version": 1, "order": order, "axes": ["image", "y", "x"]}}
    body = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    storage.write("zarr.json", json.dumps(body, indent=1, sort_keys=True).encode())


def seal_group(storage: Storage, path: str) -> tuple[FileEntry, ...]:
    """Bring a finished group to the disk and return its files with their digests.

    The entries' paths are relative to the images table, as its manifest needs them.
    """
    entries = []
    for name in storage.files(path):
        data = storage.read(name)
        if isinstance(storage, LocalStorage):
            sync_path(storage.at(name))
            sync_path(storage.at(name).parent)
        entries.append(file_entry(f"../{name}", data))
    return tuple(entries)


def open_plane(storage: Storage, path: str) -> Any:
    """Open the Zarr array of one plane, axes (image, y, x)."""
    import zarr

    if isinstance(storage, LocalStorage):
        return _open_local_plane(storage.at(path))
    return zarr.open_array(_zarr_store(storage, path), mode="r")


@lru_cache(maxsize=256)  # a group never changes once it is published, and its name is never used again
def _open_local_plane(path: Path) -> Any:
    import zarr

    return zarr.open_array(path, mode="r")


def _zarr_store(storage: Storage, path: str) -> Any:
    from zarr.storage import FsspecStore, LocalStore

    if isinstance(storage, LocalStorage):
        return LocalStore(storage.at(path))
    if isinstance(storage, ObjectStorage):
        return FsspecStore.from_url(storage.child(path).url, storage_options=dict(storage.options))
    raise TypeError(type(storage))  # a third kind of storage needs a line here
