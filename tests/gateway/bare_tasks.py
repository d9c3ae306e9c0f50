"""Tasks for workers in processes of their own, which import this and little else."""

import threading
import time
from pathlib import Path

from distributed import get_worker

from sciplat.gateway.inside.worker_preload import WARM_UP


def name_and_time(_, folder=None):
    """Return which worker ran this, and when."""
    begun = time.time()
    if folder is not None:
        with (Path(folder) / "runs").open("a") as file:
            file.write(".")
    time.sleep(0.02)
    return get_worker().name, begun


def finish(seconds):
    """Return which worker ran this after some seconds, and when it began."""
    begun = time.time()
    time.sleep(seconds)
    return get_worker().name, begun


def last_for_ever_once(folder):
    """Not end before the worker does, but only the first time."""
    if (Path(folder) / "begun").exists():
        return get_worker().name
    (Path(folder) / "begun").write_text(get_worker().name)
    time.sleep(600)
    return None


def is_warming_up(_):
    """Return whether the warm-up still runs."""
    return WARM_UP in {thread.name for thread in threading.enumerate()}
