"""The one decorator of all kernels, and where their compiled code is kept.

Compiled code is cached on disk so that a fresh process does not compile again. numba's cache is pickled, and
whoever can write to it can run code as its reader: the folder is private (0700) or there is no cache at all.
"""

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` on its first call: no GIL, numpy's rules for division by zero, cached on disk.

    `SCIPLAT_KERNEL_CACHE` names the cache folder; the default is `sciplat/kernels` in the user's cache folder.
    """
    folder = _private_folder()
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    if folder is not None:
        # numba reads the setting once, here; put back, it leaves the caches of other libraries alone
        before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
        try:
            dispatcher.enable_caching()
        finally:
            numba.config.CACHE_DIR = before
    return dispatcher


def _private_folder() -> Path | None:
    """Return the cache folder if it is ours alone, otherwise None."""
    named = os.environ.get("SCIPLAT_KERNEL_CACHE")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    top = Path(named) if named else caches / "sciplat" / "kernels"
    folder = top / _digest()
    try:
        top.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.stat()
    except OSError:
        return None
    private = status.st_uid == os.getuid() and not status.st_mode & 0o077
    return folder if private else None


@lru_cache(maxsize=1)
def _digest() -> str:
    """Return a name for the present kernels: numba does not notice when a kernel that another one calls changes."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
