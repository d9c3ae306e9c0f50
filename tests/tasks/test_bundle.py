import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sciplat.tasks.bundle import bundles

costs = st.lists(st.sampled_from([0.0, 1e-9, 1e-3, 0.05, 0.2, 0.21, 3.0]) | st.floats(0, 1e6), max_size=300)


@given(costs, st.integers(1, 64))
def test_every_cell_is_in_one_bundle_and_the_heavy_come_first(seconds, threads):
    seconds = np.array(seconds, dtype=np.float64)
    parts = list(bundles(seconds, threads))
    order = np.concatenate([np.empty(0, np.int64), *parts])
    assert sorted(order.tolist()) == list(range(len(seconds)))
    assert (np.diff(seconds[order]) <= 0).all()
    for part in parts:
        assert len(part) >= 1
        assert len(part) == 1 or seconds[part].sum() <= 0.2 * (1 + 1e-9)
        assert len(part) <= max(len(seconds) // (8 * threads), 1)


def test_light_cells_go_together_and_no_bundle_is_endless():
    seconds = np.full(100_000, 1e-7)
    sizes = [len(part) for part in bundles(seconds, 2)]
    assert max(sizes) == 200
    assert len(sizes) == 500


def test_every_thread_gets_several_bundles_of_light_cells():
    assert len(list(bundles(np.full(800, 1e-6), 10))) >= 80


def test_heavy_cells_go_alone():
    seconds = np.append(np.full(1000, 1e-4), [5.0, 7.0, 0.5])
    parts = list(bundles(seconds, 1))
    assert [part.tolist() for part in parts[:2]] == [[1001], [1000]]
    assert parts[2].tolist()[0] == 1002
    assert len(parts[2]) > 100


def test_equal_cells_stay_in_the_order_of_the_sky():
    order = np.concatenate(list(bundles(np.ones(50), 1)))
    assert order.tolist() == list(range(50))


def test_no_cell_no_bundle():
    assert list(bundles(np.empty(0), 4)) == []
