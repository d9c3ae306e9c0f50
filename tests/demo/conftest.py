"""A small survey and its truth, made once."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sciplat.demo.simulate import Survey, simulate_survey


@pytest.fixture(scope="session")
def make_survey() -> Callable[[Path, int], Survey]:
    """Return a function that simulates the small survey in a folder with a number of workers."""

    def make(folder: Path, workers: int) -> Survey:
        return simulate_survey(
            folder, fields=4, epochs=6, size=256, sources_per_field=20, reference_rows=2000, workers=workers
        )

    return make


@pytest.fixture(scope="session")
def survey(make_survey: Callable[[Path, int], Survey], tmp_path_factory: pytest.TempPathFactory) -> Survey:
    """Return the small survey."""
    return make_survey(tmp_path_factory.mktemp("survey"), 2)


@pytest.fixture(scope="session")
def truth(survey: Survey) -> pa.Table:
    """Return the truth of the small survey."""
    return pq.read_table(survey.truth)
