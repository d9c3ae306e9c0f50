"""The record of how a result was made: W3C PROV-JSON (member submission of 2013) with the terms of IVOA Provenance 1.0.

IVOA's classes that W3C does not know are entities with a `prov:type`, and its relations are influences with one: the
document is valid PROV-JSON to everybody. Neither storage options nor credentials enter: URLs lose user, password and
query.
"""

import functools
import getpass
import importlib.metadata
import json
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sciplat.errors import StoreCorrupt
from sciplat.io.storage import sha256, without_secrets

_PREFIXES = {
    "prov": "http://www.w3.org/ns/prov#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
    "dct": "http://purl.org/dc/terms/",
    "voprov": "http://www.ivoa.net/documents/ProvenanceDM/index.html#",
    "sciplat": "urn:sciplat:",
}
_PLAN = "run:plan"


@dataclass(frozen=True)
class Input:
    """A store that a result was made from.

    Parameters
    ----------
    url : str
    version : int
    digest : str
        Hexadecimal, of the version's rows.
    kind : {"catalog", "images"}
    citation : str
        What to cite if the result is published; empty if nobody said.
    """

    url: str
    version: int
    digest: str
    kind: str
    citation: str


def provenance_document(
    *,
    name: str,
    digest: str,
    rows: int,
    plan: dict[str, Any],
    fingerprint: str,
    inputs: Sequence[Input],
    started: str,
    ended: str,
    report: dict[str, Any],
) -> dict[str, Any]:
    """Return the PROV-JSON document of one result.

    Parameters
    ----------
    name : str
        URL of the result.
    digest : str
        Hexadecimal, of its rows.
    rows : int
    plan : dict
        The plan as JSON values. Its values become voprov:Parameter entities as well, named by their place.
    fingerprint : str
        Of the plan and its inputs.
    inputs : sequence of Input
    started, ended : str
        ISO 8601, with a time zone.
    report : dict
        What was expected and what it took (JSON values).

    Returns
    -------
    dict
        JSON values.
    """
    clean = without_secrets(plan)
    sources = {f"run:input-{number}": each for number, each in enumerate(inputs, 1)}
    parameters = dict(_parameters(clean))
    result = {"prov:type": _term("voprov:DatasetEntity"), "prov:location": without_secrets(name)}
    return {
        "prefix": {**_PREFIXES, "run": f"urn:sciplat:run:{fingerprint}:"},
        "entity": {
            "run:result": {**result, "sciplat:digest": digest, "sciplat:rows": _value(int(rows))},
            **{key: _input_entity(each) for key, each in sources.items()},
            _PLAN: {"prov:type": _term("prov:Plan"), "prov:value": json.dumps(clean), "sciplat:digest": fingerprint},
            "run:environment": _environment_entity(),
            "run:description": {"prov:type": _term("voprov:ActivityDescription"), "voprov:name": "sciplat plan"},
            **{key: entity for place, value in parameters.items() for key, entity in _parameter(place, value)},
        },
        "activity": {"run:activity": _activity(started, ended, without_secrets(report))},
        "agent": {
            "run:sciplat": {"prov:type": _term("prov:SoftwareAgent"), "voprov:name": "sciplat", **_version()},
            "run:user": {"prov:type": _term("prov:Person"), "voprov:name": _user()},
        },
        **_relations(sources, list(parameters)),
    }


def environment() -> tuple[str, list[str]]:
    """Return what is installed.

    Returns
    -------
    digest : str
        Hexadecimal SHA-256 over the lines.
    lines : list of str
        "name==version" of every distribution that Python finds, with normalized names (PEP 503), sorted.
    """
    lines = _installed()
    return sha256("\n".join(lines).encode()), list(lines)


def parse_provenance(data: bytes) -> dict[str, Any]:
    """Return the document in a store's provenance file.

    Raises
    ------
    StoreCorrupt
        If it is no PROV-JSON document with a plan.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(str(error)) from None
    if not isinstance(document, dict):
        raise _damaged(f"a {type(document).__name__}")
    recorded_plan(document)
    citations(document)
    return document


def recorded_plan(document: dict[str, Any]) -> dict[str, Any]:
    """Return the plan that made the result.

    Raises
    ------
    StoreCorrupt
        If there is none.
    """
    try:
        plan = json.loads(document["entity"][_PLAN]["prov:value"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(f"no plan: {error!r}") from None
    if not isinstance(plan, dict):
        raise _damaged(f"a {type(plan).__name__} as plan")
    return plan


def citations(document: dict[str, Any]) -> list[str]:
    """Return what to cite for the inputs, each once, in the order of the inputs.

    Raises
    ------
    StoreCorrupt
        If the document has no entities.
    """
    try:
        found = [entity.get("dct:bibliographicCitation", "") for entity in document["entity"].values()]
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(f"no entities: {error!r}") from None
    return [text for text in dict.fromkeys(map(str, found)) if text]


def _damaged(found: str) -> StoreCorrupt:
    return StoreCorrupt("the provenance of the store is damaged", found=found, hint="restore the file from a copy")


def _input_entity(each: Input) -> dict[str, Any]:
    entity = {
        "prov:type": _term("voprov:DatasetEntity"),
        "prov:location": without_secrets(each.url),
        "sciplat:kind": each.kind,
        "sciplat:version": _value(int(each.version)),
        "sciplat:digest": each.digest,
    }
    return {**entity, "dct:bibliographicCitation": each.citation} if each.citation else entity


def _environment_entity() -> dict[str, Any]:
    digest, lines = environment()
    return {
        "prov:type": _term("sciplat:Environment"),
        "sciplat:digest": digest,
        "sciplat:packages": lines,
        "sciplat:python": platform.python_version(),
        "sciplat:platform": platform.platform(),
    }


def _activity(started: str, ended: str, report: dict[str, Any]) -> dict[str, Any]:
    return {
        "prov:startTime": started,
        "prov:endTime": ended,
        "prov:type": _term("voprov:Activity"),
        "voprov:name": "sciplat plan",
        **{f"sciplat:{_local(key)}": _value(value) for key, value in report.items()},
    }


def _version() -> dict[str, str]:
    versions = dict(line.split("==", 1) for line in _installed())
    return {"sciplat:version": versions["sciplat"]} if "sciplat" in versions else {}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user need not have a name
        return "unknown"


def _parameter(place: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a parameter and its description."""
    shown = _value(value)
    kind = shown["type"] if isinstance(shown, dict) else "xsd:string"
    about = {"voprov:name": place}
    yield _key("parameter", place), {"prov:type": _term("voprov:Parameter"), **about, "prov:value": shown}
    about["voprov:valueType"] = kind
    yield _key("parameter-description", place), {"prov:type": _term("voprov:ParameterDescription"), **about}


def _parameters(plan: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a plan with their place, such as "inner.radius"; lists stay whole."""
    for key, value in plan.items():
        if isinstance(value, dict):
            yield from _parameters(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _relations(sources: dict[str, Input], places: list[str]) -> dict[str, Any]:
    used = {key: each.kind for key, each in sources.items()} | {"run:environment": "environment"}
    configured = [("run:activity", _key("parameter", place), "voprov:WasConfiguredBy") for place in places]
    described = [(_key("parameter", each), _key("parameter-description", each)) for each in places]
    described.append(("run:activity", "run:description"))
    influences = [*configured, *((*pair, "voprov:IsDescribedBy") for pair in described)]
    agents = {"run:sciplat": {"prov:plan": _PLAN}, "run:user": {}}
    activity = {"prov:activity": "run:activity"}
    return {
        "wasAssociatedWith": _numbered("a", [{**activity, "prov:agent": key, **more} for key, more in agents.items()]),
        "used": _numbered("u", [{**activity, "prov:entity": key, "prov:role": role} for key, role in used.items()]),
        "wasGeneratedBy": _numbered("g", [{**activity, "prov:entity": "run:result"}]),
        "wasDerivedFrom": _numbered(
            "d", [{**activity, "prov:generatedEntity": "run:result", "prov:usedEntity": key} for key in sources]
        ),
        "wasInfluencedBy": _numbered(
            "i",
            [{"prov:influencee": of, "prov:influencer": by, "prov:type": _term(kind)} for of, by, kind in influences],
        ),
    }


def _numbered(letter: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    return {f"_:{letter}{number}": record for number, record in enumerate(records, 1)}


def _term(name: str) -> dict[str, str]:
    return {"$": name, "type": "prov:QUALIFIED_NAME"}


def _value(value: Any) -> Any:
    """Return a value as PROV-JSON; what it has no type for is JSON text."""
    if isinstance(value, str):
        return value
    kinds = {bool: "xsd:boolean", int: "xsd:long", float: "xsd:double"}
    return {"$": json.dumps(value), "type": kinds.get(type(value), "xsd:string")}


def _key(kind: str, place: str) -> str:
    return f"run:{kind}-{_local(place)}"


def _local(name: str) -> str:
    """Return a text as the local part of a qualified name; the few other characters become their code points."""
    return re.sub(r"[^A-Za-z0-9_.]", lambda found: f"-{ord(found[0]):x}-", name)


@functools.cache
def _installed() -> tuple[str, ...]:
    found: dict[str, str] = {}
    for each in importlib.metadata.distributions():
        name, version = _name_and_version(each)
        if name and version:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)  # the first on the path is imported
    return tuple(sorted(f"{name}=={version}" for name, version in found.items()))


def _name_and_version(distribution: importlib.metadata.Distribution) -> tuple[str | None, str | None]:
    try:
        return distribution.metadata["Name"], distribution.version
    except Exception:  # noqa: BLE001  # what a broken installation left behind
        return None, None
