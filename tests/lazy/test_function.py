import functools
import math
import os
import subprocess
import sys
import textwrap
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciplat.lazy.function import function_record

STEPS = """
import dataclasses, enum, functools, math
from collections import namedtuple
import numba
import numpy as np
import pyarrow as pa
from astropy import units as u

LIMIT = 20.5
BANDS = ("g", "r")
NAMES = {"g": [1, 2], "r": {"x", "y", "z", "w"}}
WEIGHTS = np.array([1.0, 2.0])
RADIUS = 2 * u.arcsec
SCHEMA = pa.schema([pa.field("mag", pa.float64(), metadata={"unit": "mag"})])
Row = namedtuple("Row", "a b", defaults=[3])


class Kind(enum.Enum):
    STAR = "star"
    GALAXY = "galaxy"


def clean(x, low=0.0, *, high=9.0):
    return spread(x, low) if x else high


def spread(x, low):
    return clean(None) + LIMIT * x + low


@functools.lru_cache
def cached(x):
    return spread(x, 0)


@numba.njit(fastmath=True)
def compiled(x):
    return x + 1.5


def decorate(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)
    return wrapper


@decorate
def decorated(x):
    return x in {"a", "b", "c", "d"} and x not in {1, 2.5, None}


def step(table):
    kept = [clean(x) for x in table if x in {"u", "g", "r", "i"} and x in BANDS]
    kind = Kind("star"), Row(1, 2), NAMES, WEIGHTS, RADIUS, SCHEMA, decorated, compiled, cached

    class Inner:
        size = LIMIT

        def get(self):
            return super().__repr__(), math.pi, undefined

    return lambda: (kept, kind, Inner)


@dataclasses.dataclass(frozen=True)
class Config:
    size: int = 3
    names: frozenset = frozenset({"a", "b", "c"})
    tags: list = dataclasses.field(default_factory=list)


class Slotted:
    __slots__ = ("width",)


class Base:
    FACTOR = 3.0

    @staticmethod
    def double(x):
        return 2 * x

    @classmethod
    def make(cls, x):
        return cls(x)

    @property
    def half(self):
        return self.scale / 2


class Step(Base):
    def __init__(self, scale):
        self.scale = scale
        self.config = Config()
        self.me = self
        self.parts = {"b": {1, 2}, "a": (WEIGHTS, RADIUS, SCHEMA, Kind.STAR)}
        self.slotted = Slotted()
        self.slotted.width = 7
        self.array = np.array(["x", None], dtype=object)

    @functools.cached_property
    def computed(self):
        return self.scale * 2

    def run(self, table):
        return table * self.scale

    def __call__(self, table):
        return self.run(table) + self.computed
"""
MADE = ("step", "cached", "compiled", "decorated", "Step", "Step.make", "Step(2.0)", "Step(2.0).run", "Row")
MADE = (*MADE, "functools.partial(step, 1, k={'a', 'b', 'c'})", "lambda x: x + LIMIT")


@pytest.fixture
def load(monkeypatch):
    """Return a function that makes a module of some source and returns one of its names."""

    def build(source, name="step"):
        module = ModuleType("steps_of_a_user")
        monkeypatch.setitem(sys.modules, "steps_of_a_user", module)
        exec(compile(textwrap.dedent(source), "anywhere.py", "exec"), module.__dict__)
        return eval(name, module.__dict__)

    return build


@pytest.fixture
def digest(load):
    return lambda source, name="step": function_record(load(source, name))["digest"]


def in_a_process(folder, code, seed):
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONHASHSEED": str(seed)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=folder
    )
    return done.stdout.splitlines()


def test_the_digest_is_the_same_in_every_process_and_folder(tmp_path):
    code = "from sciplat.lazy.function import function_record\nfrom steps_here import *\nimport steps_here\n"
    code += f"for name in {MADE}:\n    print(name, function_record(eval(name, vars(steps_here)))['digest'])\n"
    found = []
    for seed in (0, 1, 77):
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "steps_here.py").write_text("# a comment\n" * seed + STEPS)
        found.append(in_a_process(folder, code, seed))
    assert found[0] == found[1] == found[2]
    assert len({line.split()[-1] for line in found[0]}) == len(MADE)


def test_the_compiled_file_gives_the_digest_of_the_source(tmp_path):
    (tmp_path / "steps_here.py").write_text(STEPS)
    code = "import steps_here; from sciplat.lazy.function import function_record as r; print(r(steps_here.step))"
    first = in_a_process(tmp_path, code, 1)
    assert list((tmp_path / "__pycache__").glob("steps_here*.pyc"))
    assert in_a_process(tmp_path, code, 2) == first


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("step", "LIMIT = 20.5", "LIMIT = 20.6"),
        ("step", 'BANDS = ("g", "r")', 'BANDS = ("r", "g")'),
        ("step", '[1, 2], "r"', '[1, 3], "r"'),
        ("step", '"z", "w"}', '"z", "v"}'),
        ("step", "np.array([1.0, 2.0])", "np.array([1.0, 2.5])"),
        ("step", "np.array([1.0, 2.0])", "np.array([1.0, 2.0], dtype='f4')"),
        ("step", "np.array([1.0, 2.0])", "np.array([[1.0, 2.0]])"),
        ("step", "2 * u.arcsec", "2 * u.arcmin"),
        ("step", '{"unit": "mag"}', '{"unit": "mmag"}'),
        ("step", "defaults=[3]", "defaults=[4]"),
        ("step", 'GALAXY = "galaxy"', 'GALAXY = "gal"'),
        ("step", "low=0.0", "low=0.5"),
        ("step", "high=9.0", "high=9.5"),
        ("step", "def clean(x, low", "def clean(x, lo"),
        ("step", "LIMIT * x + low", "LIMIT * x - low"),
        ("step", "LIMIT * x + low", "math.sin(LIMIT * x) + low"),
        ("step", "fastmath=True", "fastmath=False"),
        ("step", "x + 1.5", "x + 1.25"),
        ("step", "{1, 2.5, None}", "{1, 2.25, None}"),
        ("step", '"r", "i"}', '"r", "z"}'),
        ("step", "size = LIMIT", "width = LIMIT"),
        ("step", "math.pi", "math.e"),
        ("step", "undefined", "unknown"),
        ("step", "return spread(x, 0)", "return spread(x, 1)"),
        ("Step(2.0)", "table * self.scale", "table / self.scale"),
        ("Step(2.0)", "2 * x", "3 * x"),
        ("Step(2.0)", "self.scale / 2", "self.scale / 3"),
        ("Step(2.0)", "self.scale * 2", "self.scale * 4"),
        ("Step(2.0)", "return cls(x)", "return cls(x + 1)"),
        ("Step(2.0)", "FACTOR = 3.0", "FACTOR = 4.0"),
        ("Step(2.0)", "size: int = 3", "size: int = 4"),
        ("Step(2.0)", "default_factory=list", "default_factory=set"),
        ("Step(2.0)", '{1, 2}, "a"', '{1, 3}, "a"'),
        ("Step(2.0)", "width = 7", "width = 8"),
        ("Step(2.0)", '["x", None]', '["y", None]'),
        ("Step(2.0)", "Kind.STAR)", "Kind.GALAXY)"),
        ("Step(2.0).run", "table * self.scale", "table / self.scale"),
        ("Step.make", "return cls(x)", "return cls(x + 1)"),
        ("cached", "LIMIT = 20.5", "LIMIT = 20.6"),
        ("functools.partial(step, 1)", "LIMIT = 20.5", "LIMIT = 20.6"),
    ],
)
def test_a_change_of_what_is_used_changes_the_digest(digest, name, old, new):
    assert old in STEPS
    assert digest(STEPS.replace(old, new), name) != digest(STEPS, name)


@pytest.mark.parametrize(
    ("first", "second"),
    [("Step(2.0)", "Step(2.5)"), ("Step(2.0).run", "Step(2.5).run")]
    + [
        ("functools.partial(step, 1)", other)
        for other in ("functools.partial(step, 2)", "functools.partial(step, a=1)")
    ],
)
def test_other_state_is_another_digest(digest, first, second):
    assert digest(STEPS, first) != digest(STEPS, second)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    kept = [", "    # what is kept\n\n    kept = ["),
        (
            "    return spread(x, low) if x else high",
            "    return (\n        spread(x, low)\n        if x\n        else high\n    )",
        ),
        ("2 * x", "(\n            2\n            * x  # twice\n        )"),
        ("LIMIT = 20.5", "OTHER = 1\n\n\nLIMIT = 20.5  # mag"),
        ("import dataclasses, enum", "import os, dataclasses, enum"),
    ],
)
@pytest.mark.parametrize("name", ["step", "Step(2.0)"])
def test_comments_lines_and_what_is_not_used_do_not_matter(digest, name, old, new):
    assert old in STEPS
    assert digest(STEPS.replace(old, new), name) == digest(STEPS, name)


def test_the_form_of_a_try_block_does_not_matter_but_its_extent_does(digest):
    short = "def step(x):\n    try: x()\n    except ValueError: x.a()\n    finally: x.b()\n"
    long = "def step(x):\n    try:\n        x()\n    except ValueError:\n        x.a()\n    finally:\n        x.b()\n"
    assert digest(short) == digest(long)
    inside = "def step(x):\n    try:\n        x()\n        x.c()\n    except ValueError:\n        pass\n"
    outside = "def step(x):\n    x()\n    try:\n        x.c()\n    except ValueError:\n        pass\n"
    assert digest(inside) != digest(outside)


def test_functions_that_call_themselves_and_each_other_have_a_digest(digest):
    pair = "def step(n):\n    return n and other(n)\ndef other(n):\n    return step(n - 1)\n"
    assert digest(pair) == digest(pair)
    assert digest(pair) != digest(pair.replace("n - 1", "n - 2"))
    many = [f"def f{i}(n):\n    return " + " + ".join(f"f{k}(n)" for k in range(40)) for i in range(40)]
    crowd = "\n".join(many)
    assert digest(crowd, "f0") != digest(crowd.replace("f39(n)", "f39(n + 1)", 1), "f0")
    alone = "def step(n):\n    return step(n - 1) if n else 0\n"
    assert digest(alone) != digest(alone.replace("else 0", "else 1"))


def test_a_value_that_holds_itself_has_a_digest(digest):
    ring = "RING = [1]\nRING.append({'ring': RING})\ndef step(x):\n    return RING\n"
    assert digest(ring) == digest(ring)
    assert digest(ring) != digest(ring.replace("[1]", "[2]"))


def closing_over(value):
    return lambda table: (table, value)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
)


def of_one_kind(first, second):
    """Tell True from 1, 0.0 from -0.0, and the order of a dictionary."""
    return repr(first) == repr(second)


@given(values, values)
def test_two_closure_values_have_two_digests(first, second):
    digests = [function_record(closing_over(value))["digest"] for value in (first, second)]
    assert (digests[0] == digests[1]) == of_one_kind(first, second)


@given(st.sets(st.integers() | st.text()))
def test_the_order_of_a_set_does_not_matter(members):
    there, back = sorted(members, key=repr), sorted(members, key=repr, reverse=True)
    first, second = (function_record(closing_over(set(order)))["digest"] for order in (there, back))
    assert first == second
    assert function_record(closing_over({*members, 0.5}))["digest"] != first


def test_arrays_are_told_apart_by_type_shape_and_content():
    a = np.arange(6.0)
    grid = a.reshape(2, 3)
    gaps = np.zeros(2, dtype=np.dtype([("a", "i1"), ("b", "f8")], align=True))
    filled = np.frombuffer(bytearray(b"\1" * gaps.nbytes), gaps.dtype).copy()
    filled["a"], filled["b"] = 0, 0
    different = [a, grid, grid.T, a.astype("f4"), a.astype(">f8"), a + 1, a[::2], np.ma.masked_less(a, 2)]
    different += [gaps, np.array(["a"]), np.array(["a"], dtype=object), np.float64(1), np.array(1.0), a.astype("M8[s]")]
    digests = [function_record(closing_over(value))["digest"] for value in different]
    assert len(set(digests)) == len(digests)
    assert function_record(closing_over(np.asfortranarray(grid)))["digest"] == digests[1]
    assert function_record(closing_over(filled))["digest"] == digests[8]  # bytes between fields mean nothing


def test_equal_texts_count_as_equal_whether_or_not_they_are_one_object():
    text, other = (b"mag_g".decode() for _ in range(2))
    assert text is not other
    pairs = [pa.schema([(text, pa.int64())]), (text, text)], [pa.schema([(other, pa.int64())]), (text, other)]
    first, second = (function_record(closing_over(pair))["digest"] for pair in pairs)
    assert first == second


def test_a_computed_attribute_is_no_state(load):
    step = load(STEPS, "Step(2.0)")
    before = function_record(step)
    assert step(1.0) == 6.0
    assert function_record(step) == before


def test_an_unassigned_closure_variable_is_no_obstacle():
    def step(table):
        return later(table)

    before = function_record(step)["digest"]
    later = len
    assert function_record(step)["digest"] != before


@pytest.mark.parametrize("builtin", [len, math.sqrt, str.upper, [].append, np.hypot, np.mean, int, print])
def test_builtin_and_c_functions_have_a_digest_by_their_name(builtin):
    assert function_record(builtin)["digest"] == function_record(builtin)["digest"]
    assert function_record(builtin)["digest"] != function_record(math.cos)["digest"]


def test_names_for_people():
    named = {closing_over: "closing_over", functools.partial(len): "partial of len", np.mean: "mean"}
    assert {function: function_record(function)["name"] for function in named} == named
    assert function_record(lambda: 1)["name"].endswith("<lambda>")


def test_only_what_a_fresh_process_can_import_has_a_path(load):
    assert function_record(math.sqrt)["import"] == "math:sqrt"
    assert function_record(closing_over)["import"] == f"{__name__}:closing_over"
    assert function_record(Fits.make)["import"] == f"{__name__}:Fits.make"
    nowhere = [closing_over(1), functools.partial(len), Fits().use, Fits(), load(STEPS), load(STEPS, "Step(1)")]
    assert [function_record(function)["import"] for function in nowhere] == [None] * 6


class Fits:
    @classmethod
    def make(cls):
        return cls()

    def use(self):
        return self

    def __call__(self, table):
        return table


def test_a_function_of_the_main_script_has_no_path(tmp_path):
    code = "from sciplat.lazy.function import function_record\ndef f(x): return x\nprint(function_record(f)['import'])"
    assert in_a_process(tmp_path, code, 0) == ["None"]
