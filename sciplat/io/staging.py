"""Where an unfinished run keeps what it has done: complete files, and records that say which cells they make up.

A record is the moment at which cells are done. It names files that nothing else will ever write, so a run that is
killed anywhere goes on from its records, and two runs of one plan at the same time do not meet.

    <url>/.staging/<fingerprint>/plan.json          what is being done
                                 done-<id>.json     cells that are done, and their files
                                 log-<write id>.jsonl
                                 <id>-<order>-<index>.parquet
"""

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sciplat.errors import StoreCorrupt
from sciplat.io.catalog_writer import CellReport, encode_cells
from sciplat.io.hats import HEALPIX_COLUMN, cell_path
from sciplat.io.publish import FileEntry, file_entry, read_manifest, version_numbers
from sciplat.io.storage import LocalStorage, Storage, sha256, sync_path
from sciplat.sky.cell import Cell

STAGING = ".staging"
_PLAN = "plan.json"


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
    """

    cell: Cell
    rows: int
    seconds: float
    report: CellReport


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
        """What is being done, None if nothing is."""
        try:
            plan: dict[str, Any] = json.loads(self.storage.read(f"{self.folder}/{_PLAN}"))
        except FileNotFoundError:
            return None
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
        attempt, files = uuid.uuid4().hex[:12], []
        for part, data, footer, rows, memory in encode_cells(cell, table, rows_per_cell):
            path = f"{self.folder}/{attempt}-{part.order}-{part.index}.parquet"
            self.storage.write(path, data)
            files.append(file_entry(path, data, rows=rows, footer=footer, memory=memory))
        return CellReport.of(files, table[HEALPIX_COLUMN].to_numpy())

    def commit(self, records: Sequence[CellRecord]) -> None:
        """Make cells done, all of these at once."""
        body = [_to_json(record) for record in records]
        text = json.dumps(body, sort_keys=True)
        whole = json.dumps({"sha256": sha256(text.encode()), "cells": body}, sort_keys=True)
        self.storage.write(f"{self.folder}/done-{uuid.uuid4().hex}.json", whole.encode())

    @property
    def is_begun(self) -> bool:
        """Whether any cell is done."""
        return any(name.startswith("done-") for name in self.storage.names(self.folder))

    def records(self) -> list[CellRecord]:
        """Return the cells that are done, disjoint and in the order of the sky.

        Where one was done twice, or a part of it before, the larger one stands; it holds the smaller.
        """
        names = [name for name in self.storage.names(self.folder) if name.startswith("done-")]
        found = [record for name in names for record in self._read(name)]
        found.sort(key=lambda record: (record.cell.start, record.cell.order))  # the larger of two comes first
        kept: list[CellRecord] = []
        for record in found:
            if not kept or record.cell.start >= kept[-1].cell.stop:
                kept.append(record)
        return kept

    def _read(self, name: str) -> list[CellRecord]:
        where = f"{self.folder}/{name}"
        try:
            read = json.loads(self.storage.read(where))
            if sha256(json.dumps(read["cells"], sort_keys=True).encode()) != read["sha256"]:
                raise ValueError("its content differs from its digest")
            return [_from_json(record) for record in read["cells"]]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreCorrupt(
                f"{where} in {self.storage.url} is damaged", found=str(error), hint="restart=True begins anew"
            ) from None

    def link(self, folder: str, records: Iterable[CellRecord]) -> list[CellReport]:
        """Give the files of all cells their names in a version's folder."""
        reports, folders = [], set()
        for record in records:
            files = []
            for file in record.report.files:
                path = f"{folder}/{cell_path(_staged_cell(file.path))}"
                self.storage.link(file.path, path)
                folders.add(path.rpartition("/")[0])
                files.append(FileEntry(**asdict(file) | {"path": path}))
            report = record.report
            reports.append(CellReport(tuple(files), report.map_pixels, report.map_counts, report.knots))
        if isinstance(self.storage, LocalStorage):
            for path in sorted(folders):
                sync_path(self.storage.at(path))
        return reports

    def remove(self) -> None:
        """Remove the area, and the folders of versions that its runs began and did not publish."""
        writers = {name.removeprefix("log-").removesuffix(".jsonl") for name in self.storage.names(self.folder)}
        numbers = version_numbers(self.storage)
        for name in self.storage.names(""):
            number, _, writer = name.removeprefix("v").partition("-")
            if writer not in writers or not number.isdecimal():
                continue
            if int(number) not in numbers or read_manifest(self.storage, int(number)).folder != name:
                self.storage.remove(name)
        self.storage.remove(self.folder)
        self.storage.remove_empty(STAGING)


def staging_areas(storage: Storage) -> list[Staging]:
    """Return the areas of all unfinished runs in a store."""
    return [Staging(storage, name) for name in storage.names(STAGING)]


def _staged_cell(path: str) -> Cell:
    """Return the cell of a file in the staging area."""
    order, index = path.removesuffix(".parquet").rsplit("-", 2)[1:]
    return Cell(int(order), int(index))


def _to_json(record: CellRecord) -> dict[str, Any]:
    report = record.report
    return {
        "cell": [record.cell.order, record.cell.index],
        "rows": record.rows,
        "seconds": record.seconds,
        "files": [asdict(file) for file in report.files],
        "map": [report.map_pixels.tolist(), report.map_counts.tolist()],
        "knots": report.knots.tolist(),
    }


def _from_json(record: dict[str, Any]) -> CellRecord:
    pixels, counts = (np.array(values, dtype=np.int64) for values in record["map"])
    knots = np.array(record["knots"], dtype=np.int64).reshape(-1, 2)
    files = tuple(FileEntry(**file) for file in record["files"])
    report = CellReport(files, pixels, counts, knots)
    return CellRecord(Cell(*record["cell"]), record["rows"], record["seconds"], report)
