"""What a user of a gateway does, on the clock: a program of its own, in the environment that its clusters have too.

It reads from its input what to do, as JSON, and prints figures as JSON. What it needs is imported before a clock
starts.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import distributed  # noqa: F401
from dask_gateway import BasicAuth, Gateway

import sciplat
from sciplat.gateway.client.connection import Connection
from sciplat.gateway.client.login import find_login
from sciplat.lazy.catalog import Catalog

_PATIENCE = 60  # seconds in which the first worker is there
_LOOK = 0.002


class Clock:
    """Seconds since it was made, by the name of what was reached."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self.reached: dict[str, float] = {}

    def reach(self, name: str) -> None:
        self.reached[name] = time.perf_counter() - self._begin


def start(*, client: str, user: str, scene: str, result: str) -> dict[str, Any]:
    """Open a cluster of one worker, run one task, and measure a scene; return when each was done, in seconds."""
    plan = photometry(scene, radii=["2 arcsec", "5 pix", "8 pix"], annulus=("10 pix", "15 pix"))
    opened = by_sciplat if client == "sciplat" else by_dask_gateway
    clock = Clock()
    with opened(user, clock) as (name, dask):
        clock.reach("connected")
        dask.wait_for_workers(1, timeout=_PATIENCE)
        clock.reach("first worker")
        dask.submit(os.getpid).result()
        clock.reach("first task")
        with looking_for_cells(Path(result), clock):
            store = plan.write(result).store
        clock.reach("all cells")
    return {"cluster": name, "digest": store.manifest.digest, "seconds": clock.reached}


@contextmanager
def by_sciplat(_: str, __: Clock) -> Iterator[tuple[str, Any]]:
    with sciplat.open_cluster(workers=1) as cluster:
        yield cluster.name, cluster.client


@contextmanager
def by_dask_gateway(user: str, clock: Clock) -> Iterator[tuple[str, Any]]:
    auth = BasicAuth(user, os.environ["SCIPLAT_TOKEN"])
    with Gateway(os.environ["SCIPLAT_GATEWAY"], auth=auth) as gateway, gateway.new_cluster() as cluster:
        clock.reach("scheduler")
        cluster.scale(1)
        with cluster.get_client() as dask:
            yield cluster.name, dask


@contextmanager
def looking_for_cells(store: Path, clock: Clock) -> Iterator[None]:
    """Tell the clock when the first cells of a store are done: a record in its staging area says so."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK):
            if any(store.glob(".staging/*/done-*.json")):
                clock.reach("first cell")
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def measure(*, scene: str, result: str, radii: list[str], annulus: list[str], cluster: dict[str, Any]) -> Any:
    """Measure a scene, on local threads or on a cluster with these arguments; return what was written and spent."""
    plan = photometry(scene, radii=radii, annulus=tuple(annulus))
    clock = Clock()
    if cluster:
        with sciplat.open_cluster(**cluster) as opened:
            written = plan.write(result)
    else:
        written = plan.write(result)
    clock.reach("all")
    files = [one for one in written.store.manifest.files if one.rows]
    found = {
        "digest": written.store.manifest.digest,
        "files": len(files),
        "rows": sum(one.rows for one in files),
        "wall_s": round(clock.reached["all"], 1),
        "cells": written.report["cells"],
        "thread_s": round(written.report["actual"]["seconds"], 1),
        "retried": written.report["retried"],
        "quarantined": len(written.report["quarantined"]),
    }
    return found | (used(opened.name) if cluster else {})


def used(cluster: str) -> dict[str, Any]:
    """Return what the gateway has charged for a cluster."""
    rows = Connection(find_login()).get("/api/sciplat/usage", by="cluster", since="1 d")["rows"]
    [row] = [row for row in rows if row["cluster"] == cluster]
    return {"cluster": cluster, "workers_used": row["workers"], "core_hours": round(row["core_hours"], 4)}


def photometry(scene: str, *, radii: list[str], annulus: tuple[str, ...]) -> Catalog:
    """Return the plan that measures all sources of a scene on all its images."""
    images, catalog = sciplat.open_images(f"{scene}/images"), sciplat.open_catalog(f"{scene}/catalog")
    return images.photometry(catalog, radii=radii, annulus=(annulus[0], annulus[1]))


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps({"start": start, "measure": measure}[asked.pop("do")](**asked)))
