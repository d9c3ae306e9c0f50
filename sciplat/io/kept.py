"""Cells that a version takes over from the one before it: their files get one more name."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sciplat.errors import ConflictError, StorageError
from sciplat.io import hats
from sciplat.io.catalog_store import BESIDE_THE_ROWS, CatalogStore, CellEntry, check_version
from sciplat.io.cell_report import CellReport
from sciplat.io.publish import Manifest, link_files, new_names
from sciplat.sky.cell import MAX_ORDER, Cell
from sciplat.sky.coverage import Coverage


@dataclass(frozen=True, eq=False)
class Kept:
    """The cells of a version that the next one has too.

    Parameters
    ----------
    parent : CatalogStore
    replaced : Coverage
        The part of the sky that the next version writes anew.
    """

    parent: CatalogStore
    replaced: Coverage

    def link(self, folder: str) -> list[CellReport]:
        """Give the files of the cells outside that part their names in a folder; return what is known of the cells."""
        entries = self.parent.entries
        before = np.cumsum([0, *(each.file.rows for each in entries)]).tolist()
        kept = [(each, n) for each, n in zip(entries, before, strict=False) if not self._replaces(each.cell)]
        names = {each.file.path: f"{folder}/{hats.cell_path(each.cell)}" for each, _ in kept}
        try:
            link_files(self.parent.storage, names)
        except StorageError:
            check_version(self.parent.storage, self.parent.manifest.number)  # it may have been removed meanwhile
            raise
        counts = self.parent.sky_map
        return [
            CellReport(new_names([each.file], names), *_map_part(counts, each), self.parent.knots(each, first_row))
            for each, first_row in kept
        ]

    def check_apart(self, newest: Manifest, write_id: str) -> None:
        """Refuse to write over what another writer has changed since.

        Raises
        ------
        ConflictError
            If a cell that is written anew is not what it was.
        """
        later = CatalogStore(self.parent.storage, newest)
        ours, theirs = ({(each.cell, each.file.sha256) for each in store.entries} for store in (self.parent, later))
        met = sorted((cell for cell, _ in ours ^ theirs if self._replaces(cell)), key=lambda cell: cell.start)
        other = _meaning(later) != _meaning(self.parent) or not later.schema.equals(
            self.parent.schema, check_metadata=True
        )
        if met or other:
            what = "what is said of the rows" if other else f"cell {met[0]}"
            raise ConflictError(
                f"two writers changed {what} of {self.parent.storage.url}",
                found=f"write {newest.write_id} published version {newest.number} first, this is write {write_id}",
                hint="call the same again: it goes on from the new version",
            )

    def _replaces(self, cell: Cell) -> bool:
        return self.replaced.meets(cell.start, cell.stop)


def _meaning(store: CatalogStore) -> dict[str, Any]:
    """Return what a version says of its rows: frame, epoch, position and so on."""
    return {name: value for name, value in store.manifest.properties.items() if name not in BESIDE_THE_ROWS}


def _map_part(counts: NDArray[np.int64], entry: CellEntry) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pixels of the sky map in a cell that hold rows, and how many."""
    shift = 2 * (MAX_ORDER - hats.MAP_ORDER)
    first, last = entry.cell.start >> shift, entry.cell.stop >> shift
    if entry.cell.order > hats.MAP_ORDER:  # finer than a pixel, which others may share
        return np.array([first]), np.array([entry.file.rows])
    pixels = first + np.flatnonzero(counts[first:last])
    return pixels, counts[pixels]
