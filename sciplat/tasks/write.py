"""Running a plan into a store: every task writes its own cell beside the data, then everything is published.

What is done is kept in the store's staging area, so that the same plan, started again, goes on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sciplat.errors import ArgumentError, ClusterLost, ConflictError, TaskFailed
from sciplat.io.catalog_store import LOG, PROVENANCE, CatalogStore
from sciplat.io.catalog_writer import CatalogWriter
from sciplat.io.publish import FileEntry, Manifest, file_entry, read_manifest, rows_digest, version_numbers
from sciplat.io.staging import CellRecord, DoneCells, Staging, summed
from sciplat.io.storage import sha256, without_secrets
from sciplat.sky.coverage import Coverage
from sciplat.tasks.attempt import BundleReport, attempt_all
from sciplat.tasks.log import RunLog, origin
from sciplat.tasks.memory import Work
from sciplat.tasks.run import Run
from sciplat.tasks.task import Task, without_tally
from sciplat.tasks.workers import LocalThreads

MakeProvenance = Callable[[dict[str, Any], str, int], bytes]  # of a report, the digest of the rows, and how many


@dataclass(frozen=True)
class WriteBundle:
    """Run the tasks of a bundle and write their rows, beside the data.

    Parameters
    ----------
    staging : Staging
    rows_per_cell : int
        A cell with more rows becomes several finer ones.
    what : str
    """

    staging: Staging
    rows_per_cell: int
    what: str

    def __call__(self, tasks: Sequence[Task]) -> BundleReport[int]:
        """Return the rows that each task gave; all of them are committed."""
        name = sha256(" ".join(str(task.cell) for task in tasks).encode())[:32]
        earlier = self.staging.rows_done(name)  # by a worker that was lost before it could say so
        written, tallies = {}, {}

        def write(task: Task) -> int:
            if task.cell in earlier:
                return earlier[task.cell]
            table, tallies[task.cell] = without_tally(task.run())
            written[task.cell] = self.staging.write(task.cell, table, self.rows_per_cell)
            return int(table.num_rows)

        report = attempt_all(write, tasks, self.what)
        pa.default_memory_pool().release_unused()  # half of it would stay, and count against the next task
        done = [each for each in report.outcomes if each.cell in written]
        if done:
            records = [
                CellRecord(each.cell, each.result or 0, each.seconds, written[each.cell], tallies[each.cell])
                for each in done
            ]
            self.staging.commit(records, "" if earlier else name)
        return report


def write_catalog(
    run: Run[int],
    schema: pa.Schema,
    writer: CatalogWriter,
    staging: Staging,
    plan: dict[str, Any],
    provenance: MakeProvenance,
) -> CatalogStore:
    """Do the cells that no earlier run has done, and publish all.

    Parameters
    ----------
    run : Run
    schema : pyarrow.Schema
        Of the rows.
    writer : CatalogWriter
    staging : Staging
        Of the plan.
    plan : dict
        Its record, for whoever finds it unfinished.
    provenance : callable
        Makes it.

    Raises
    ------
    SciplatError
        What ended the run. The cells that were done stay in the staging area.
    """
    log = run.log = run.log or RunLog(staging.storage, staging.log_path(writer.write_id))
    try:
        staging.begin(plan)
        left = _left(run.work, staging.done())
        counts = {"total": len(run.work), "resumed": len(run.work) - len(left)}
        log.event("started", what=run.what, **counts, **origin(writer.write_id))
        for _ in run.outcomes(WriteBundle(staging, writer.properties["rows_per_cell"], run.what), int, left):
            pass
        store = published_twin(writer, staging) or _unchanged(run, writer, staging)
        store = store or _new_version(run, log, schema, writer, staging, provenance)
    except BaseException as error:
        with suppress(Exception):  # the error itself matters more
            writer.abandon()
        # a twin that has published also removes the area, and with it what this run was about to read
        twin = published_twin(writer, staging) if isinstance(error, Exception) else None
        if twin is None:
            with suppress(Exception):
                _leave(run, log, staging, writer, error)
            raise
        store = twin
    if is_complete(store.manifest):  # otherwise the same call goes on with these cells
        with suppress(OSError):  # the result is there; a twin may be clearing up too
            staging.remove()
    return store


def _left(work: Work, finished: DoneCells) -> NDArray[np.int64]:
    """Return the numbers of the cells that are not done."""
    done, ranges = Coverage.from_ranges(finished.ranges).ranges, work.ranges
    place = np.searchsorted(done[:, 1], ranges[:, 0], side="right")
    near = place < len(done)
    held = np.zeros(len(ranges), dtype=bool)
    held[near] = (done[place[near], 0] <= ranges[near, 0]) & (ranges[near, 1] <= done[place[near], 1])
    return np.flatnonzero(~held)


def _new_version(
    run: Run[int],
    log: RunLog,
    schema: pa.Schema,
    writer: CatalogWriter,
    staging: Staging,
    provenance: MakeProvenance,
) -> CatalogStore:
    """Make a version of all that is done."""
    done = staging.done()
    _check_complete(run, done, staging)
    _check_rows(run, done, staging)
    report = _report(run, done) | writer.properties.get("report", {})
    log.event("finished", **run.standing())
    writer = replace(writer, properties=writer.properties | {"report": report, "fingerprint": staging.fingerprint})
    while True:
        reports = [*staging.link(writer.folder, done), *writer.link_kept()]
        files = [file for each in reports for file in each.files]
        told = provenance(report, rows_digest(writer.folder, files), sum(file.rows for file in files))
        contents = {PROVENANCE: told, LOG: log.content}
        try:
            return writer.publish(schema, reports, extra=tuple(_extra(writer, contents)))
        except ConflictError:  # a writer of other cells may have been first
            if writer.kept is None:
                raise
            writer = writer.rebased(writer.kept)


def _report(run: Run[int], done: DoneCells) -> dict[str, Any]:
    """Return what the plan was expected to take, what it took, and what is missing."""
    quoted, standing = run.work.total, run.standing()
    aside = sorted(run.retries.quarantined.items(), key=lambda item: item[0].start)
    return {
        **summed([run.tally, done.tally]),
        "rows": done.rows,
        "cells": len(done.cells),
        "cells_of_this_run": run.cells,
        "retried": run.retries.repeated,
        "quarantined": [[str(cell), without_secrets(str(error))] for cell, error in aside],
        "quote": {name: round(getattr(quoted, name), 3) for name in ("read", "requests", "rows", "seconds", "memory")},
        "actual": {name: standing[name] for name in ("read", "memory", "elapsed")}
        | {"rows": done.rows, "seconds": round(done.seconds, 3)},
    }


def _extra(writer: CatalogWriter, contents: dict[str, bytes]) -> Iterator[FileEntry]:
    for name, content in contents.items():
        path = f"{writer.folder}/{name}"
        writer.storage.write(path, content)
        yield file_entry(path, content)


def published_twin(writer: CatalogWriter, staging: Staging) -> CatalogStore | None:
    """Return a version of the same plan that was published after this run began."""
    numbers = version_numbers(writer.storage)
    if not numbers or numbers[-1] < writer.number:
        return None
    manifest = read_manifest(writer.storage)
    return CatalogStore(writer.storage, manifest) if is_same_plan(manifest, staging.fingerprint) else None


def _unchanged(run: Run[int], writer: CatalogWriter, staging: Staging) -> CatalogStore | None:
    """Return the newest version if this run tried again what that lacks, in vain."""
    parent = writer.parent
    in_vain = parent is not None and run.cells == len(run.retries.quarantined) > 0
    if parent is None or not in_vain or not is_same_plan(parent, staging.fingerprint):
        return None
    return CatalogStore(writer.storage, parent)


def is_complete(manifest: Manifest) -> bool:
    """Return whether no cell of a plan's result is missing."""
    return not manifest.properties["report"]["quarantined"]


def is_same_plan(manifest: Manifest, fingerprint: str) -> bool:
    """Return whether a version is the result of the plan with this fingerprint."""
    return bool(manifest.properties.get("fingerprint") == fingerprint)


def _check_complete(run: Run[int], done: DoneCells, staging: Staging) -> None:
    """Refuse to publish less than was done."""
    aside = run.retries.quarantined
    missing = [cell for cell in map(run.work.cell, _left(run.work, done).tolist()) if cell not in aside]
    if missing:
        raise ConflictError(
            f"cells that were done are gone from {staging.folder} in {staging.storage.url}",
            found=f"{len(missing):,} of {len(run.work):,}, the first of them {missing[0]}",
            hint="call the same again; another process has removed them, perhaps with restart=True",
        )


def _check_rows(run: Run[int], done: DoneCells, staging: Staging) -> None:
    """Refuse to publish nothing."""
    if done.rows:
        return
    for error in run.retries.quarantined.values():
        raise error
    staging.remove()
    raise ArgumentError(
        "the result is empty, nothing was written",
        found=f"{len(run.work):,} cells without a row",
        hint="look at the conditions and the region, and with .explain() whether the inputs meet on the sky",
    )


def _leave(run: Run[int], log: RunLog, staging: Staging, writer: CatalogWriter, error: BaseException) -> None:
    """Keep what was done for the next run, and what failed for `replay`; keep nothing where there is neither."""
    # another run may be about to finish its first cell, or tasks of this one, which a cluster goes on with
    others = staging.writers - {writer.write_id}
    going_on = isinstance(error, KeyboardInterrupt | ClusterLost) and not isinstance(run.workers, LocalThreads)
    if staging.is_begun or others or going_on or isinstance(error, TaskFailed):
        told = {"error": str(error) or type(error).__name__, "traceback": getattr(error, "traceback", "")}
        log.event("stopped", **told)
    else:
        staging.remove()
        staging.storage.remove_empty("")
