"""A cluster of one's own: start a gateway on this machine, open a cluster, let plans run on it.

    python examples/06_cluster.py [FOLDER]

The gateway ends with the example. With a site's gateway, or in a notebook of a hub that has one, `main` is the same.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import sciplat
from sciplat.demo.simulate import simulate_survey


def shell(*words: str) -> subprocess.Popen[str]:
    """Run `sciplat` as one does in a terminal."""
    command = [Path(sys.executable).with_name("sciplat"), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 (the words are ours)


@contextmanager
def gateway(state: Path) -> Iterator[None]:
    """Run `sciplat gateway start`, which is all that one user needs."""
    os.environ["SCIPLAT_GATEWAY_STATE"] = str(state.absolute())  # by default a folder in one's home
    with shell("gateway", "start") as process:
        print(process.stdout.readline())
        try:
            yield
        finally:
            print(*shell("gateway", "stop").communicate()[:1])


def main(folder: Path) -> None:
    survey = simulate_survey(folder / "survey", fields=1)
    catalog = sciplat.ingest_catalog(survey.reference, folder / "catalog", epoch="J2016.0")
    images = sciplat.ingest_images(survey.images, folder / "images")
    plan = images.photometry(catalog, radii=["8 pix"], annulus=("10 pix", "15 pix"))

    with sciplat.open_cluster(workers=(1, 2), memory="2 GiB") as cluster:
        print(cluster, cluster.dashboard, cluster.why(), sep="\n")  # a link for a browser; what it waits for
        measured = plan.write(folder / "photometry")  # nothing else changes
        for words in ("cluster list", f"cluster logs {cluster.name[:8]} --lines 3", "quota", "usage --by user,cluster"):
            print(f"$ sciplat {words}", *shell(*words.split()).communicate()[:1], sep="\n")

    # Was it right? Without a cluster the same plan runs on local threads, and gives the same.
    np.testing.assert_allclose(*(one.compute()["flux_0"] for one in (measured, plan)), rtol=1e-9, atol=1e-6)
    print(f"{len(measured):,} measurements on the cluster agree with the truth of local threads")


if __name__ == "__main__":
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "example-output")
    with gateway(output / "gateway"):
        main(output)
