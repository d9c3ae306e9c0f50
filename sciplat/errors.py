"""Every exception of sciplat: what was asked, what was found, what to try.

Each class also inherits the builtin that a Python user would catch, and survives pickling, because errors
travel from workers to the notebook.
"""

from typing import Any, Literal

Kind = Literal["usage", "transient", "fatal"]


class SciplatError(Exception):
    """Base of all errors that sciplat raises on purpose.

    Parameters
    ----------
    what : str
        What was asked for, and what is wrong with it, in one line.
    found : str, optional
        What was found instead.
    hint : str, optional
        What to try.

    Attributes
    ----------
    code : str
        A short stable name for programs.
    kind : {"usage", "transient", "fatal"}
        Whether to correct the call, to try again, or to give up.
    """

    code: str = "error"
    kind: Kind = "fatal"

    def __init__(self, what: str, *, found: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.found = found
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.what]
        if self.found:
            lines.append(f"  found  {self.found}")
        if self.hint:
            lines.append(f"  try    {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.found, self.hint), self.__dict__  # notes and tracebacks too


_PASSING = (ConnectionError, TimeoutError, InterruptedError, MemoryError)


def may_pass(error: BaseException) -> bool:
    """Return whether an error that is not ours may not come again the next time: one of the network or of a device.

    Arrow's and Zarr's errors about content are OSErrors too, but carry no number of the system.
    """
    return isinstance(error, _PASSING) or (type(error) is OSError and error.errno is not None)


class AngleError(SciplatError, ValueError):
    """A text or number that is no angle, or an angle without a unit."""

    code = "angle"
    kind: Kind = "usage"


class RegionError(SciplatError, ValueError):
    """A region or cell that cannot exist on the sky."""

    code = "region"
    kind: Kind = "usage"


class ArgumentError(SciplatError, ValueError):
    """An argument outside what a call accepts."""

    code = "argument"
    kind: Kind = "usage"


class ColumnError(SciplatError, KeyError):
    """A column that is not there."""

    code = "column"
    kind: Kind = "usage"

    __str__ = SciplatError.__str__  # KeyError would show the repr


class PositionError(SciplatError, ValueError):
    """A sky position that is missing, not a number, or off the sphere."""

    code = "position"
    kind: Kind = "usage"


class InputNotFound(SciplatError, FileNotFoundError):
    """No file where input was expected."""

    code = "input-not-found"
    kind: Kind = "usage"

    __str__ = SciplatError.__str__


class InputError(SciplatError, ValueError):
    """A foreign file that cannot be read or understood."""

    code = "input"
    kind: Kind = "usage"


class WcsError(InputError):
    """An image without a usable celestial coordinate system."""

    code = "wcs"


class ProfileError(SciplatError, ValueError):
    """A reader profile that does not exist or does not make sense."""

    code = "profile"
    kind: Kind = "usage"


class StoreExists(SciplatError, FileExistsError):
    """A store stands already where a new one was to be made."""

    code = "store-exists"
    kind: Kind = "usage"

    __str__ = SciplatError.__str__


class StoreNotFound(SciplatError, FileNotFoundError):
    """No store, or no such version of it, at the URL."""

    code = "store-not-found"
    kind: Kind = "usage"

    __str__ = SciplatError.__str__


class StoreCorrupt(SciplatError, OSError):
    """Bytes of a store that are not what its manifest promises."""

    code = "store-corrupt"

    __str__ = SciplatError.__str__


class StorageError(SciplatError, OSError):
    """Storage that does not take bytes: full, read-only or out of reach."""

    code = "storage"
    kind: Kind = "transient"

    __str__ = SciplatError.__str__


class ConflictError(SciplatError, RuntimeError):
    """Two writers changed the same cell."""

    code = "conflict"
    kind: Kind = "transient"


class MeasurementError(SciplatError, AssertionError):
    """Measured numbers that do not agree with the known truth."""

    code = "measurement"


class TaskTooLarge(SciplatError, MemoryError):
    """A cell that needs more memory than a worker has, and that cannot be split further."""

    code = "task-too-large"
    kind: Kind = "usage"


class TaskFailed(SciplatError, RuntimeError):
    """A task that ended in an error which is not sciplat's own.

    Attributes
    ----------
    traceback : str
        Where it happened, as the worker saw it; empty if the worker died.
    """

    code = "task-failed"
    traceback: str = ""


class StepError(TaskFailed):
    """A user's function that raised, gave something else than it promised, or was stopped."""

    code = "step"


class PlanChanged(SciplatError, ValueError):
    """A plan that is not the one which was begun, or recorded, at a URL."""

    code = "plan-changed"
    kind: Kind = "usage"


class ClusterLost(SciplatError, ConnectionError):
    """The Dask scheduler that a plan ran on is gone."""

    code = "cluster-lost"

    __str__ = SciplatError.__str__


class SiteError(SciplatError, ValueError):
    """A gateway's site file cannot be used."""

    code = "site"
    kind: Kind = "usage"


class GatewayError(SciplatError, ConnectionError):
    """A gateway cannot be reached, or refuses what it is asked."""

    code = "gateway"
    kind: Kind = "usage"

    __str__ = SciplatError.__str__


class GatewayAway(GatewayError):
    """A gateway does not answer at present."""

    code = "gateway-away"
    kind: Kind = "transient"


class ClusterNotFound(GatewayError, LookupError):
    """A gateway has no such cluster, or it is another user's."""

    code = "cluster-not-found"


class TokenRefused(SciplatError, PermissionError):
    """A token is unknown, expired, revoked or not meant for this.

    Attributes
    ----------
    code : {"unknown", "expired", "revoked", "scope"}
    """

    code = "unknown"
    kind: Kind = "usage"

    __str__ = SciplatError.__str__


class QuotaExceeded(SciplatError, RuntimeError):
    """A quota of the user or of one of their groups does not allow it."""

    code = "quota"
    kind: Kind = "usage"


class EnvironmentMismatch(SciplatError, RuntimeError):
    """The packages of a cluster are not those of the process that wants to use it."""

    code = "environment"
    kind: Kind = "usage"


class IncompleteResult(UserWarning):
    """A store that lacks cells which could not be done."""


class MissingDependency(SciplatError, ImportError):
    """An optional library that this call needs is not installed."""

    code = "missing-dependency"
    kind: Kind = "usage"


def _rebuild(cls: type[SciplatError], what: str, found: str, hint: str) -> SciplatError:
    return cls(what, found=found, hint=hint)
