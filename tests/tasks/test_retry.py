import pytest

from sciplat.errors import ArgumentError, ClusterLost, StorageError, TaskFailed
from sciplat.sky.cell import Cell
from sciplat.tasks.retry import ATTEMPTS, Retries

CELL, OTHER = Cell(3, 7), Cell(3, 8)
PASSING, LASTING, WRONG = StorageError("full"), TaskFailed("broken"), ArgumentError("no such thing")


def test_what_may_pass_is_tried_three_times_with_longer_and_longer_waits():
    retries = Retries("raise")
    waits = [retries.judge(CELL, PASSING) for _ in range(ATTEMPTS - 1)]
    assert waits == [0.5, 2.0]
    with pytest.raises(StorageError) as caught:
        retries.judge(CELL, PASSING)
    assert caught.value is PASSING
    assert (retries.repeated, retries.quarantined) == (2, {})


@pytest.mark.parametrize("on_error", ["raise", "quarantine"])
def test_what_the_user_must_correct_ends_the_run_at_once(on_error):
    with pytest.raises(ArgumentError):
        Retries(on_error).judge(CELL, WRONG)


@pytest.mark.parametrize("error", [LASTING, ClusterLost("gone")])
def test_what_will_not_pass_ends_the_run_at_once_unless_cells_are_set_aside(error):
    with pytest.raises(type(error)):
        Retries("raise").judge(CELL, error)
    assert Retries("quarantine").judge(CELL, error) is not None


def test_a_store_that_cannot_be_written_to_ends_the_run_whatever_becomes_of_cells():
    retries = Retries("quarantine")
    assert [retries.judge(CELL, PASSING) for _ in range(ATTEMPTS - 1)] == [0.5, 2.0]
    with pytest.raises(StorageError):
        retries.judge(CELL, PASSING)
    assert retries.quarantined == {}


@pytest.mark.parametrize("error", [LASTING, ClusterLost("gone")])
def test_a_cell_is_set_aside_after_three_attempts(error):
    retries = Retries("quarantine")
    assert [retries.judge(CELL, error) for _ in range(ATTEMPTS)] == [0.5, 2.0, None]
    assert retries.quarantined == {CELL: error}
    assert retries.repeated == ATTEMPTS - 1


def test_each_cell_has_its_own_attempts():
    retries = Retries("raise")
    for cell in (CELL, OTHER, CELL, OTHER):
        retries.judge(cell, PASSING)
    assert retries.repeated == 4
    with pytest.raises(StorageError):
        retries.judge(OTHER, PASSING)
