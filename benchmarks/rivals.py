"""What every benchmark needs: versions, the machine, and clocks that are fair to both sides."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vectors = NDArray[np.float64]
Places = NDArray[np.int64]
_CHILD = """
import importlib, json, sys
module, name, arguments = sys.argv[1:]
print(json.dumps(getattr(importlib.import_module(module), name)(*json.loads(arguments))))
"""


def versions(*names: str) -> dict[str, str]:
    """Return the versions of Python, the named distributions and our own commit."""
    found = {"python": platform.python_version(), "commit": _commit()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> str:
    """Return one line about the processor and its cores."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), model)
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"


def best_of(callables: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the shortest time of each callable in seconds.

    The callables take turns, so that a busy moment of the machine meets all of them; one call before the clock
    starts pays for compilation and cold caches.
    """
    best = dict.fromkeys(callables, float("inf"))
    for function in callables.values():
        function()
    for _ in range(repeats):
        for name, function in callables.items():
            start = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function of a module gives in a process of its own; both ways go JSON values.

    Raises
    ------
    RuntimeError
        If it fails, with what it said.
    """
    module = function.__module__
    if module == "__main__":
        module = sys.modules[module].__spec__.name
    command = [sys.executable, "-c", _CHILD, module, function.__name__, json.dumps(arguments)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{function.__name__} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def timed_program(command: Sequence[str]) -> tuple[float, int]:
    """Run a program; return its seconds and its largest memory in bytes.

    Raises
    ------
    RuntimeError
        If it fails.
    """
    start = time.perf_counter()
    running = subprocess.Popen(command)
    _, status, usage = os.wait4(running.pid, 0)
    running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode:
        raise RuntimeError(f"{command[0]} failed")
    return time.perf_counter() - start, 1024 * usage.ru_maxrss


def unit_vectors(ra: ArrayLike, dec: ArrayLike) -> Vectors:
    """Return positions given in degrees as vectors, shape (n, 3)."""
    lon, lat = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def tree_pairs(left: Vectors, right: Vectors, radius: float, **building: bool) -> tuple[Places, Places]:
    """Return the places of left vectors that have a right one within `radius` (arcsec), and of the nearest ones."""
    from scipy.spatial import cKDTree

    tree = cKDTree(right, **building)
    place = tree.query(left, distance_upper_bound=2 * np.sin(np.radians(radius / 3600) / 2))[1]
    near = np.flatnonzero(place < len(right))
    return near, place[near]


@contextmanager
def workers_of_lsdb(processes: int) -> Iterator[Any]:
    """Yield the Dask client of so many workers that have loaded lsdb, of one thread each; of none, one works here."""
    from distributed import Client, LocalCluster

    size = {"n_workers": max(processes, 1), "threads_per_worker": 1, "processes": processes > 0}
    with LocalCluster(**size, dashboard_address=":0") as cluster, Client(cluster) as client:
        client.run(import_module, "lsdb")
        yield client


def import_by_hats(client: Any, files: Path, catalog: Path) -> None:
    """Let hats-import make a catalog of a folder of Parquet files, with all its defaults."""
    from hats_import.catalog.arguments import ImportArguments
    from hats_import.pipeline import pipeline_with_client

    target = {"output_path": catalog.parent, "output_artifact_name": catalog.name, "tmp_dir": catalog.parent}
    pipeline_with_client(ImportArguments(input_path=files, file_reader="parquet", progress_bar=False, **target), client)


def margin_by_hats(client: Any, catalog: Path, margin: Path, threshold: float) -> None:
    """Let hats-import make the margin of a HATS catalog, with the rows within `threshold` arcsec of each cell."""
    from hats_import.margin_cache.margin_cache_arguments import MarginCacheArguments
    from hats_import.pipeline import pipeline_with_client

    target = {"output_path": margin.parent, "output_artifact_name": margin.name, "tmp_dir": margin.parent}
    about = MarginCacheArguments(input_catalog_path=catalog, margin_threshold=threshold, progress_bar=False, **target)
    pipeline_with_client(about, client)


def peak_bytes(pid: int | str = "self") -> int:
    """Return the largest memory that a process has had so far."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])


def command_line(
    run: Callable[..., dict[str, Any]], description: str | None, switches: Mapping[str, str] | None = None
) -> None:
    """Run a benchmark as its command line says, print its figures and write them where it says.

    Parameters
    ----------
    run : callable
        Takes ``small=`` and the further switches, and returns JSON values.
    description : str or None
        For --help.
    switches : mapping, optional
        What --help says of each further switch.
    """
    parser = argparse.ArgumentParser(description=description)
    known = {"small": "a small case, to see that it works", **(switches or {})}
    for name, about in known.items():
        parser.add_argument(f"--{name}", action="store_true", help=about)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    text = json.dumps(run(**{name: getattr(arguments, name) for name in known}), indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        here = Path(__file__).parent
        return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
