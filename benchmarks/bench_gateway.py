"""A cluster of one's own from our gateway and from plain dask-gateway: how long until it works, and until it ends.

    python -m benchmarks.bench_gateway [--small] [--slurm] [--walltime] [--out results.json]

One run has both gateways side by side, and their users open clusters in turn: with dask-gateway's client at plain
dask-gateway, with ours at our gateway, and with dask-gateway's client at ours. What is measured on the clusters must
be the same, or no clock counts. Then many ask at once for more clusters than a quota allows.

With --slurm (as root, with the Slurm of `deploy/slurm/dev-cluster start` and the present sources there by `install`)
the clusters are Slurm's jobs as well. With --walltime (as root too) a survey is measured on local threads, and on
workers that Slurm ends after a minute.
"""

import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import sciplat
from benchmarks.gateway_rivals import Host, RunningGateway, local_host, our_gateway, plain_gateway, slurm_host
from benchmarks.rivals import command_line, machine, versions
from sciplat.demo.simulate import simulate_survey
from sciplat.errors import QuotaExceeded
from sciplat.gateway.client.connection import Connection
from sciplat.gateway.client.login import Login

PLAIN, OURS, OURS_STOCK = "dask-gateway", "sciplat", "sciplat, dask-gateway's client"
SCENE = {"fields": 4, "epochs": 1, "size": 256, "sources_per_field": 12, "reference_rows": 2000}
SURVEY = {"fields": 64, "epochs": 3, "size": 1024, "sources_per_field": 300, "reference_rows": 100_000}
CURVES = {"radii": [f"{radius} pix" for radius in range(2, 152, 2)], "annulus": ["155 pix", "165 pix"]}  # of growth
FEW_CURVES = {"radii": ["2 pix", "5 pix"], "annulus": ["8 pix", "12 pix"]}


def run(*, small: bool, slurm: bool = False, walltime: bool = False) -> dict[str, Any]:
    """Run the chosen parts and return the figures."""
    found: dict[str, Any] = {
        "versions": versions("sciplat", "dask", "distributed", "dask-gateway", "dask-gateway-server"),
        "machine": machine(),
        "local": in_folder(local_host, first_results, small=small),
        "requests": in_folder(local_host, many_requests, small=small),
    }
    if slurm:
        found["slurm"] = in_folder(slurm_host, first_results, small=small)
    if walltime:
        found["walltime"] = in_folder(slurm_host, short_workers, small=small)
    return found


def in_folder(make: Callable[..., Host], part: Callable[..., dict[str, Any]], *, small: bool) -> dict[str, Any]:
    """Run a part on a host that is there for it alone."""
    with tempfile.TemporaryDirectory(prefix="sciplat-bench-") as name:
        return part(make(Path(name), own_cache=not small), small=small)


def first_results(host: Host, *, small: bool) -> dict[str, Any]:
    """Time the way to the first worker, the first task and the first measured cell, with kernels compiled and not."""
    warm, cold = (1, 0) if small else (6, 3)
    scene = make_scene(host, SCENE)
    with plain_gateway(host) as plain, our_gateway(host) as ours:
        sides = {PLAIN: (plain, "dask-gateway"), OURS: (ours, "sciplat"), OURS_STOCK: (ours, "dask-gateway")}
        if small:
            del sides[OURS_STOCK]
        else:
            rounds(host, sides, scene, 1)  # what is on disk is in memory, kernels are compiled
        found = {"compiled": rounds(host, sides, scene, warm)}
        if cold:
            found["not_compiled"] = rounds(host, sides, scene, cold, clear=True)
    return {name: figures(each) | {"rounds": len(each[PLAIN])} for name, each in found.items()}


def rounds(
    host: Host, sides: dict[str, tuple[RunningGateway, str]], scene: str, count: int, *, clear: bool = False
) -> dict[str, list[dict[str, float]]]:
    """Let all sides start in turn, some times; return the seconds of each round."""
    times: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    digests = []
    for _ in range(count):
        for name, (gateway, client) in sides.items():
            if clear:
                shutil.rmtree(host.cache, ignore_errors=True)
            result = host.folder / "user" / "result"
            told = gateway.run("start", client=client, user=host.user, scene=scene, result=str(result))
            shutil.rmtree(result)
            digests.append(told["digest"])
            times[name].append(told["seconds"])
    check(digests)
    return times


def check(digests: Sequence[str]) -> None:
    """Refuse results that are not the same."""
    assert len(set(digests)) == 1, f"the results differ, no clock counts: {digests}"


def figures(times: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return median and least seconds until each thing was reached, and the ratios to plain dask-gateway's."""
    seconds: dict[str, dict[str, dict[str, float]]] = {
        name: {
            what: {
                "median": round(statistics.median(one[what] for one in rounds), 3),
                "least": round(min(one[what] for one in rounds), 3),
            }
            for what in rounds[0]
        }
        for name, rounds in times.items()
    }
    ratios = {
        name: {
            what: {kind: round(value / seconds[PLAIN][what][kind], 2) for kind, value in each.items()}
            for what, each in reached.items()
            if what in seconds[PLAIN]
        }
        for name, reached in seconds.items()
        if name != PLAIN
    }
    return {"seconds": seconds, "ratio": ratios}


def many_requests(host: Host, *, small: bool) -> dict[str, Any]:
    """Let many ask for a cluster at once, where a quota allows few; then one after another, when all are taken."""
    many, cap = (12, 1) if small else (100, 10)
    with our_gateway(host, quotas={"default": {"clusters": cap}}) as gateway:
        connection = Connection(Login(f"http://{gateway.address}", gateway.secret))
        begin = threading.Barrier(many)
        with ThreadPoolExecutor(many) as pool:
            asked = list(pool.map(lambda _: ask(connection, begin), range(many)))
        alone = [ask(connection) for _ in range(many // 4)]
        clusters = connection.get("/api/sciplat/clusters")["clusters"]
    refused = [seconds for seconds, refusal in asked if refusal]
    assert len(clusters) == cap == many - len(refused), f"{len(clusters)} clusters under a quota of {cap}"
    assert all(refusal for _, refusal in alone)
    return {
        "requests": many,
        "quota": cap,
        "granted": many - len(refused),
        "refused": len(refused),
        "refusal_s": {"median": round(statistics.median(refused), 3), "most": round(max(refused), 3)},
        "refusal_alone_s": round(statistics.median(seconds for seconds, _ in alone), 4),
        "message": alone[0][1],
    }


def ask(connection: Connection, begin: threading.Barrier | None = None) -> tuple[float, str]:
    """Ask for a cluster; return the seconds until the answer, and why it was refused if it was."""
    if begin is not None:
        begin.wait()
    start = time.perf_counter()
    try:
        connection.post("/api/v1/clusters/", cluster_options={})
    except QuotaExceeded as error:
        return time.perf_counter() - start, error.what
    return time.perf_counter() - start, ""


def short_workers(host: Host, *, small: bool) -> dict[str, Any]:
    """Measure a survey on local threads, and on workers that live for a minute; both must write the same files."""
    scene = make_scene(host, SCENE if small else SURVEY)
    curves = FEW_CURVES if small else CURVES
    user = host.folder / "user"
    with our_gateway(host) as gateway:
        gateway.run("measure", scene=scene, result=str(user / "warm"), **FEW_CURVES, cluster={})
        sizes: dict[str, tuple[int, dict[str, Any]]] = {
            "one thread": (1, {}),
            "two workers of a minute": (1, {"workers": 2, "cores": 1, "walltime": "1 min"}),
        }
        found = {
            name: gateway.run(
                "measure",
                threads=threads,
                scene=scene,
                result=str(user / name.replace(" ", "-")),
                cluster=cluster,
                **curves,
            )
            for name, (threads, cluster) in sizes.items()
        }
    check([one["digest"] for one in found.values()])
    return found


def make_scene(host: Host, survey: dict[str, int]) -> str:
    """Simulate and ingest a survey; return its folder, which every user can read."""
    folder = host.folder / "scene"
    simulated = simulate_survey(folder / "survey", **survey)
    sciplat.ingest_catalog(simulated.reference, folder / "catalog")
    sciplat.ingest_images(simulated.images, folder / "images")
    return str(folder)


if __name__ == "__main__":
    command_line(
        run,
        __doc__,
        {"slurm": "on Slurm too", "walltime": "a survey on workers of a minute, on Slurm; takes some ten minutes"},
    )
