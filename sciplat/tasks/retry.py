"""What follows an error: the same again after a while, the end of the plan, or a cell that is set aside."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from sciplat.errors import SciplatError, StorageError
from sciplat.sky.cell import Cell

OnError = Literal["raise", "quarantine"]
ATTEMPTS = 3  # of a cell, before it is given up
_FIRST_WAIT = 0.5  # seconds; four times as long after every failure


@dataclass
class Retries:
    """The failures of one run.

    Parameters
    ----------
    on_error : {"raise", "quarantine"}
        Whether a cell that cannot be done ends the run, or is set aside while the rest goes on.
    """

    on_error: OnError
    repeated: int = 0
    quarantined: dict[Cell, SciplatError] = field(default_factory=dict)
    _failures: Counter[Cell] = field(default_factory=Counter)

    def judge(self, cell: Cell, error: SciplatError) -> float | None:
        """Return the seconds after which the cell is tried again, or None if it is set aside.

        A usage error would come again in every cell, so it ends the run at once; so does a store that cannot be
        written to, after three attempts. An error that may pass, such as
        one of the network, gets three attempts. Any other ends the run, or gets three attempts before the cell is
        set aside.

        Raises
        ------
        SciplatError
            The error itself, if it ends the run.
        """
        self._failures[cell] += 1
        failures = self._failures[cell]
        given_up = failures >= ATTEMPTS
        if error.kind == "usage" or (isinstance(error, StorageError) and given_up):
            raise error
        if self.on_error == "raise" and (error.kind == "fatal" or given_up):
            raise error
        if given_up:
            self.quarantined[cell] = error
            return None
        self.repeated += 1
        return _FIRST_WAIT * 4.0 ** (failures - 1)
