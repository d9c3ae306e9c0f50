"""The order in which cells are done, and which go to a worker together.

Heavy cells go first, so that none is left over at the end while all other threads are idle. Light ones go in
bundles: handing something to a scheduler costs about 2 ms, whatever it is.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_SHORTEST, _LONGEST = 0.2, 2.0  # seconds of a bundle: an adaptive cluster grows only if seconds of work wait
_LARGEST = 200  # cells


def bundles(seconds: NDArray[np.float64], threads: int) -> Iterator[NDArray[np.int64]]:
    """Yield the numbers of all cells in bundles.

    Parameters
    ----------
    seconds : ndarray, shape (n,)
        That each cell is expected to take.
    threads : int
        A bundle is no larger than leaves several for each of them.
    """
    order = np.argsort(-seconds, kind="stable")
    most = int(np.clip(len(order) // (8 * threads), 1, _LARGEST))
    span = float(np.clip(seconds.sum() / (8 * threads), _SHORTEST, _LONGEST))
    first = 0
    while first < len(order):
        ahead = order[first : first + most]
        count = max(int(np.searchsorted(np.cumsum(seconds[ahead]), span, side="right")), 1)
        yield ahead[:count]
        first += count
