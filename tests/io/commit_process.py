"""Writers that add rows to one store at the same time, each in a process of its own, and what they were told."""

import os

import numpy as np
import pyarrow as pa

import sciplat
from sciplat.errors import ConflictError, StorageError

BASE = [(30.0 * k + 15, dec) for dec in (-45.0, 0.0, 45.0) for k in range(12)]  # places that lie in different cells
AROUND = 50


def rows(place, first, count=3):
    """Return a few rows at a place, with numbers from `first` on."""
    ra, dec = BASE[place]
    return pa.table({"id": np.arange(first, first + count), "ra": np.full(count, ra), "dec": np.full(count, dec)})


def make(url, places=BASE, options=None):
    """Make the store: `AROUND` rows around every place, in one cell each or more."""
    rng = np.random.default_rng(1)
    ra, dec = np.repeat(places, AROUND, axis=0).T + rng.uniform(-1, 1, (2, AROUND * len(places)))
    table = pa.table({"id": -1 - np.arange(len(ra)), "ra": ra, "dec": dec})
    return sciplat.ingest_catalog(table, url, rows_per_cell=80, storage_options=options)


def add(url, options, table):
    """Add rows, as often as it takes; return the conflicts that were told, and how many other errors."""
    conflicts, unclear = [], 0
    while True:
        try:
            sciplat.ingest_catalog(table, url, mode="append", storage_options=options)
        except ConflictError as error:
            conflicts.append(f"{error.what} {error.found}")
        except StorageError:  # an answer was lost: the same call again finds out what came of it
            unclear += 1
            if unclear > 20:
                raise
        else:
            return conflicts, unclear


def writer(number, places, commits, url, options, together, answer):
    """Commit rows at some places, one after the other; say which numbers were acknowledged, and what was refused."""
    os.environ["SCIPLAT_THREADS"] = "1"
    together.wait(60)
    acknowledged, conflicts, unclear = [], [], 0
    try:
        for commit in range(commits):
            first = (number * commits + commit) * 3
            refused, lost = add(url, options, rows(places[commit % len(places)], first))
            acknowledged += range(first, first + 3)
            conflicts, unclear = conflicts + refused, unclear + lost
    except Exception as error:  # noqa: BLE001  # the test looks at it
        answer.send(repr(error))
        return
    answer.send((acknowledged, conflicts, unclear))
