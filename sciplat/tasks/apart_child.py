"""The process that `apart.py` starts for one call of a user's function: `python -m sciplat.tasks.apart_child`.

What is heavy is imported once the process is sure to end with its parent.
"""

import os
import pickle
import signal
import sys
import threading
from contextlib import suppress
from typing import IO, Any

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent: int, report: int) -> None:
    """Read the request from standard input, answer into the file descriptor `report`, and end the process."""
    _die_with(parent)
    request = os.fdopen(os.dup(0), "rb")
    # the function finds no input where it might take a part of the request, nor do its own processes find the report
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.set_inheritable(report, False)
    # whole lines, so that those of functions side by side do not mix
    text = {"encoding": "utf-8", "errors": "backslashreplace", "line_buffering": True, "write_through": False}
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(**text)  # type: ignore[union-attr]
    with os.fdopen(report, "wb") as answer:
        _answer(request, answer)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(0)  # threads and exit handlers that the function left behind cannot keep the result waiting


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when the thread that started it is gone."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # gone already
            os._exit(1)


def _answer(request: IO[bytes], answer: IO[bytes]) -> None:
    settings = pickle.load(request)  # noqa: S301 - written by our own parent
    sys.path[:] = settings["path"]
    _restore_environment(settings["python_path"])
    from sciplat.errors import SciplatError
    from sciplat.steps.map import step_error

    try:
        result = _result(request, answer)
        _write(answer, None, result)
    except SciplatError as error:
        _write(answer, error)
    except BaseException as error:  # noqa: BLE001 - told to the parent: modules not found, a full disk, Ctrl-C
        _write(answer, step_error(f"{settings['where']} failed in its own process", error))


def _restore_environment(python_path: str | None) -> None:
    """Undo what made `python -m` find this module: processes that the function starts are the user's."""
    if python_path is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = python_path


def _result(request: IO[bytes], answer: IO[bytes]) -> Any:
    """Call the function with the table of the request."""
    import psutil
    import pyarrow as pa

    from sciplat.steps.map import apply_step

    step, schema, cell, surrounded = pickle.load(request)  # noqa: S301 - written by our own parent
    with pa.ipc.open_stream(request) as stream:
        table = stream.read_all()
    if sys.platform != "linux":
        threading.Thread(target=_die_at_end_of, args=(request,), daemon=True).start()
    pa.array([0])  # Arrow's first allocation takes a pool of some 40 MiB, which is not the function's
    answer.write(psutil.Process().memory_info().rss.to_bytes(8, "little"))
    answer.flush()
    return apply_step(step, table, schema, cell, surrounded=surrounded)


def _die_at_end_of(request: IO[bytes]) -> None:
    """Kill the process and its descendants when the parent's end of the pipe is closed."""
    request.read(1)
    os.killpg(0, signal.SIGKILL)


def _write(answer: IO[bytes], error: Exception | None, result: Any = None) -> None:
    """Write the report behind the memory, over whatever part of one stands there."""
    import pyarrow as pa

    answer.seek(8)
    answer.truncate()
    answer.write(_pickled(error))
    if result is not None:
        with pa.ipc.new_stream(answer, result.schema) as stream:
            stream.write_table(result)


def _pickled(error: Exception | None) -> bytes:
    """Return the error pickled; one that does not survive this becomes a StepError of the same words."""
    import cloudpickle

    from sciplat.errors import StepError

    try:
        pickled: bytes = cloudpickle.dumps(error)
        pickle.loads(pickled)  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - a user's own subclass may do anything
        return pickle.dumps(StepError(str(error)))
    return pickled


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
