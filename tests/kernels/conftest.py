"""What the tests of the kernels share."""

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture
def interpret(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that puts plain Python in place of the compiled functions of kernel modules."""

    def replace(*modules: ModuleType) -> None:
        for module in modules:
            for name, value in vars(module).copy().items():
                if hasattr(value, "py_func"):
                    monkeypatch.setattr(module, name, value.py_func)

    return replace
