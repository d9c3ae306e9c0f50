"""How much an ingest may hold in memory, whatever the size of its input."""

from dataclasses import dataclass

from sciplat.config import settings
from sciplat.errors import ArgumentError
from sciplat.tasks.progress import format_bytes
from sciplat.tasks.workers import WARM, LocalThreads, Workers, resident_memory

_HELD = 0.4  # of the memory: an input that fits stays there once it is sorted
_AT_ONCE = 4  # times the rows that are read together: as read, sorted, encoded, and what decoding needs
_LARGEST = 1 << 27  # bytes that are read together: enough for few pieces, little enough for many threads
_SMALLEST = 1 << 22
_EACH = 4  # pieces for each thread, if the input is small
_UNKNOWN = 1_000_000_000  # bytes of a worker that tells no limit


@dataclass(frozen=True)
class Budget:
    """What may be held.

    Parameters
    ----------
    chunk : int
        Bytes of rows that a thread reads together.
    held : int
        Bytes of all sorted rows, if they are to stay in memory.
    free : int
        Bytes that the process may use beside the libraries.
    threads : int
    """

    chunk: int
    held: int
    free: int
    threads: int

    def share(self, held: int) -> int:
        """Return the bytes that each thread may use while so many stay in memory."""
        return (self.free - held) // self.threads

    def together(self, size: int, threads: int) -> int:
        """Return the bytes of an input of this size that are sorted together: few pieces, but work for all threads."""
        return min(self.chunk, max(size // (_EACH * threads), _SMALLEST))


def plan_budget(workers: Workers, memory: int | None) -> Budget:
    """Return what an ingest may hold.

    Parameters
    ----------
    workers : Workers
    memory : int, optional
        Bytes that this process may use; the setting by default. The workers of a cluster have limits of their own.

    Raises
    ------
    ArgumentError
        If it is too little to do anything.
    """
    if not isinstance(workers, LocalThreads):
        share = workers.memory() or _UNKNOWN
        return Budget(_chunk(share), 0, share, 1)
    total = settings().memory if memory is None else memory
    used = max(resident_memory(), WARM)
    free, threads = total - used, workers.threads
    held = int(max(free, 0) * _HELD)
    chunk = _chunk((free - held) // threads)
    if chunk < _SMALLEST:
        least = used + int(_SMALLEST * _AT_ONCE * threads / (1 - _HELD))
        raise ArgumentError(
            "an ingest needs more memory than that",
            found=f"{format_bytes(total)} for {threads} threads",
            hint=f'memory="{least / 1e6:.0f} MB" or more; fewer threads (SCIPLAT_THREADS) need less',
        )
    return Budget(chunk, held, free, threads)


def _chunk(share: int) -> int:
    """Return a power of two: a run that goes on from another one must cut the input as that did."""
    return min(1 << max(share // _AT_ONCE, 1).bit_length() - 1, _LARGEST)
