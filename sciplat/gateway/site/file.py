"""Reading a YAML file, and saying in the words of that file what a schema finds wrong with it."""

import re
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sciplat.errors import SciplatError, SiteError


def read_yaml(path: Path) -> tuple[Any, list[str]]:
    """Return what a YAML file holds, and a line for every key that stands twice, which YAML itself overlooks.

    Raises
    ------
    SiteError
        If it cannot be read, or is not YAML.
    """
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        try:
            return loader.get_single_data(), loader.twice
        finally:
            loader.dispose()
    except OSError as error:
        raise SiteError(f"the file {path} cannot be read", found=str(error.strerror)) from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise SiteError(f"the file {path} is not YAML", found=f"{line}{error.problem}") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML's own errors do not cover values that do not fit their tag.
        raise SiteError(f"the file {path} is not YAML", found=" ".join(str(error).split())[:200]) from None


class _Loader(yaml.SafeLoader):
    """Notes the keys that stand twice in a mapping, of which YAML would keep the last."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.twice: list[str] = []

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                self.twice.append(f"line {line}: {key.value!r} stands here again, after line {seen[key.value]}")
            elif isinstance(key, yaml.ScalarNode):
                seen[key.value] = line
        return node


def problems_of(error: ValidationError, schema: type[BaseModel]) -> list[str]:
    """Return pydantic's errors as lines "place: what is wrong; what to try", in the words of the file.

    Parameters
    ----------
    error : pydantic.ValidationError
    schema : type of pydantic.BaseModel
        What the file was held against.
    """
    # A list is called too short also where everything in it was refused.
    kept = [one for one in error.errors() if one["type"] != "too_short" or not one["input"]]
    return [f"{place}: {what}" for place, what in (_tell(one, schema) for one in kept)]


def _tell(error: ErrorDetails, schema: type[BaseModel]) -> tuple[str, str]:
    """Return the place of a problem, and what is wrong there."""
    kind, parts = error["type"], error["loc"]
    place, _ = _find(schema, parts)
    if kind in {"extra_forbidden", "invalid_key"}:
        _, section = _find(schema, parts[:-1])
        return place, _unknown(str(parts[-1]), list(section.model_fields))
    if kind == "union_tag_invalid":
        return f"{place}.type", _choice(repr(error["ctx"]["tag"]), error["ctx"]["expected_tags"])
    if kind == "union_tag_not_found":
        slips = [key for key in map(str, error["input"]) if _near(key, ["type"])]
        return (f"{place}.{slips[0]}", "unknown key; try type") if slips else (f"{place}.type", "missing")
    return place or "the file", _wrong(error)


def _find(schema: type[BaseModel], parts: tuple[int | str, ...]) -> tuple[str, Any]:
    """Return a place with dots, and the schema's type there (None beyond an unknown key).

    Pydantic also counts an authenticator's type and the word "[key]" as parts.
    """
    words, kind = [], _bare(schema)
    for part in parts:
        if part == "[key]":
            break
        if isinstance(kind, tuple):
            kind = next(one for one in kind if one.model_fields["type"].default == part)
            continue
        words.append(str(part))
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            known = kind.model_fields.get(str(part))
            kind = _bare(known.annotation) if known else None
        else:  # a list or a mapping
            kind = _bare(get_args(kind)[1 if get_origin(kind) is dict else 0])
    return ".".join(words), kind


def _bare(kind: Any) -> Any:
    """Return a type without its annotations and without None; the variants of an authenticator as a tuple."""
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    if get_origin(kind) in {Union, UnionType}:
        variants = [one for one in get_args(kind) if one is not NoneType]
        return _bare(variants[0]) if len(variants) == 1 else tuple(variants)
    return kind


def _wrong(error: ErrorDetails) -> str:
    """Return in words what is wrong with a value."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    told = _as_yaml(value) if isinstance(value, bool) else repr(value)[:80]
    why = context.get("error")
    if value is None and not (why and not isinstance(why, SciplatError)):
        return "nothing stands here; leave the key out for the default"
    if why:
        return _in_a_line(why)
    if kind == "literal_error":
        return _choice(told, context["expected"])
    what = {
        "missing": "missing",
        "too_short": "at least one is needed",
        "greater_than_equal": f"{told} is less than {context.get('ge')}",
        "finite_number": f"{told} is no number",
        "string_type": f'{told} is not text; try "{_as_yaml(value)}"',
        "int_type": f"{told} is not a whole number; try 4",
        "float_type": f"{told} is not a number; try 100",
        "tuple_type": f"{told} is not a list; try [{_as_yaml(value)}]",
        "dict_type": f"{told} is not a section; try lines of `name: value`",
        "model_type": f"{told} is not a section; try lines of `key: value`",
        "model_attributes_type": f"{told} is not a section; try lines of `key: value`",
    }
    return what.get(kind, error["msg"])


def _as_yaml(value: Any) -> str:
    """Return a value as the file may have it: YAML reads `no` and `1` as something else than text."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)[:80]


def _in_a_line(error: Exception) -> str:
    if not isinstance(error, SciplatError):
        return str(error)
    found = f", found {error.found}" if error.found else ""
    return f"{error.what}{found}" + (f"; try {error.hint}" if error.hint else "")


def _choice(told: str, expected: str) -> str:
    known = re.findall(r"'([^']*)'", expected)
    near = _near(told.strip("'"), known)
    return f"{told} is none of {', '.join(known)}" + (f"; try {near[0]}" if near else "")


def _unknown(name: str, known: list[str]) -> str:
    near = _near(name, known)
    return f"unknown key; try {near[0]}" if near else f"unknown key; known: {', '.join(known)}"


def _near(word: str, known: list[str]) -> list[str]:
    """Return what a word was meant to be: the same letters in another order before anything else that is like it."""
    word = word.lower()
    return [one for one in known if sorted(one) == sorted(word)] or get_close_matches(word, known, 1)
