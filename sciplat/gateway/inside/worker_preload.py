"""Runs in every worker: gets ready for sciplat's work once it has registered, and leaves before its batch job ends.

`SCIPLAT_WORKER_ENDS`
    When the batch system ends the worker, in seconds since the epoch; the job script sets it.
`SCIPLAT_KERNEL_CACHE_SOURCE`
    A folder of compiled kernels that the site provides, as `SCIPLAT_KERNEL_CACHE` would hold them for the same
    environment. Compiled kernels are code, so it is used only if nobody but root or this user can write to it.
"""

import asyncio
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from distributed.core import Status

logger = logging.getLogger("distributed.worker")

WARM_UP = "sciplat-warm-up"  # name of the thread
_LOOK = 1.0  # seconds between two looks whether a worker can leave
_RUNNING = {Status.running, Status.paused, Status.closing_gracefully}
_tasks: set[asyncio.Task[None]] = set()


def dask_setup(worker: Any) -> None:
    """Close the HTTP port, which would answer anybody on the node, and start what goes on beside the work."""
    worker.services.pop("dashboard").stop()
    _start(_warm_up_when_registered(worker))
    ends = os.environ.get("SCIPLAT_WORKER_ENDS")
    if ends is not None:
        lifetime = Lifetime(time.time(), float(ends))
        worker.metrics["ends"] = lambda _: lifetime.ends
        worker.metrics["leaves"] = lambda _: lifetime.leaves
        _start(_leave(worker, lifetime))


class Lifetime:
    """When a worker stops taking tasks, and when it goes.

    Parameters
    ----------
    begins, ends : float
        Seconds since the epoch.

    Attributes
    ----------
    leaves : float
        From when on it takes no more tasks.
    last : float
        When it goes even if something still runs.
    """

    def __init__(self, begins: float, ends: float) -> None:
        walltime = ends - begins
        self.ends = ends
        self.leaves = ends - min(max(walltime / 4, 10.0), 120.0)
        self.last = ends - min(max(walltime / 20, 3.0), 20.0)


def _start(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


# the end


async def _leave(worker: Any, lifetime: Lifetime) -> None:
    """Take no more tasks when the end is near, hand on what is in memory, and close when nothing runs any more."""
    await asyncio.sleep(lifetime.leaves - time.time())
    logger.info("The end of this worker's job is near: it takes no more tasks")
    while worker.status in _RUNNING and time.time() < lifetime.last:
        if worker.status != Status.closing_gracefully:  # pausing would not do: it ends when there is memory
            worker.status = Status.closing_gracefully
        if await _is_released(worker, lifetime.last):
            break
        await asyncio.sleep(_LOOK)
    if worker.status in _RUNNING:
        with suppress(OSError):
            await _unregister(worker)
        await worker.close(executor_wait=False, reason="sciplat-end-of-job")


async def _is_released(worker: Any, last: float) -> bool:
    """Hand on what is in memory; return whether the scheduler has let the worker go, which it may if nothing runs."""
    is_busy = bool(worker.state.executing or worker.state.long_running)
    if is_busy and not worker.data:
        return False
    with suppress(OSError):  # the scheduler is gone, or it takes too long
        async with asyncio.timeout(last - time.time()):
            retired = await worker.scheduler.retire_workers(
                workers=[worker.address], close_workers=False, remove=not is_busy, stimulus_id="sciplat-end-of-job"
            )
        return not is_busy and worker.address in retired
    return False


async def _unregister(worker: Any) -> None:
    """Tell the scheduler that this worker goes as expected: what it runs is repeated elsewhere, and not suspected."""
    async with asyncio.timeout(_LOOK):
        await worker.scheduler.unregister(
            address=worker.address, close=False, expected=True, stimulus_id="sciplat-end-of-job"
        )


# the beginning


async def _warm_up_when_registered(worker: Any) -> None:
    await worker  # its start is over when it has registered
    threading.Thread(target=warm_up, name=WARM_UP, daemon=True).start()


def warm_up() -> None:
    """Import and compile what photometry and cross-matches need, from the cache if it is there.

    One row is measured and matched, so that what is compiled has the types that real work has.
    """
    begun = time.perf_counter()
    try:
        import zarr  # noqa: F401 (the images' pixels)

        import sciplat.tasks.crossmatch
        import sciplat.tasks.photometry  # noqa: F401
        from sciplat.kernels.aperture import aperture_sums

        cache = aperture_sums.stats.cache_path
        if cache is None:
            logger.warning("No private folder for compiled kernels: every worker compiles what it needs itself")
            return
        source = os.environ.get("SCIPLAT_KERNEL_CACHE_SOURCE")
        if source:
            _copy_cache(Path(source), Path(cache))
        _measure_one()
        _match_one()
    except Exception:
        logger.exception("The warm-up failed; tasks import and compile what they need")
    else:
        logger.info("Warm-up: %.1f s", time.perf_counter() - begun)


def _copy_cache(top: Path, cache: Path) -> None:
    """Copy compiled kernels into the cache folder if that is empty.

    The copy is renamed into place whole: an index beside another's code would be worse than none.
    """
    source = top / cache.parent.name / cache.name
    if not source.is_dir():
        logger.warning("%s has no kernels for this environment", top)
        return
    folders, files = [top, source.parent, source], sorted(source.glob("*.nb[ci]"))
    if open_to_others := [path for path in (*folders, *files) if not _is_safe(path)]:
        logger.warning("Compiled kernels are not taken from %s: others may write to it", open_to_others[0])
        return
    copy = Path(tempfile.mkdtemp(dir=cache.parent))
    try:
        for file in files:
            shutil.copy2(file, copy)
        with suppress(OSError):  # it is not empty, or no longer
            copy.rename(cache)
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _is_safe(path: Path) -> bool:
    """Return whether a file or folder is root's or this user's, and writable by nobody else; a link is not."""
    status = path.lstat()
    return status.st_uid in {0, os.getuid()} and not path.is_symlink() and not status.st_mode & 0o022


def _measure_one() -> None:
    import numpy as np

    from sciplat.sky.angle import Length
    from sciplat.steps.photometry import Apertures, ImagePixels, measure, place
    from sciplat.steps.wcs import ImageWcs

    size = 16
    types = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}
    numbers = {"CRPIX1": 8.5, "CRPIX2": 8.5, "CRVAL1": 10.0, "CRVAL2": 10.0, "CDELT1": -1e-4, "CDELT2": 1e-4}
    wcs = ImageWcs({**types, **numbers})
    position = np.array([10.0])
    place(wcs, size, size, position, position)
    position.setflags(write=False)  # as Arrow gives them
    placed = place(wcs, size, size, position, position)
    wcs.pixel_to_sky(placed.x, placed.y)
    planes = np.zeros((size, size), np.float32), np.ones((size, size), np.float32), np.zeros((size, size), np.uint32)
    pixels = ImagePixels(0, 0, *planes, bad_bits=0, saturated_bits=0, saturation=np.inf)
    annulus = Length(3.0, "pix"), Length(5.0, "pix")
    measure(pixels, placed, Apertures((Length(2.0, "pix"),), annulus, "median"), None)


def _match_one() -> None:
    import numpy as np

    from sciplat.sky.cell import Cell, healpix_29
    from sciplat.sky.surroundings import surroundings
    from sciplat.steps.pairs import Points, nearest_pairs, pairs_within, separations

    position = np.array([10.0])
    index = healpix_29(position, position)
    index.setflags(write=False)
    surroundings(Cell(5, 0), 1e-3).contains(index)
    points = Points(index.copy(), position, position, np.arange(1))
    separations(nearest_pairs(points, points, 1e-3).square)
    pairs_within(points, points, 1e-3)
