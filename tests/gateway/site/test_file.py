"""Reading the file: typos of every key, wrong values at every place, and texts that are no YAML."""

import copy
from functools import cache

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sciplat.errors import SiteError
from sciplat.gateway.site.file import problems_of, read_yaml
from sciplat.gateway.site.schema import Site, load_site
from tests.gateway.site_scene import FULL

_NAMES = {("profiles",), ("quotas", "users"), ("quotas", "groups"), ("profiles", "large", "variables")}  # chosen freely


@cache
def _full():
    return yaml.safe_load(FULL)


def _places(value, place=()):
    """Yield every place of the file, sections and lists included."""
    if place:
        yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from _places(one, (*place, key))


def _section(data, place):
    for part in place:
        data = data[part]
    return data


def _problems(data, folder):
    with pytest.raises(ValidationError) as refused:
        Site.model_validate(data, context=folder)
    return problems_of(refused.value, Site)


def _slips(key):
    """Yield what a hurried hand makes of a key: a letter lost, doubled, wrong, or swapped with the next one."""
    for at, letter in enumerate(key):
        before, after = key[:at], key[at + 1 :]
        yield before + after
        yield before + letter + letter + after
        yield before + "z" + after
        yield before + after[:1] + letter + after[1:]
    yield from (key.upper(), key.replace("_", "-"), key + "s", f"{key} ")


_KEYS = [place for place in _places(_full()) if isinstance(place[-1], str) and place[:-1] not in _NAMES]


def test_the_full_file_has_every_key_of_the_schema():
    def count(schema):
        inner = schema.get("$defs", {}).values()
        return len(schema.get("properties", {})) + sum(len(one.get("properties", {})) for one in inner)

    quotas = [place for place in _KEYS if place[:2] in {("quotas", "users"), ("quotas", "groups")} and len(place) > 2]
    assert len(_KEYS) - len(quotas) == count(Site.model_json_schema())


@pytest.mark.parametrize("place", _KEYS, ids=lambda place: ".".join(map(str, place)))
def test_a_slip_in_a_key_is_refused_with_the_right_word(place, tmp_path):
    key, known = place[-1], set(_section(_full(), place[:-1]))
    for slip in set(_slips(key)) - known:
        data = copy.deepcopy(_full())
        section = _section(data, place[:-1])
        section[slip] = section.pop(key)
        line = f"{'.'.join(map(str, (*place[:-1], slip)))}: unknown key; try {key}"
        assert line in _problems(data, tmp_path)


def test_a_key_like_no_other_is_told_what_there_is(tmp_path):
    assert _problems({"limits": {"zzz": 1}}, tmp_path) == [
        "limits.zzz: unknown key; known: idle, lifetime, start, logs"
    ]
    assert _problems({"limits": {1: 1}}, tmp_path) == ["limits.1: unknown key; known: idle, lifetime, start, logs"]


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates() | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(list(_places(_full()))), _VALUES)
def test_a_wrong_value_is_told_at_its_place(place, value):
    data = copy.deepcopy(_full())
    _section(data, place[:-1])[place[-1]] = value
    try:
        Site.model_validate(data, context="/etc/site")
    except ValidationError as error:
        problems = problems_of(error, Site)
    else:
        return
    consequences = ("profiles.large.gpu_type: of no use", "profiles.large.max_")
    assert problems
    assert all(line.startswith((".".join(map(str, place)), *consequences)) for line in problems)


@given(_VALUES)
def test_whatever_yaml_holds_is_a_site_or_problems(value):
    try:
        Site.model_validate(value, context="/etc/site")
    except ValidationError as error:
        problems = problems_of(error, Site)
    else:
        return
    assert problems
    assert all(": " in line for line in problems)


@pytest.mark.parametrize(
    "file",
    [b"a: [", b"\xff\xfe\x00", b"\0", b"a: b: c", b"a: 1\n---\na: 2\n", b"? {a: 1}\n: 2", b"a: *nothing", b"\tname: x",
     b"!!python/object/apply:os.getcwd []", b'a: !!int ""', b"a: !!timestamp x", b"a: !!bool x",
     b"a: " + b"[" * 5000],
)  # fmt: skip
def test_what_is_no_yaml(file, tmp_path):
    path = tmp_path / "site.yaml"
    path.write_bytes(file)
    with pytest.raises(SiteError, match="is not YAML") as refused:
        load_site(path)
    assert refused.value.found
    assert "\n" not in refused.value.found


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SiteError, match=r"nothing\.yaml cannot be read") as refused:
        load_site(tmp_path / "nothing.yaml")
    assert refused.value.found == "No such file or directory"
    with pytest.raises(SiteError, match="cannot be read"):
        load_site(tmp_path)


def test_the_line_of_a_mistake_in_yaml(tmp_path):
    (tmp_path / "site.yaml").write_text("name: x\nledger: 'secret\n")
    with pytest.raises(SiteError) as refused:
        load_site(tmp_path / "site.yaml")
    assert refused.value.found.startswith("line 3: ")
    assert "secret" not in str(refused.value)


def test_keys_that_stand_twice_are_told_with_their_lines(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: {b: 1, b: 2}\nc:\n  - d: 1\n    e: 2\n    d: 3\na: 4\n")
    _, twice = read_yaml(path)
    assert twice == [
        "line 1: 'b' stands here again, after line 1",
        "line 5: 'd' stands here again, after line 3",
        "line 6: 'a' stands here again, after line 1",
    ]


def test_merged_keys_do_not_stand_twice(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {b: 1, c: 2}\nd: {<<: *a, b: 3}\n")
    assert read_yaml(path) == ({"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}}, [])
