"""Functions that are sent to workers, and functions that a recorded plan names."""

import functools
import importlib
import sys
import threading

import numpy as np
import pytest

from sciplat.errors import ArgumentError, PlanChanged
from sciplat.lazy.function import check_sendable, function_record, load_function


def closing_over(value):
    return lambda table: (table, value)


class Step:
    def use(self):
        return self

    def __call__(self, table):
        return table


@pytest.mark.parametrize("held", [threading.Lock(), (i for i in range(3)), sys._getframe()])
def test_what_belongs_to_a_process_is_refused_by_name(held):
    step = closing_over([held])
    with pytest.raises(
        ArgumentError, match=r"closing_over.<locals>.<lambda> cannot be sent(.|\n)*value = \[<(.|\n)*try"
    ):
        check_sendable(step)
    with pytest.raises(ArgumentError, match=r"closing_over.<locals>.<lambda> cannot be recorded(.|\n)*it uses <"):
        function_record(step)


@pytest.mark.parametrize("mode", ["r", "rb", "w"])
def test_an_open_file_is_refused(tmp_path, mode):
    (tmp_path / "list.txt").write_text("1")
    with (tmp_path / "list.txt").open(mode) as file:
        for step in (closing_over(file), functools.partial(closing_over, file)):
            with pytest.raises(ArgumentError, match=r"(?s)an open file.*open it inside the function"):
                check_sendable(step)
            with pytest.raises(ArgumentError, match="cannot be recorded"):
                function_record(step)


def test_what_can_travel_is_not_refused():
    for function in (closing_over(np.arange(3)), functools.partial(len), np.mean, Step(), Step().use, Step):
        check_sendable(function)


def test_values_nested_without_end_are_refused():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ArgumentError, match="nested too deeply"):
        function_record(closing_over(deep))
    while deep:
        deep = deep[0]  # freeing it at once would recurse, too


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that writes a module anew and forgets the old one."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two texts in one second would share it

    def write(text):
        (tmp_path / "steps_of_a_plan.py").write_text(text)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, "steps_of_a_plan", raising=False)
        return importlib.import_module("steps_of_a_plan")

    yield write
    sys.modules.pop("steps_of_a_plan", None)


def test_a_recorded_function_is_loaded(module):
    steps = module("class Steps:\n    @staticmethod\n    def run(x):\n        return x + 1\n")
    record = function_record(steps.Steps.run)
    assert record["import"] == "steps_of_a_plan:Steps.run"
    assert load_function(record)(1) == 2


def test_changed_code_is_refused(module):
    record = function_record(module("def run(x):\n    return x + 1\n").run)
    module("def run(x):\n    return x + 2\n")
    with pytest.raises(PlanChanged, match="has changed since"):
        load_function(record)
    module("# only a comment\ndef run(x):\n    return x + 1\n")
    assert load_function(record)(1) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "AttributeError"),
        ("run = 3", "cannot be called"),
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("import no_such_module_anywhere", "ModuleNotFoundError"),
    ],
)
def test_a_module_that_does_not_give_the_function_is_refused(module, tmp_path, text, message):
    record = function_record(module("def run(x):\n    return x + 1\n").run)
    sys.modules.pop("steps_of_a_plan")
    (tmp_path / "steps_of_a_plan.py").write_text(text)
    with pytest.raises(PlanChanged, match=message):
        load_function(record)


def test_what_cannot_be_imported_is_refused_with_a_way_out():
    with pytest.raises(PlanChanged, match=r"(?s)cannot be imported.*put it into a module"):
        load_function(function_record(closing_over(1)))


@pytest.mark.parametrize(
    "path", ["", "os", "os:", ":x", "os.system", "../os:x", "os:system()", "a b:c", "os:path:join", 3]
)
def test_only_plain_paths_are_imported(path):
    with pytest.raises(PlanChanged, match="module:name"):
        load_function({"import": path, "name": "x", "digest": ""})


def test_an_incomplete_record_is_refused():
    for record in ({}, {"import": "math:sqrt"}):
        with pytest.raises(PlanChanged):
            load_function(record)
