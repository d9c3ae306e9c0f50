"""Settings: defaults, file, environment, and what makes no sense in them."""

import os

import pytest

from sciplat.config import settings
from sciplat.errors import ArgumentError


@pytest.fixture
def read(monkeypatch, tmp_path):
    """Return a function that reads the settings anew with a file and environment variables."""

    def read_settings(file=None, **environment):
        monkeypatch.delenv("SCIPLAT_THREADS", raising=False)
        monkeypatch.delenv("SCIPLAT_CONFIG", raising=False)
        if file is not None:
            (tmp_path / "sciplat.yaml").write_bytes(file)
            monkeypatch.setenv("SCIPLAT_CONFIG", str(tmp_path / "sciplat.yaml"))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()
        return settings()

    yield read_settings
    settings.cache_clear()


def test_defaults_file_and_environment(read):
    assert 1 <= read().threads <= os.cpu_count()
    assert read(b"threads: 3\n").threads == 3
    assert read(b"threads: 3\n", SCIPLAT_THREADS="5").threads == 5
    assert read(SCIPLAT_THREADS=" 7 ").threads == 7


def test_the_default_without_affinity(read, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    assert read().threads == os.cpu_count()


@pytest.mark.parametrize("threads", ["0", "-1", "many", "", "2.5", "1e3"])
def test_threads_that_are_none(read, threads):
    with pytest.raises(ArgumentError, match="not a positive number") as refused:
        read(SCIPLAT_THREADS=threads)
    assert refused.value.found == repr(threads)


@pytest.mark.parametrize(
    "file", [b"", b"- a\n", b"threads", b"thread: 3\n", b"1: 2\nthreads: 2\n", b"threads: [\n", b"\xff\xfe\x00", b"\0",
             b"threads: true\n", b"threads: null\n"]
)  # fmt: skip
def test_a_file_without_sense(read, file):
    with pytest.raises(ArgumentError) as refused:
        read(file)
    assert refused.value.hint
    assert "\n" not in refused.value.found


def test_a_file_that_is_not_there(read, tmp_path):
    with pytest.raises(ArgumentError, match="cannot be read"):
        read(SCIPLAT_CONFIG=str(tmp_path / "nothing.yaml"))
    with pytest.raises(ArgumentError, match="cannot be read"):
        read(SCIPLAT_CONFIG=str(tmp_path))
