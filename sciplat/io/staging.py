"""Where an unfinished run keeps what it has done: complete files, and records that say which cells they make up.

A record is the moment at which cells are done. It names files that nothing else will ever write, so a run that is
killed anywhere goes on from its records, and two runs of one plan at the same time do not meet.

    <url>/.staging/<fingerprint>/plan.json          what is being done
                                 done-<id>.json     cells that are done, and their files
                                 log-<write id>.jsonl
                                 <id>-<order>-<index>.parquet
"""

import json
import re
import uuid
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.errors import StoreCorrupt
from sciplat.io.catalog_writer import write_cells
from sciplat.io.cell_report import CellReport
from sciplat.io.hats import cell_path
from sciplat.io.publish import FileEntry, link_files, new_names, parse_folder, read_manifest, version_numbers
from sciplat.io.storage import LocalStorage, Storage, sha256
from sciplat.sky.cell import Cell, index_ranges

Tally = dict[str, dict[str, int]]
STAGING = ".staging"
_CELL = np.dtype([("order", np.int64), ("index", np.int64), ("rows", np.int64), ("seconds", np.float64)])
_PLAN = "plan.json"
_AREA = re.compile(r"[0-9a-f]{16}")
_AT_ONCE = 16  # records that are read: object storage takes its time for each
_REMOVALS = 10  # attempts at a folder that others change
_UNFINISHED = re.compile(r"\.(\d+\.json|collection\.properties)\.[0-9a-f]{32}")  # temporary names of local storage


@dataclass(frozen=True)
class CellRecord:
    """One cell that is done.

    Parameters
    ----------
    cell : Cell
    rows : int
    seconds : float
        That it took a thread.
    report : CellReport
        Its files lie in the staging area.
    tally : dict, optional
        Numbers by name, to be summed over all cells.
    """

    cell: Cell
    rows: int
    seconds: float
    report: CellReport
    tally: Tally | None = None


@dataclass(frozen=True, eq=False)
class DoneCells:
    """All cells of a plan that are done, in the order of the sky; a million empty ones take a few megabytes.

    Parameters
    ----------
    cells : ndarray, shape (n,), with fields order, index, rows, seconds
    reports : list of CellReport
        Of those that have rows.
    tally : dict
        Sums over all cells of what they tell, by name.
    """

    cells: NDArray[Any]
    reports: list[CellReport]
    tally: Tally

    @property
    def ranges(self) -> NDArray[np.int64]:
        """The cells as ranges of order-29 indices, shape (n, 2)."""
        return index_ranges(self.cells["order"], self.cells["index"])

    @property
    def rows(self) -> int:
        """Rows of all cells."""
        return int(self.cells["rows"].sum())

    @property
    def seconds(self) -> float:
        """Time of one thread that all cells took."""
        return float(self.cells["seconds"].sum())


@dataclass(frozen=True)
class Staging:
    """The staging area of one plan in a store.

    Parameters
    ----------
    storage : Storage
        Of the store.
    fingerprint : str
        Of the plan.
    """

    storage: Storage
    fingerprint: str

    @property
    def folder(self) -> str:
        """The area's folder in the store."""
        return f"{STAGING}/{self.fingerprint[:16]}"

    def begin(self, plan: dict[str, Any]) -> None:
        """Keep what is being done, unless an earlier run of the same plan has."""
        self.storage.create(f"{self.folder}/{_PLAN}", json.dumps(plan, sort_keys=True, indent=1).encode())

    @property
    def plan(self) -> dict[str, Any] | None:
        """What is being done, None if nothing is.

        Raises
        ------
        StoreCorrupt
            If the file is damaged.
        """
        path = f"{self.folder}/{_PLAN}"
        try:
            plan = json.loads(self.storage.read(path))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise _damaged(self.storage, path, error) from None
        if not isinstance(plan, dict):
            raise _damaged(self.storage, path, ValueError("no plan"))
        return plan

    def write(self, cell: Cell, table: pa.Table, rows_per_cell: int) -> CellReport:
        """Write the files of one cell; it is done once its record is committed.

        Parameters
        ----------
        cell : Cell
        table : pyarrow.Table
            All rows lie in the cell and are sorted by `_healpix_29`.
        rows_per_cell : int
            A cell with more rows becomes several finer ones.
        """
        attempt = f"{self.folder}/{uuid.uuid4().hex[:12]}"  # nothing else will ever write these files
        return write_cells(
            self.storage, lambda part: f"{attempt}-{part.order}-{part.index}.parquet", cell, table, rows_per_cell
        )

    def commit(self, records: Sequence[CellRecord], name: str = "") -> None:
        """Make cells done, all of these at once; `name` is that of their bundle, if it is to be found again."""
        cells = [[each.cell.order, each.cell.index, each.rows, each.seconds] for each in records]
        reports = {str(place): _to_json(each.report) for place, each in enumerate(records) if each.rows}
        tallies = {str(place): each.tally for place, each in enumerate(records) if each.tally}
        body = {"sha256": _digest(cells, reports, tallies), "cells": cells, "reports": reports}
        body |= {"tallies": tallies} if tallies else {}
        data = json.dumps(body).encode()
        # a record is never replaced: whoever reads it looks for the files that it names
        if not name or not self.storage.create(f"{self.folder}/done-{name}.json", data):
            self.storage.write(f"{self.folder}/done-{uuid.uuid4().hex}.json", data)

    def rows_done(self, name: str) -> dict[Cell, int]:
        """Return the cells of a bundle that are done, with their rows; none if it has no record."""
        try:
            cells, _, _ = self._read(f"done-{name}.json")
        except FileNotFoundError:
            return {}
        return {Cell(order, index): rows for order, index, rows, _ in cells.tolist()}

    @property
    def is_begun(self) -> bool:
        """Whether any cell is done, or any part of an input sorted."""
        return any(name.startswith(("done-", "sorted-")) for name in self.storage.names(self.folder))

    def done(self) -> "DoneCells":
        """Return the cells that are done, disjoint.

        Where one was done twice, or a part of it before, the larger one stands; it holds the smaller.
        """
        listed = self.storage.names(self.folder)
        names, present = [name for name in listed if name.startswith("done-")], {f"{self.folder}/{n}" for n in listed}
        parts, count = [np.empty(0, dtype=_CELL)], 0
        reports: dict[int, CellReport] = {}
        tallies: dict[int, Tally] = {}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for cells, found, told in pool.map(self._read, names):
                parts.append(cells)
                reports |= {count + place: report for place, report in found.items()}
                tallies |= {count + place: tally for place, tally in told.items()}
                count += len(cells)
        table = np.concatenate(parts)
        # a cell whose files another process has removed is to be done again
        lost = [place for place, each in reports.items() if not present.issuperset(file.path for file in each.files)]
        there = np.delete(np.arange(len(table)), lost)
        kept = there[_disjoint(table[there])]
        total = summed(tallies[number] for number in kept.tolist() if number in tallies)
        return DoneCells(table[kept], [reports[number] for number in kept.tolist() if number in reports], total)

    def _read(self, name: str) -> tuple[NDArray[Any], dict[int, CellReport], dict[int, Tally]]:
        """Return the cells of one record, the reports of those that have rows, and the tallies."""
        where = f"{self.folder}/{name}"
        try:
            read: dict[str, Any] = json.loads(self.storage.read(where))
            told = read.get("tallies", {})
            if _digest(read["cells"], read["reports"], told) != read["sha256"]:
                raise ValueError("its content differs from its digest")
            cells = np.array([tuple(cell) for cell in read["cells"]], dtype=_CELL)
            # as arrays the reports take a tenth of what JSON takes
            reports = {int(place): _from_json(report) for place, report in read["reports"].items()}
            tallies = {int(place): tally for place, tally in told.items()}
            numbers = [number for tally in tallies.values() for each in tally.values() for number in each.values()]
            if not all(type(number) is int for number in numbers):
                raise ValueError("a tally holds other things than numbers")
            for place, (order, index, rows, _) in enumerate(cells.tolist()):
                self._check(Cell(order, index), rows, reports[place].files if rows else ())
        except (ValueError, KeyError, TypeError, OverflowError, AttributeError) as error:
            raise _damaged(self.storage, where, error) from None
        return cells, reports, tallies

    def _check(self, cell: Cell, rows: int, files: tuple[FileEntry, ...]) -> None:
        """Refuse a record that no run can have written: it would lose rows, or publish what lies elsewhere."""
        for file in files:
            folder, _, name = file.path.rpartition("/")
            part = _staged_cell(name)
            if folder != self.folder or not cell.start <= part.start < part.stop <= cell.stop:
                raise ValueError(f"{file.path} is no file of cell {cell}")
        if sum(file.rows for file in files) != rows:
            raise ValueError(f"the files of cell {cell} have other rows than it has")

    def link(self, folder: str, done: "DoneCells") -> list[CellReport]:
        """Give the files of all cells their names in a version's folder."""
        names = {f.path: f"{folder}/{cell_path(_staged_cell(f.path))}" for each in done.reports for f in each.files}
        link_files(self.storage, names)
        return [replace(each, files=new_names(each.files, names)) for each in done.reports]

    def log_path(self, write_id: str) -> str:
        """Return the path of the log of one run."""
        return f"{self.folder}/log-{write_id}.jsonl"

    @property
    def writers(self) -> set[str]:
        """The write ids of all runs that have a log here."""
        names = (name for name in self.storage.names(self.folder) if name.startswith("log-"))
        return {name.removeprefix("log-").removesuffix(".jsonl") for name in names}

    def remove(self) -> None:
        """Remove the area, the folders of versions that its runs began and did not publish, and unfinished files.

        Another run of the plan may be at work here or removing it too. The logs go last: as long as there is one of
        the run that has published, whoever comes sees that nothing here is to be used again.
        """
        writers, numbers = self.writers, version_numbers(self.storage)
        for name in self.storage.names(""):
            number, writer = parse_folder(name)
            if not number or writer not in writers:
                continue
            if number not in numbers or read_manifest(self.storage, number).folder != name:
                _remove_shared(self.storage, name)
        _remove_unfinished(self.storage)
        names = self.storage.names(self.folder)
        self.storage.remove_all([f"{self.folder}/{name}" for name in names if not name.startswith("log-")])
        _remove_shared(self.storage, self.folder)
        self.storage.remove_empty(STAGING)


def staging_areas(storage: Storage) -> list[Staging]:
    """Return the areas of all unfinished runs in a store: folders that only a plan can have made."""
    if _is_link(storage, STAGING):
        return []
    names = [name for name in storage.names(STAGING) if _AREA.fullmatch(name)]
    return [Staging(storage, name) for name in names if not _is_link(storage, f"{STAGING}/{name}")]


def _is_link(storage: Storage, path: str) -> bool:
    """Return whether a folder lies elsewhere: nothing there is ours to read or to remove."""
    return isinstance(storage, LocalStorage) and storage.at(path).is_symlink()


def _remove_shared(storage: Storage, folder: str) -> None:
    """Remove a folder; a run that still writes into it or removes it too is no error, and removes it in the end."""
    for _ in range(_REMOVALS):
        with suppress(OSError):
            storage.remove(folder)
            return


def _remove_unfinished(storage: Storage) -> None:
    """Remove what a process left that was killed while it wrote a manifest or the pointer to the newest version."""
    if isinstance(storage, LocalStorage):
        for path in [*storage.root.glob(".*"), *storage.at("versions").glob(".*")]:
            if _UNFINISHED.fullmatch(path.name):
                path.unlink(missing_ok=True)


def _damaged(storage: Storage, path: str, error: Exception) -> StoreCorrupt:
    return StoreCorrupt(f"{path} in {storage.url} is damaged", found=str(error), hint="restart=True begins anew")


def _staged_cell(path: str) -> Cell:
    """Return the cell of a file in the staging area."""
    order, index = path.removesuffix(".parquet").rsplit("-", 2)[1:]
    return Cell(int(order), int(index))


def _disjoint(cells: NDArray[Any]) -> NDArray[np.int64]:
    """Return the places of the cells that lie in no other, in the order of the sky."""
    start, stop = index_ranges(cells["order"], cells["index"]).T
    ordered = np.lexsort([cells["order"], start])  # the larger of two that begin together comes first
    reach = np.maximum.accumulate(stop[ordered]) if len(cells) else stop
    kept: NDArray[np.int64] = ordered[np.concatenate([[True], start[ordered][1:] >= reach[:-1]])[: len(cells)]]
    return kept


def summed(tallies: Iterable[Tally]) -> Tally:
    """Return the sums of numbers by name."""
    total: Tally = {}
    for tally in tallies:
        for name, numbers in tally.items():
            sums = total.setdefault(name, {})
            for key, number in numbers.items():
                sums[key] = sums.get(key, 0) + number
    return total


def _digest(cells: list[Any], reports: dict[str, Any], tallies: dict[str, Any]) -> str:
    return sha256(json.dumps([cells, reports, *([tallies] if tallies else [])], sort_keys=True).encode())


def _to_json(report: CellReport) -> dict[str, Any]:
    return {
        "files": [asdict(file) for file in report.files],
        "map": [_packed(report.map_pixels), _packed(report.map_counts)],
        "knots": _packed(report.knots),
    }


def _from_json(report: dict[str, Any]) -> CellReport:
    pixels, counts = (_unpacked(text) for text in report["map"])
    return CellReport(
        tuple(FileEntry(**file) for file in report["files"]), pixels, counts, _unpacked(report["knots"]).reshape(-1, 2)
    )


def _packed(values: NDArray[np.int64]) -> str:
    """Return numbers as text: as JSON's own they take as long to write and to read as the rows of their cell."""
    return b64encode(np.ascontiguousarray(values, "<i8").tobytes()).decode()


def _unpacked(text: str) -> NDArray[np.int64]:
    return np.frombuffer(b64decode(text, validate=True), "<i8").astype(np.int64)
