import sys

import numpy as np
import pytest

from sciplat.lazy.function import function_record
from sciplat.lazy.own_code import own_digest


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Return a function that writes a step, which uses a threshold of another module, and loads it anew."""
    monkeypatch.syspath_prepend(tmp_path)

    def load(threshold):
        (tmp_path / "own_limits.py").write_text(threshold)
        (tmp_path / "own_step.py").write_text("import own_limits\n\ndef step(t):\n    return t, own_limits.LIMIT\n")
        for name in ("own_limits", "own_step"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        import own_step

        return function_record(own_step.step)["digest"]

    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    yield load
    sys.dont_write_bytecode = before


def test_a_change_in_another_module_of_the_user_is_another_function(modules):
    first = modules("LIMIT = 5\n")
    assert modules("LIMIT = 7  # seven\n") != first
    assert modules("# only a comment\nLIMIT  =  5\n") == first


@pytest.mark.parametrize("module", ["numpy", "json", "sciplat.errors", "no_such_module", "builtins"])
def test_what_is_installed_counts_by_name_only(module):
    assert np
    assert own_digest(module) == b""
