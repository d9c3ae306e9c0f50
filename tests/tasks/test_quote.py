import json
import math
from dataclasses import asdict, fields

import pytest

import sciplat
from sciplat.tasks import quote
from sciplat.tasks.quote import Cost, Rates, is_calibrated, keep_rates, rates, write_cost
from tests.plan_scene import write_stars
from tests.sky_scene import WHOLE_SKY


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Return a cache folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rates.cache_clear()
    yield tmp_path / "cache"
    rates.cache_clear()


MEASURED = Rates(**{field.name: 1e-6 * number for number, field in enumerate(fields(Rates), 1)})


def test_rates_are_the_defaults_until_they_are_kept(cache):
    assert rates() == Rates()
    assert not is_calibrated()
    path = keep_rates(MEASURED)
    assert path.is_relative_to(cache)
    assert is_calibrated()
    assert rates() == MEASURED
    rates.cache_clear()
    assert rates() == MEASURED


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"{}", b'{"rates": {}}', b'{"rates": null}', b'{"rates": {"open": "fast"}}', b"\xff"],
)
def test_a_damaged_file_falls_back_to_the_defaults(content):
    path = keep_rates(MEASURED)
    path.write_bytes(content)
    rates.cache_clear()
    assert rates() == Rates()


def test_a_file_of_an_older_version_without_a_rate_falls_back_to_the_defaults():
    path = keep_rates(MEASURED)
    kept = json.loads(path.read_text())
    del kept["rates"]["commit"]
    path.write_text(json.dumps(kept))
    rates.cache_clear()
    assert rates() == Rates()


def test_the_home_is_used_without_a_cache_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert keep_rates(MEASURED).is_relative_to(tmp_path / ".cache")


def test_each_machine_has_its_own(monkeypatch):
    here = keep_rates(MEASURED)
    monkeypatch.setattr(quote.platform, "node", lambda: "node17")
    assert not is_calibrated()
    assert keep_rates(MEASURED) != here


def test_explain_says_when_the_time_is_a_guess(tmp_path):
    write_stars(tmp_path / "stars", WHOLE_SKY)
    catalog = sciplat.open_catalog(tmp_path / "stars")
    guessed = catalog.explain()
    assert not guessed.calibrated
    assert "guess: sciplat calibrate" in str(guessed)
    keep_rates(Rates(**{name: 10 * value for name, value in asdict(Rates()).items()}))
    known = catalog.explain()
    assert known.calibrated
    assert "guess" not in str(known)
    assert known.seconds == pytest.approx(10 * guessed.seconds)


def test_writing_adds_its_time_and_memory():
    inner = Cost(read=10, requests=2, rows=5, size=1e9, memory=1e6, seconds=3)
    whole = write_cost(inner)
    assert (whole.read, whole.requests, whole.rows, whole.size) == (10, 2, 5, 1e9)
    assert whole.seconds == pytest.approx(3 + Rates().commit + 1e9 * Rates().write)
    assert whole.memory > 1e9
    assert math.isfinite(write_cost(Cost()).seconds)
