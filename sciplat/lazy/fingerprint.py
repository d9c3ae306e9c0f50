"""What makes two plans the same: their inputs by digest, their operations and arguments, and users' functions by code.

Where the inputs lie is not part of it, nor are the versions of packages: a store may move, and an upgrade may resume.
"""

import json
from typing import Any

from sciplat.io.publish import FORMAT
from sciplat.io.storage import sha256

Record = dict[str, Any]  # a plan as JSON: nested operations, the inputs innermost
# where an input lies; how a function's result is written down; limits that do not change any result
_BESIDE = ("url", "version", "citation", "import", "arrow_schema", "timeout", "memory")
_LINE = 60  # characters of a value in an error


def fingerprint(plan: Record) -> str:
    """Return the SHA-256 of a plan."""
    return sha256(json.dumps({"format": FORMAT, "plan": _essence(plan)}, sort_keys=True).encode())


def _essence(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: _essence(value) for key, value in part.items() if key not in _BESIDE}
    return [_essence(value) for value in part] if isinstance(part, list) else part


def differences(old: Record, new: Record) -> list[str]:
    """Return in words what differs between two plans; empty if nothing that matters does."""
    return _differences(old, new, str(new.get("op", "plan")))


def _differences(old: Any, new: Any, where: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        if "op" in old and old.get("op") != new.get("op"):
            return [f"the operation: {old.get('op')}, now {new.get('op')}"]
        if "digest" in old and "digest" in new:
            return _differing_source(old, new)
        keys = [key for key in (*new, *(key for key in old if key not in new)) if key not in _BESIDE]
        found = [_differences(old.get(key), new.get(key), _named(where, key, new)) for key in keys]
        return [line for lines in found for line in lines]
    if old == new:
        return []
    if isinstance(old, list) and isinstance(new, list) and len(json.dumps([old, new])) > _LINE:
        gone, come = [value for value in old if value not in new], [value for value in new if value not in old]
        if not gone and not come:
            return [f"{where}: in another order"]
        old, new = gone, come  # a long list is told by what differs
    return [f"{where}: {_short(old)}, now {_short(new)}"]


def _differing_source(old: Record, new: Record) -> list[str]:
    """Return what differs between two inputs, or between two functions."""
    lines = []
    if old["digest"] != new["digest"]:
        if "url" in new:
            lines.append(f"the input {new['url']}: version {old.get('version')}, now {new['version']}, with other rows")
        else:
            lines.append(f"the code of {new.get('name', 'the function')}")
    elif "url" not in new and old.get("name") != new.get("name"):
        lines.append(f"the name of the function: {old.get('name')}, now {new.get('name')}")
    rest = {key for key in (*old, *new) if key not in ("digest", "name", *_BESIDE)}
    for key in sorted(rest):
        lines += _differences(old.get(key), new.get(key), f"{key} of {new.get('url', new.get('name'))}")
    return lines


def _named(where: str, key: str, new: Record) -> str:
    return where if key in ("inner", "catalog") else f"{key} of {new.get('op', where)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LINE else f"{text[: _LINE - 3]}..."
