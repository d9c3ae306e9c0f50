"""Versions of the packages that must be the same in a notebook and in its cluster."""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("python", "sciplat", "dask", "distributed", "numpy", "pyarrow", "numba")


def installed_versions() -> dict[str, str]:
    """Return the versions of this environment by name; what is not installed is left out. Imports none of them."""
    found = {"python": platform.python_version()}
    for name in PACKAGES[1:]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def mismatches(client: Mapping[str, str], cluster: Mapping[str, str]) -> list[str]:
    """Return what differs between two environments, a line for each package.

    Parameters
    ----------
    client, cluster : mapping of str to str
        As `installed_versions` gives them in either.

    Returns
    -------
    list of str
        Of Python only the first two numbers must be the same, of all others everything.
    """
    lines = []
    for name in PACKAGES:
        here, there = client.get(name, "none"), cluster.get(name, "none")
        if _compared(name, here) != _compared(name, there):
            lines.append(f"{name}: {here} here, {there} on the cluster")
    return lines


def _compared(name: str, text: str) -> str:
    return ".".join(text.split(".")[:2]) if name == "python" else text
