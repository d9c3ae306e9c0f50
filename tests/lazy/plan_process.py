"""Plans that are written by processes of their own, to be killed, and what is found at their URL afterwards."""

import os
import threading
import time
from contextlib import contextmanager, suppress

import psutil

import sciplat
from sciplat.errors import StoreNotFound
from sciplat.io.catalog_store import open_catalog_store
from sciplat.io.publish import version_numbers
from sciplat.io.staging import STAGING, staging_areas
from sciplat.io.storage import LocalStorage
from sciplat.io.verify import verify_files

READER = 0.02  # seconds between two looks of a reader


def same(table):
    return table


def first_half(table):
    return table.slice(0, (len(table) + 1) // 2)


def slow(table):
    time.sleep(0.1)
    return table


def endless(table):
    if 0 in table["source_id"].to_pylist():
        time.sleep(600)
    return table


def fail_at_the_pole(table):
    if max(table["dec"].to_pylist()) > 80:
        raise ValueError("the pole")
    return table


def plan_of(name, folder):
    """Return a plan by its name; all read the same scene."""
    images, catalog = sciplat.open_images(folder / "images"), sciplat.open_catalog(folder / "catalog")
    if name in ("apart", "stuck"):  # a process for each cell takes its time
        catalog = catalog.within(sciplat.Cone("0 deg", "90 deg", "1 deg"))
    photometry = images.photometry(catalog, radii=["5 arcsec" if name == "wider" else "3 arcsec"])
    if name in ("photometry", "wider"):
        return photometry
    step = {"map": same, "slow": slow, "other code": first_half, "apart": slow, "stuck": endless}[name]
    return photometry.map(step, schema=photometry.schema, timeout=600 if name in ("apart", "stuck") else None)


def write(name, folder, url, options, together, answer):
    """Write a plan in a process of its own; say what came of it."""
    os.environ["SCIPLAT_THREADS"] = "2"
    plan = plan_of(name, folder)
    if together is not None:
        together.wait(30)
    try:
        plan.write(url, **options)
    except Exception as error:  # noqa: BLE001  # the test looks at it
        answer.send(error)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    answer.send(None)


class Writing:
    """A plan that is being written in a process of its own."""

    def __init__(self, context, *arguments):
        self.answer, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=write, args=(*arguments, theirs))
        self.process.start()
        theirs.close()

    def end(self, fault=None, after=0.0):
        """Send the signal `fault` after so many seconds, or when `after()` is true; return the error of the plan."""
        began = time.perf_counter()
        if fault is not None:
            if callable(after):
                while self.process.is_alive() and not after():
                    pass
            else:
                self.process.join(after)
            if self.process.is_alive():
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(self.process.pid, fault)
        struck = time.perf_counter()
        self.process.join(60)
        assert not self.process.is_alive()
        self.seconds, self.dying = time.perf_counter() - began, time.perf_counter() - struck
        with suppress(EOFError):
            return self.answer.recv() if self.answer.poll() else None
        return None


def has_come(url, state, number, kept="done-*"):
    """Return a function that tells whether a state has come; "cleared" is that nothing is left of what was `kept`."""

    def found(pattern):
        try:
            return any(url.glob(pattern))
        except FileNotFoundError:  # a folder that went away while it was looked into
            return False

    if state == "cleared":
        return lambda: (url / f"versions/{number}.json").exists() and not found(f"{STAGING}/*/{kept}")
    return lambda: found(state.format(s=STAGING, n=number))


def content(url):
    """Return the digest of every file with rows, and of all."""
    manifest = open_catalog_store(LocalStorage(url)).manifest
    files = {entry.path.removeprefix(manifest.folder): entry.sha256 for entry in manifest.files if entry.rows}
    return files, manifest.digest


def left_over(url):
    """Return all that belongs to no version: staging areas, orphan folders, temporary files."""
    storage = LocalStorage(url)
    versions = [open_catalog_store(storage, number).manifest for number in version_numbers(storage)]
    known = {"versions", "collection.properties", *(manifest.folder for manifest in versions)}
    hidden = [path.name for path in url.rglob(".*")]
    return [*hidden, *({path.name for path in url.iterdir()} - known)]


def done_before(url):
    """Return the cells that a run has left as done."""
    return sum(len(area.done().cells) for area in staging_areas(LocalStorage(url)))


@contextmanager
def reader(url):
    """Look at a store again and again; give the versions seen, each of which must be whole."""
    seen, wrong, over = set(), [], threading.Event()

    def look():
        while not over.wait(READER):
            try:
                store = sciplat.open_catalog(url).store
                seen.add(store.manifest.digest)
                wrong.extend(verify_files(store.storage, store.manifest))
            except StoreNotFound:
                seen.add(None)
            except Exception as error:  # noqa: BLE001  # told below
                wrong.append(repr(error))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
    assert wrong == []


def children_of(pid):
    """Return the processes of functions that a process has started, alive or orphaned."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "sciplat.tasks.apart_child" in command and str(pid) in command:
            found.append(process)
    return found
