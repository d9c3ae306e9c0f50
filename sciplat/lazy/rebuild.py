"""Plans from their records: the same operations on the same versions of the inputs."""

from collections.abc import Callable
from typing import Any

from sciplat.errors import PlanChanged, SciplatError, StoreNotFound
from sciplat.io.catalog_store import open_catalog_store
from sciplat.io.provenance import recorded_plan
from sciplat.io.publish import read_manifest, version_numbers
from sciplat.io.staging import staging_areas
from sciplat.io.storage import Storage, open_storage
from sciplat.lazy.catalog import Catalog
from sciplat.lazy.crossmatch import crossmatch_node
from sciplat.lazy.fingerprint import Record
from sciplat.lazy.function import load_function
from sciplat.lazy.groups import CrossmatchMany
from sciplat.lazy.images import Images, open_images
from sciplat.lazy.map import parse_schema
from sciplat.lazy.open import open_catalog
from sciplat.lazy.region import parse_region
from sciplat.steps.groups import Linking


def rebuild(plan: Record) -> Catalog:
    """Return the plan that a record describes.

    Parameters
    ----------
    plan : dict
        From a node's ``describe()``.

    Raises
    ------
    PlanChanged
        If an input has other rows now, or a function cannot be imported or has other code.
    StoreNotFound
        If an input is gone.
    """
    try:
        return _rebuilt(plan)
    except SciplatError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PlanChanged(
            "the record of the plan is damaged", found=repr(error), hint="give the plan as Python"
        ) from None


def _rebuilt(plan: Record) -> Catalog:
    op = plan["op"]
    if op == "scan":
        catalog = open_catalog(plan["url"], version=plan["version"] or None)
        _check_digest(plan, catalog.store.digest if catalog.store else "")
        return catalog.select(*plan["columns"]) if plan["columns"] != catalog.columns else catalog
    if op == "photometry":
        return _photometry(plan)
    if op == "crossmatch_many":
        return _crossmatch_many(plan)
    if op == "ingest":
        raise PlanChanged("the store was ingested: its plan is not repeated", hint="call ingest_catalog again")
    if op not in _OPERATIONS:
        raise PlanChanged(f"this sciplat knows no operation {op!r}", hint="the version that made the record does")
    return _OPERATIONS[op](rebuild(plan["inner"]), plan)


def _map(inner: Catalog, plan: Record) -> Catalog:
    return inner.map(
        load_function(plan["step"]),
        schema=parse_schema(plan["arrow_schema"]),
        reach=None if plan["reach"] is None else f"{plan['reach']!r} deg",
        timeout=plan["timeout"],
        memory=plan["memory"],
    )


def _join(inner: Catalog, plan: Record) -> Catalog:
    if "table" in plan:
        raise PlanChanged(
            "the plan joins a table in memory, which its record does not hold",
            found=f"{plan['table']['rows']:,} rows of {', '.join(plan['table']['columns'])}",
            hint="give the plan as Python, with the same table",
        )
    on = [(mine, its) for mine, its in plan["on"]]
    reach = f"{plan['reach']!r} deg"
    return inner.join(rebuild(plan["other"]), on=on, how=plan["how"], suffix=plan["suffix"], reach=reach)


def _crossmatch(inner: Catalog, plan: Record) -> Catalog:
    other = rebuild(plan["other"])
    names = ("find", "neighbours", "how", "epoch", "motion", "n_sigma", "density_order", "suffix")
    given = {name: plan[name] for name in names} | {"probability": plan["density_order"] is not None}
    radius = None if plan["radius"] is None else f"{plan['radius']!r} deg"
    node = crossmatch_node(inner.node, other.node, radius=radius, **given)
    return Catalog(node, None, inner.stored + other.stored)


def _groups(inner: Catalog, plan: Record) -> Catalog:
    return inner.groups(radius=f"{plan['radius']!r} deg", reach=f"{plan['reach']!r} deg")


def _crossmatch_many(plan: Record) -> Catalog:
    catalogs = [rebuild(part) for part in plan["catalogs"]]
    kept = tuple(tuple((old, new) for old, new in names) for names in plan["columns"])
    linking = Linking(plan["radius"], plan["reach"])
    node = CrossmatchMany(tuple(catalog.node for catalog in catalogs), linking, kept)
    return Catalog(node, None, sum(catalog.stored for catalog in catalogs))


_OPERATIONS: dict[str, Callable[[Catalog, Record], Catalog]] = {
    "within": lambda inner, plan: inner.within(parse_region(plan["region"])),
    "select": lambda inner, plan: inner.select(*plan["columns"]),
    "where": lambda inner, plan: inner.where(plan["expression"]),
    "with_columns": lambda inner, plan: inner.with_columns(**dict(plan["computed"])),
    "nest": lambda inner, plan: inner.nest(plan["by"], plan["columns"], name=plan["name"]),
    "sample": lambda inner, plan: inner.sample(plan["fraction"], seed=plan["seed"]),
    "concat": lambda inner, plan: inner.concat(rebuild(plan["other"])),
    "map": _map,
    "groups": _groups,
    "join": _join,
    "crossmatch": _crossmatch,
}


def _photometry(plan: Record) -> Catalog:
    def lengths(pairs: list[list[Any]]) -> list[str]:
        return [f"{value!r} {unit}" for value, unit in pairs]

    images = _images(plan["images"])
    # photometry itself selects the columns that it needs; doing so twice would be another plan
    catalog = plan["catalog"]["inner"] if plan["catalog"]["op"] == "select" else plan["catalog"]
    annulus = None if plan["annulus"] is None else lengths(plan["annulus"])
    return images.photometry(
        rebuild(catalog),
        radii=lengths(plan["radii"]),
        annulus=None if annulus is None else (annulus[0], annulus[1]),
        background=plan["background"],
        keep=plan["keep"],
    )


def _images(record: Record) -> Images:
    images = open_images(record["url"], version=record["version"])
    _check_digest(record, images.store.table.digest)
    for choice in record["chosen"]:
        if "bands" in choice:
            images = images.select_bands(*choice["bands"])
        else:
            images = images.within(parse_region(choice["within"]))
    return images


def _check_digest(record: Record, digest: str) -> None:
    if digest != record["digest"]:
        raise PlanChanged(
            f"the input {record['url']}, version {record['version']}, is not what it was",
            found=f"digest {digest[:12]}, recorded {record['digest'][:12]}",
            hint="restore the store that the record names",
        )


def plan_at(storage: Storage, *, published: bool) -> Record:
    """Return the plan of an unfinished run at a URL, or the one that made the newest version there.

    Parameters
    ----------
    storage : Storage
    published : bool
        Which of the two is asked for; where it is not there, the other is returned.

    Raises
    ------
    StoreNotFound
        If there is neither.
    """
    looks = (_published_plan, _unfinished_plan) if published else (_unfinished_plan, _published_plan)
    for look in looks:
        if (plan := look(storage)) is not None:
            return plan
    raise StoreNotFound(
        f"there is no record of a plan at {storage.url}", hint="only what .write() made has one; check the path"
    )


def _unfinished_plan(storage: Storage) -> Record | None:
    return next((plan for area in staging_areas(storage) if (plan := area.plan) is not None), None)


def _published_plan(storage: Storage) -> Record | None:
    provenance = open_catalog_store(storage).provenance if version_numbers(storage) else {}
    return recorded_plan(provenance) if provenance else None


def rerun(url: str, target: str | None = None) -> tuple[Catalog, bool | None]:
    """Repeat the plan that made a store, on the same versions of its inputs; finish it where it did not end.

    Parameters
    ----------
    url : str
        Of the result.
    target : str, optional
        Where the new result goes; by default it is the next version of the same store.

    Returns
    -------
    catalog : Catalog
        The new result.
    same : bool or None
        Whether it has the same files as the old one, bit for bit; None if there was no old one.

    Raises
    ------
    PlanChanged, StoreNotFound
        If the plan cannot be repeated.
    """
    storage = open_storage(url)
    plan = rebuild(plan_at(storage, published=True))
    before = read_manifest(storage).digest if version_numbers(storage) else None
    result = plan.write(url, replace=True) if target is None else plan.write(target)
    after = result.store.manifest.digest if result.store else ""
    return result, None if before is None else before == after
