import threading

import pytest
from distributed import Client, LocalCluster

from sciplat.config import Settings
from sciplat.tasks import workers
from sciplat.tasks.stream import stream


def square(number):
    return number * number


def fail_at_seven(number):
    if number == 7:
        raise ValueError("seven")
    return number


@pytest.fixture(params=["threads", "cluster"])
def where(request):
    if request.param == "threads":
        yield None
        return
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_every_item_is_done_once(where):
    assert sorted(stream(square, range(100))) == [n * n for n in range(100)]


def test_the_first_error_stops_the_stream(where):
    taken = []

    def items():
        for number in range(10_000):
            taken.append(number)
            yield number

    with pytest.raises(ValueError, match="seven"):
        list(stream(fail_at_seven, items()))
    assert len(taken) < 100


def touch_after_a_while(path):
    if path.name == "3":
        raise ValueError("three")
    threading.Event().wait(0.2)
    path.touch()


def test_after_an_error_nothing_runs_on(where, tmp_path):
    """Whoever clears up after a failed plan must not be overtaken by its tasks."""
    with pytest.raises(ValueError, match="three"):
        list(stream(touch_after_a_while, (tmp_path / str(number) for number in range(100))))
    left = sorted(tmp_path.iterdir())
    threading.Event().wait(0.5)
    assert sorted(tmp_path.iterdir()) == left
    assert len(left) < 20


def test_no_more_is_taken_than_the_window_holds(monkeypatch):
    monkeypatch.setattr(workers, "settings", lambda: Settings(threads=2, memory=2**30))
    taken, gate = [], threading.Event()

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    def wait(number):
        gate.wait(30)
        return number

    results = stream(wait, items())
    gate_opener = threading.Timer(0.2, gate.set)
    gate_opener.start()
    next(results)
    assert len(taken) == 6
    results.close()
    gate_opener.join()


def test_a_long_stream_is_not_held(where):
    count = sum(1 for _ in stream(square, range(3000)))
    assert count == 3000
