"""Removing what no version of a store needs: leftovers of writes that ended early, and old versions on request.

Nothing that a manifest names is touched, and nothing young: a writer that is at work has no manifest yet. Versions
share no files but the arrays of an image store, since links and copies are files of their own.
"""

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sciplat.errors import ArgumentError
from sciplat.io.catalog_store import point_to_newest
from sciplat.io.image_store import TABLE
from sciplat.io.publish import Manifest, read_manifest, version_numbers
from sciplat.io.staging import STAGING, staging_areas
from sciplat.io.storage import Storage

DAY = 86400.0
_FOLDER = re.compile(r"v\d+-[0-9a-f]{12}")  # of a version
_GROUP = re.compile(r"[0-9a-f]{12}-\d+x\d+")  # of images
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")  # names that local storage gives until a file is complete


@dataclass(frozen=True)
class Removed:
    """Something that was removed, or would be.

    Parameters
    ----------
    path : str
        Of a file or folder, relative to the store.
    bytes : int
        That it frees: what other names still lead to stays.
    why : str
    """

    path: str
    bytes: int
    why: str


def collect_garbage(
    storage: Storage, *, keep: int | None = None, grace: float = DAY, dry_run: bool = False
) -> list[Removed]:
    """Remove what no manifest of a store names and what is older than a grace period.

    These are folders and image arrays of writes that never published, staging areas of unfinished runs, and temporary
    files. A kill at any moment leaves a store that is whole: manifests go first, and what a later call finds without
    one is a leftover.

    Parameters
    ----------
    storage : Storage
        Of a catalog or an image store.
    keep : int, optional
        Remove all versions but this many of the newest as well, whatever their age. Who has opened an older one gets
        StoreNotFound at the next read.
    grace : float
        Seconds. Nothing that was written to within them is removed as a leftover.
    dry_run : bool
        Only say what would be removed.

    Returns
    -------
    list of Removed
        In the order of their removal.

    Raises
    ------
    ArgumentError
        If `keep` is no positive number, or `grace` is negative.
    StoreNotFound, StoreCorrupt
        If there is neither a store nor anything of one, or a manifest is damaged: nothing is removed then.
    """
    if keep is not None and keep < 1:
        raise ArgumentError("at least the newest version is kept", found=f"keep={keep}")
    if not grace >= 0:
        raise ArgumentError("the grace period is not negative", found=f"{grace} s")
    contents = _look(storage)
    old = list(_old_versions(contents, contents.manifests[:-keep] if keep else []))
    leftovers = _leftovers(storage, contents, {path for path, _ in old})
    found = [*old, *(each for each in leftovers if _is_old(storage, each[0], grace))]
    sizes = storage.freed([path for path, _ in found])
    planned = [Removed(path, size, why) for (path, why), size in zip(found, sizes, strict=True)]
    if dry_run:
        return planned
    versions = planned[: len(old)]
    if versions:
        point_to_newest(contents.table)  # other readers must not be left with a pointer to what goes
    for each in versions:
        _remove(storage, each.path)
    # a writer may have come back to life since they were looked at
    removed = [*versions, *(each for each in planned[len(old) :] if _is_old(storage, each.path, grace))]
    for each in removed[len(versions) :]:
        _remove(storage, each.path)
    if any(STAGING in each.path for each in removed):
        contents.table.remove_empty(STAGING)
    return removed


@dataclass(frozen=True)
class _Contents:
    """What lies in a store: the storage of its table, where that is, folders and areas, and all manifests."""

    table: Storage
    prefix: str
    folders: list[str]
    areas: list[str]
    manifests: list[Manifest]

    def named_by(self, manifests: Iterable[Manifest]) -> set[str]:
        """Return the folders that manifests name, image arrays by their groups; relative to the store."""
        named = set()
        for manifest in manifests:
            named.add(f"{self.prefix}{manifest.folder}")
            for file in manifest.files:
                outside = file.path.removeprefix("../")
                parts = outside.split("/")
                named.add(f"{self.prefix}{parts[0]}" if outside == file.path else "/".join(parts[:3]))
        return named


def _look(storage: Storage) -> _Contents:
    names = storage.names("")
    has_images = "zarr.json" in names or bool(storage.names(f"{TABLE}/versions"))
    table, prefix = (storage.child(TABLE), f"{TABLE}/") if has_images else (storage, "")
    # listed before the manifests are read: what is published in between has one by then
    folders = [f"{prefix}{name}" for name in table.names("") if _FOLDER.fullmatch(name)]
    folders += _groups(storage, names) if has_images else []
    areas = [f"{prefix}{area.folder}" for area in staging_areas(table)]
    manifests = list(_manifests(table))
    if not (folders or areas or manifests):
        read_manifest(table)  # says that there is no store
    return _Contents(table, prefix, folders, areas, manifests)


def _manifests(table: Storage) -> Iterator[Manifest]:
    """Yield the manifests of all versions but those that someone else is removing."""
    for number in version_numbers(table):
        try:
            yield read_manifest(table, number)
        except FileNotFoundError:
            if number in version_numbers(table):
                raise


def _groups(storage: Storage, names: list[str]) -> list[str]:
    """Return the groups of images."""
    cells = [
        f"{order}/{cell}"
        for order in names
        if order.startswith("Norder=")
        for cell in storage.names(order)
        if cell.startswith("Npix=")
    ]
    return [f"{cell}/{name}" for cell in cells for name in storage.names(cell) if _GROUP.fullmatch(name)]


def _old_versions(contents: _Contents, dropped: list[Manifest]) -> Iterator[tuple[str, str]]:
    """Yield the paths of versions that are given up, all manifests before the first file."""
    for manifest in dropped:
        yield f"{contents.prefix}versions/{manifest.number}.json", f"version {manifest.number}"
    needed = contents.named_by(contents.manifests[len(dropped) :])
    for manifest in dropped:
        mine = contents.named_by([manifest]) - needed
        for path in sorted(mine.intersection(contents.folders)):
            yield path, f"version {manifest.number}"
        needed |= mine  # what two of them share goes once


def _leftovers(storage: Storage, contents: _Contents, gone: set[str]) -> Iterator[tuple[str, str]]:
    """Yield the paths of what no version ever named, whatever their age."""
    named = contents.named_by(contents.manifests)
    unpublished = sorted(set(contents.folders) - named)
    yield from ((path, "never published") for path in unpublished)
    yield from ((path, "unfinished run") for path in contents.areas)
    whole = gone.union(unpublished, contents.areas)
    for path in storage.files(""):
        folder, _, name = path.rpartition("/")
        if _TEMPORARY.fullmatch(name) and not any(f"{folder}/".startswith(f"{each}/") for each in whole):
            yield path, "temporary file"


def _is_old(storage: Storage, path: str, grace: float) -> bool:
    try:
        return time.time() - storage.modified(path) >= grace
    except FileNotFoundError:  # its writer has removed it
        return False


def _remove(storage: Storage, path: str) -> None:
    """Remove a file or folder."""
    if STAGING in path.split("/"):  # logs last, as a run that ends does
        storage.remove_all([f"{path}/{name}" for name in storage.names(path) if not name.startswith("log-")])
    storage.remove(path)
