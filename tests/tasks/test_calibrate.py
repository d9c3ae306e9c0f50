import math
import tempfile
from dataclasses import asdict

import pytest

from sciplat.tasks import calibrate
from sciplat.tasks.calibrate import measure_rates


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Measure this machine, each kind of work for a moment; return the rates and the folder for temporary files."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "_MOMENT", 0.05)
        patch.setattr(tempfile, "tempdir", str(folder))
        return measure_rates(), folder


def test_all_rates_are_positive_and_finite(measured):
    found = asdict(measured[0])
    assert all(0 < seconds < math.inf for seconds in found.values()), found


def test_nothing_is_left_in_the_folder_for_temporary_files(measured):
    assert list(measured[1].iterdir()) == []
