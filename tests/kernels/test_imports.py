"""The kernels depend on numpy, numba and math only."""

import ast
from pathlib import Path

import pytest

import sciplat.kernels

FILES = sorted(Path(sciplat.kernels.__file__).parent.glob("*.py"))
ALLOWED = {"numpy", "numba", "math", "sciplat.kernels"}
ALLOWED_IN = {"_jit.py": {"os", "functools", "hashlib", "pathlib", "typing", "collections.abc"}}


def imported(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


def is_kernel(name: str) -> bool:
    return name.startswith("sciplat.kernels.")


def test_the_check_sees_every_form_of_import():
    source = "import os.path as p, numpy\nfrom scipy import fft\ndef f():\n    from . import dask"
    assert imported(source) == {"os.path", "numpy", "scipy", "."}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_kernel_imports_only_what_is_allowed(path):
    names = {name for name in imported(path.read_text()) if not is_kernel(name)}
    assert names <= ALLOWED | ALLOWED_IN.get(path.name, set())
