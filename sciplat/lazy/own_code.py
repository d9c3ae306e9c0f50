"""Which modules are the user's own: they may change between two runs, where installed ones change by an upgrade."""

import ast
import hashlib
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path


def is_installed(file: Path) -> bool:
    """Return whether a file came with Python or with a package."""
    places = (Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))
    return any(file.is_relative_to(place) for place in places)


def own_digest(module: str) -> bytes:
    """Return a digest of the source of a module that is the user's own, nothing for any other.

    Comments and the way the source is laid out do not count. sciplat is no user's, wherever it lies.
    """
    name = getattr(sys.modules.get(module), "__file__", None)
    file = Path(name) if name else None
    own = file is not None and file.suffix == ".py" and module.partition(".")[0] != "sciplat"
    if file is None or not own or is_installed(file) or not file.is_file():
        return b""
    return _digest(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _digest(file: Path, changed: int) -> bytes:  # noqa: ARG001  # read anew once it has changed
    return hashlib.sha256(ast.dump(ast.parse(file.read_bytes())).encode()).digest()
