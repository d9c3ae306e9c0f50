"""What every benchmark needs: versions, the machine, and clocks that are fair to both sides."""

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any


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


def command_line(run: Callable[..., dict[str, Any]], description: str | None) -> None:
    """Run a benchmark as its command line says, print its figures and write them where it says.

    Parameters
    ----------
    run : callable
        Takes ``small=`` and returns JSON values.
    description : str or None
        For --help.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--small", action="store_true", help="a small case, to see that it works")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    text = json.dumps(run(small=arguments.small), indent=1)
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
