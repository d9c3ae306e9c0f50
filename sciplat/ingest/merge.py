"""An ingest from its sources to its store: sort the parts of the input, choose cells, merge the parts into them."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from sciplat.errors import ConflictError, InputError, PositionError, SciplatError, TaskTooLarge
from sciplat.ingest.sources import Sources
from sciplat.io.catalog_store import CatalogStore, CellEntry
from sciplat.io.catalog_writer import CatalogWriter
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.io.kept import Kept
from sciplat.io.provenance import Input, recorded_plan
from sciplat.io.publish import new_write_id, parse_folder, read_manifest, version_numbers
from sciplat.io.spill import Spill
from sciplat.io.staging import Staging, staging_areas
from sciplat.io.storage import Storage
from sciplat.lazy.fingerprint import Record, fingerprint
from sciplat.lazy.write import check_unfinished, drop_idle, provenance_maker, tidied
from sciplat.sky.cell import MAX_ORDER, Cell, cell_ranges
from sciplat.sky.coverage import Coverage
from sciplat.sky.split import split_counted
from sciplat.tasks.budget import Budget
from sciplat.tasks.log import RunLog, origin
from sciplat.tasks.memory import Work, plan_work
from sciplat.tasks.merge import MergeTask, Pieces, merge_cost
from sciplat.tasks.quote import Cost, write_cost
from sciplat.tasks.run import Run
from sciplat.tasks.sort import Allowance, SortedInput, SortParts, StoredPiece, count_rows, sort_parts
from sciplat.tasks.workers import LocalThreads, open_workers
from sciplat.tasks.write import published_twin, write_catalog

_SKY = [Cell(0, base) for base in range(12)]


@dataclass(frozen=True)
class Ingest:
    """An ingest that can be run.

    Parameters
    ----------
    storage : Storage
        Of the store.
    sources : Sources
    properties : dict
        What the store says of itself.
    parent : CatalogStore or None
        The version that rows are added to.
    skip_bad : bool
        Leave out rows without a position instead of refusing them.
    budget : Budget
    """

    storage: Storage
    sources: Sources
    properties: dict[str, Any]
    parent: CatalogStore | None
    skip_bad: bool
    budget: Budget

    @property
    def record(self) -> Record:
        """What is ingested and how, as JSON."""
        said = {name: self.properties.get(name) for name in ("position", "frame", "epoch", "rows_per_cell")}
        said |= {name: self.properties[name] for name in ("motion", "errors") if name in self.properties}
        added = {"added_to": self.parent.digest} if self.parent else {}
        return {"op": "ingest", "sources": self.sources.records, "skip_bad": self.skip_bad, **said, **added}

    @property
    def schema(self) -> pa.Schema:
        """The columns of the store."""
        if self.parent is not None:
            return self.parent.schema
        return self.sources.schema.insert(0, pa.field(HEALPIX_COLUMN, pa.int64()))

    def run(self, *, restart: bool) -> CatalogStore:
        """Do what no earlier run of the same ingest has done, and publish the store."""
        record = self.record
        staging = Staging(self.storage, fingerprint(record))
        if (finished := self._finished_by_killed(record)) is not None:
            return finished
        if self.parent is None:
            check_unfinished(staging, record, restart=restart)
            writer = CatalogWriter.begin(self.storage, self.properties)
        else:  # other writers may be adding rows too
            if restart:
                staging.remove()
            writer = CatalogWriter(self.storage, new_write_id(), self.parent.manifest, self.properties)
        log = RunLog(self.storage, staging.log_path(writer.write_id))
        try:
            staging.begin(record)
            log.event("started", what="read", total=len(self.sources.parts), resumed=0, **origin(writer.write_id))
            found = self._sorted(staging)
            merge = self._planned(found)
        except BaseException as error:
            twin = published_twin(writer, staging) if isinstance(error, Exception) else None
            if twin is not None:  # it has removed what this run was about to read
                return tidied(twin, staging)
            with suppress(Exception):
                _leave(staging, log, writer.write_id, error)
            raise
        counts = {"rows": found.rows, "skipped": found.skipped, "spilled": found.spilled}
        report = {**counts, "cells_over_limit": merge.over_limit}
        writer = replace(writer, kept=merge.kept, properties=writer.properties | {"report": report})
        run: Run[int] = Run("ingest", merge.work, merge.task, open_workers(), log=log)
        provenance = provenance_maker(staging, record, [_input(each) for each in self.sources.records])
        try:
            store = write_catalog(run, self.schema, writer, staging, record, provenance)
        except ConflictError:
            staging.remove()  # the version that it goes on from is another one now
            raise
        with suppress(OSError, SciplatError):  # the result is there, whatever else lies beside it
            drop_idle(self.storage)
        return store

    def _finished_by_killed(self, record: Record) -> CatalogStore | None:
        """Return the version that this ingest made if it was stopped before it had cleared up.

        Others may have published since, and what it kept may be half removed.
        """
        folders = [parse_folder(name) for name in self.storage.names("")]
        published = version_numbers(self.storage)
        for area in staging_areas(self.storage):
            writers = area.writers
            for number in [number for number, writer in folders if writer in writers and number in published]:
                store = CatalogStore(self.storage, read_manifest(self.storage, number))
                if store.manifest.write_id in writers and _is_same(recorded_plan(store.provenance), record):
                    return tidied(store, area)
        return None

    def _sorted(self, staging: Staging) -> SortedInput:
        """Return the input in sorted pieces.

        Raises
        ------
        InputError, PositionError
            If there is nothing to ingest.
        """
        workers, size = open_workers(), self.sources.size
        held = self.budget.held if size <= self.budget.held else 0
        allowance = Allowance(held) if isinstance(workers, LocalThreads) else None
        columns = pa.schema([field for field in self.schema if field.name != HEALPIX_COLUMN])
        ra, dec = self.properties["position"]
        chunk = self.budget.together(size, workers.threads)
        sort = SortParts(Spill(staging), columns, (ra, dec), self.skip_bad, chunk, allowance)
        found = sort_parts(self.sources.parts, sort)
        self.sources.check_unchanged()
        if found.rows == 0 and found.skipped:
            raise PositionError("no row has a position on the sphere", found=f"{found.skipped:,} rows without")
        if found.rows == 0:
            raise InputError("there is nothing to ingest", found=f"{len(self.sources.schema)} columns, no row")
        return found

    def _planned(self, found: SortedInput) -> "_Merge":
        """Choose the cells of the store, and what is read for each."""
        touched = self._touched(found)
        old = [StoredPiece(self.storage, each.file, (each.cell.start, each.cell.stop)) for each in touched]
        pieces = Pieces((*old, *found.pieces))  # at one place the rows that were there before come first
        limit = self.properties["rows_per_cell"]
        roots = [*(each.cell for each in touched), *self._free()]
        cells = split_counted(roots, partial(count_rows, pieces.all), limit)
        kept = None
        if self.parent is not None:
            replaced = Coverage.from_cells([*(cell for cell, _ in cells), *(each.cell for each in touched)])
            kept = Kept(self.parent, replaced)
        share = self.budget.share(pieces.held)
        work = plan_work((cell for cell, _ in cells), _Costs(dict(cells), pieces), limit=share, what="ingest")
        over = [[str(cell), rows] for cell, rows in cells if rows > limit]
        return _Merge(work, partial(_merge_task, pieces, self.schema), kept, over)

    def _touched(self, found: SortedInput) -> list[CellEntry]:
        """Return the cells of the store that rows are added to."""
        if self.parent is None:
            return []
        entries = self.parent.entries
        rows = count_rows(found.pieces, cell_ranges([each.cell for each in entries]))
        return [entries[place] for place in np.flatnonzero(rows)]

    def _free(self) -> list[Cell]:
        """Return the sky that no cell of the store covers."""
        if self.parent is None:
            return _SKY
        ranges = Coverage.from_cells([each.cell for each in self.parent.entries]).ranges
        ends = np.concatenate([[0], ranges.ravel(), [12 << 2 * MAX_ORDER]]).reshape(-1, 2)
        return Coverage.from_ranges(ends[ends[:, 0] < ends[:, 1]]).cells


@dataclass(frozen=True)
class _Merge:
    """The second pass of an ingest: its cells, how each is made, and those of the parent that stay."""

    work: Work
    task: Callable[[Cell], MergeTask]
    kept: Kept | None
    over_limit: list[list[Any]]


@dataclass(frozen=True)
class _Costs:
    """The cost of every cell; rows of a part of one are counted."""

    rows: dict[Cell, int]
    pieces: Pieces

    def __call__(self, cell: Cell) -> Cost:
        rows, near = self.rows.get(cell), self.pieces.near(cell)
        if rows is None:
            rows = int(count_rows(near, cell_ranges([cell]))[0])
        return write_cost(merge_cost(rows, near))


def _merge_task(pieces: Pieces, schema: pa.Schema, cell: Cell) -> MergeTask:
    return MergeTask(cell, pieces.near(cell), schema)


def _is_same(done: Record, record: Record) -> bool:
    """Return whether two ingests are one, begun on different versions of the store."""
    appends = {"added_to" in done, "added_to" in record}
    return len(appends) == 1 and {**done, "added_to": None} == {**record, "added_to": None}


def _input(record: Record) -> Input:
    """Return a source as provenance names it."""
    if "path" in record:
        return Input(record["path"], 0, f"{record['size']} bytes, modified {record['mtime_ns']}", "file", "")
    return Input(f"table {record['table']} in memory", 0, record["digest"], "table", "")


def _leave(staging: Staging, log: RunLog, write_id: str, error: BaseException) -> None:
    """Keep the parts that are sorted for the next run, unless the input itself is at fault."""
    at_fault = isinstance(error, SciplatError) and error.kind == "usage" and not isinstance(error, TaskTooLarge)
    if at_fault and not staging.writers - {write_id}:
        staging.remove()
        staging.storage.remove_empty("")
    else:
        log.event("stopped", error=str(error) or type(error).__name__, traceback=getattr(error, "traceback", ""))
