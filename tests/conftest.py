"""Fixtures of all tests: the folder of real data, and what CI must not skip."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("sciplat", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("sciplat")


def required(what: str) -> bool:
    """Return whether `what` (data, rivals...) must be present: under CI a skip is a failure."""
    return what in os.environ.get("SCIPLAT_REQUIRE", "").split(",")


@pytest.fixture(scope="session")
def data() -> Path:
    """Return the folder of real data, or skip."""
    named = os.environ.get("SCIPLAT_TEST_DATA", "")
    if named and Path(named).is_dir():
        return Path(named).resolve()
    if required("data"):
        pytest.fail(f"SCIPLAT_REQUIRE asks for data, and SCIPLAT_TEST_DATA is {named!r}")
    pytest.skip("real data: SCIPLAT_TEST_DATA names no folder")
