"""Running a plan into a store: what stands there already, what an earlier run has done, what is left to do."""

import json
from contextlib import suppress
from typing import Any

from sciplat.errors import ArgumentError, PlanChanged, SciplatError, StoreCorrupt, StoreExists
from sciplat.io.catalog_store import CatalogStore, point_to_newest
from sciplat.io.catalog_writer import CatalogWriter
from sciplat.io.provenance import Input, provenance_document, recorded_plan
from sciplat.io.publish import read_manifest, version_numbers
from sciplat.io.staging import Staging, staging_areas
from sciplat.io.storage import Storage
from sciplat.lazy.crossmatch import tally_beside
from sciplat.lazy.fingerprint import Record, differences, fingerprint
from sciplat.lazy.node import Node
from sciplat.tasks.log import now, read_logs
from sciplat.tasks.memory import plan_work
from sciplat.tasks.quote import write_cost
from sciplat.tasks.retry import OnError
from sciplat.tasks.run import Run
from sciplat.tasks.workers import open_workers
from sciplat.tasks.write import MakeProvenance, is_complete, is_same_plan, write_catalog


def write_plan(node: Node, storage: Storage, *, replace: bool, on_error: OnError, restart: bool) -> CatalogStore:
    """Run a plan and publish its rows as a catalog store; see `Catalog.write`."""
    if on_error not in ("raise", "quarantine"):
        raise ArgumentError(f"on_error={on_error!r} is unknown", hint='"raise" or "quarantine"')
    plan = node.describe()
    staging = Staging(storage, fingerprint(plan))
    finished = None if replace else _finished(storage, staging.fingerprint, plan)
    if finished is not None and is_complete(finished.manifest):
        return tidied(finished, staging)
    inputs = _inputs(plan)
    cited = sorted({each.citation for each in inputs if each.citation})
    own = {name: value for name, value in node.properties.items() if name != "report"}  # that is of the input
    properties = own | {"citations": cited}
    try:
        writer = CatalogWriter.begin(storage, properties, replace=replace or finished is not None)
    except StoreExists:
        if replace or not version_numbers(storage):
            raise
        # another process has published since: the same plan, or what the error is to name
        return write_plan(node, storage, replace=replace, on_error=on_error, restart=restart)
    if (published := published_by_killed(staging)) is not None:
        return tidied(published, staging)
    check_unfinished(staging, plan, restart=restart)
    what, workers = plan["op"], open_workers()
    work = plan_work(node.cells, lambda cell: write_cost(node.cost(cell)), limit=workers.memory(), what=what)
    run: Run[int] = Run(what, work, node.task, workers, on_error, tally=tally_beside(node))
    store = write_catalog(run, node.schema, writer, staging, plan, provenance_maker(staging, plan, inputs))
    with suppress(OSError, SciplatError):  # the result is there, whatever else lies beside it
        drop_idle(storage)
    return store


def provenance_maker(staging: Staging, plan: Record, inputs: list[Input]) -> MakeProvenance:
    """Return what makes the provenance of a plan that begins now."""
    began = now()

    def provenance(report: dict[str, Any], digest: str, rows: int) -> bytes:
        document = provenance_document(
            name=staging.storage.url,
            digest=digest,
            rows=rows,
            plan=plan,
            fingerprint=staging.fingerprint,
            inputs=inputs,
            started=began,
            ended=now(),
            report=report,
        )
        return json.dumps(document, indent=1, sort_keys=True).encode()

    return provenance


def published_by_killed(staging: Staging) -> CatalogStore | None:
    """Return the newest version if a run of this plan made it and was stopped before it had cleared up, else None."""
    storage = staging.storage
    newest = read_manifest(storage) if version_numbers(storage) else None
    if newest is None or newest.write_id not in staging.writers or not is_same_plan(newest, staging.fingerprint):
        return None
    return CatalogStore(storage, newest) if is_complete(newest) else None


def tidied(store: CatalogStore, staging: Staging) -> CatalogStore:
    """Complete what a run that was killed after its version was visible has left undone."""
    point_to_newest(store.storage)
    staging.remove()
    return store


def drop_idle(storage: Storage) -> None:
    """Remove what plans left that failed before any cell was done; others may be at work."""
    over = {log[0].get("write_id") for log in read_logs(storage) if log[-1]["event"] == "stopped"}
    for area in staging_areas(storage):
        if not area.is_begun and area.writers and area.writers <= over:
            area.remove()


def _finished(storage: Storage, mark: str, plan: Record) -> CatalogStore | None:
    """Return the newest version at the URL if it is this plan's result, None if there is no store.

    Raises
    ------
    StoreExists
        If something else stands there.
    """
    if not version_numbers(storage):
        return None
    store = CatalogStore(storage, read_manifest(storage))
    if is_same_plan(store.manifest, mark):
        return store
    found = ""
    if store.provenance:
        found = f"made by another plan; {'; '.join(differences(recorded_plan(store.provenance), plan))}"
    raise StoreExists(
        f"a store stands already at {storage.url}",
        found=found,
        hint="another URL; replace=True (--replace) makes a new version",
    )


def check_unfinished(staging: Staging, plan: Record, *, restart: bool) -> None:
    """Refuse to mix a plan with cells that an unfinished run of another one has done, or remove them.

    Raises
    ------
    PlanChanged
        If there is such a run.
    """
    for area in staging_areas(staging.storage):
        if area.folder != staging.folder and _adds_rows(area):
            continue  # it mixes with nothing, and may be at work
        if restart:
            area.remove()
        elif area.is_begun and area.folder != staging.folder:
            raise PlanChanged(
                f"the plan is not the one that was begun at {staging.storage.url}",
                found="; ".join(differences(area.plan or {}, plan)) or "another version of sciplat's stores",
                hint="the same call goes on; restart=True (--restart) drops what was done and begins anew",
            )


def _adds_rows(area: Staging) -> bool:
    """Return whether a run is an append, which finds out by itself what others have published."""
    with suppress(StoreCorrupt):
        return "added_to" in (area.plan or {})
    return False


def _inputs(plan: Record) -> list[Input]:
    """Return the stores that a plan reads."""
    inputs = []
    for key in ("images", "catalog", "inner", "other"):
        part = plan.get(key)
        if isinstance(part, dict):
            inputs += [_input(part, "images")] if key == "images" else _inputs(part)
    for part in plan.get("catalogs", []):
        inputs += _inputs(part)
    return [*inputs, _input(plan, "catalog")] if plan.get("op") == "scan" else inputs


def _input(part: Record, kind: str) -> Input:
    return Input(part["url"], part["version"], part["digest"], kind, part.get("citation", ""))
