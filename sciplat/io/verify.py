"""Checking a store against its manifest, down to the row group or chunk that is wrong."""

import io
import itertools

import pyarrow as pa
import pyarrow.parquet as pq

from sciplat.errors import StoreCorrupt
from sciplat.io.catalog_store import checked_footer
from sciplat.io.image_store import CHUNK, open_plane
from sciplat.io.publish import FileEntry, Manifest
from sciplat.io.storage import Storage, sha256


def verify_files(storage: Storage, manifest: Manifest) -> list[str]:
    """Read every file of a version.

    Parameters
    ----------
    storage : Storage
        Of a catalog, or of the images table of an image store.
    manifest : Manifest

    Returns
    -------
    list of str
        A line for every file that is not what the manifest promises; empty if all are.
    """
    return [f"{entry.path}: {problem}" for entry in manifest.files if (problem := _problem(storage, entry))]


def _problem(storage: Storage, entry: FileEntry) -> str:
    try:
        data = storage.read(entry.path)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return error.strerror or str(error)
    if len(data) != entry.size:
        return f"{len(data)} bytes instead of {entry.size}"
    if sha256(data) == entry.sha256:
        return ""
    places = _row_groups(data, entry) if entry.rows else _chunks(storage, entry.path)
    return f"content differs from its digest{places}"


def _row_groups(data: bytes, entry: FileEntry) -> str:
    """Return where a Parquet file of the right size is damaged."""
    try:
        metadata = checked_footer(io.BytesIO(data), entry)
    except StoreCorrupt:
        return ", in its footer"
    reader = pq.ParquetFile(io.BytesIO(data), metadata=metadata, page_checksum_verification=True)
    wrong = []
    for group in range(metadata.num_row_groups):
        try:
            reader.read_row_group(group, use_threads=False)
        except (OSError, pa.ArrowException):
            wrong.append(str(group))
    return f", in row group {', '.join(wrong)}" if wrong else ""


def _chunks(storage: Storage, path: str) -> str:
    """Return which chunks of a shard are damaged, as (row, column)."""
    plane, mark, place = path.partition("/c/")
    if not mark:
        return ""
    wrong = []
    try:
        array = open_plane(storage, plane)
    except (ValueError, OSError):
        return ""
    _, ny, nx = array.shape
    for row, column in itertools.product(range(-(-ny // CHUNK)), range(-(-nx // CHUNK))):
        y, x = row * CHUNK, column * CHUNK
        try:
            array[int(place.split("/")[0]), y : y + CHUNK, x : x + CHUNK]
        except (ValueError, RuntimeError, OSError):
            wrong.append(f"({row}, {column})")
    return f", in chunk {', '.join(wrong)}" if wrong else ""
