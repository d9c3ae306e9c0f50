"""Durations and sizes: what people write, what is refused, and that what is shown can be read again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciplat.errors import ArgumentError
from sciplat.gateway.units import format_duration, format_memory, parse_duration, parse_memory


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90 s", 90), ("30 min", 1800), ("2 h", 7200), ("7 d", 604800), ("1.5h", 5400), (" 1 h 30 min ", 5400),
     ("1d12h", 129600), ("0.5 s", 0.5)],
)  # fmt: skip
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "0 s", "-5 s", "2 hours", "h", "1 min 2 h", "1 h 2 h", "2:00:00", "inf s", "nan h", "1e3 s",
             30, 2.5, None, True, ["2 h"], "9" * 400 + " d", "2 h;"]
)  # fmt: skip
def test_what_is_no_duration(text):
    with pytest.raises(ArgumentError, match="the walltime") as refused:
        parse_duration(text, what="the walltime")
    assert "min" in refused.value.hint


def test_a_bare_number_is_told_to_lack_a_unit():
    with pytest.raises(ArgumentError, match="has no unit"):
        parse_duration("30")
    with pytest.raises(ArgumentError, match="has no unit") as refused:
        parse_memory("16")
    assert refused.value.hint == '"16 GiB"'


def test_sizes():
    assert parse_memory("4 GiB") == parse_memory("4GiB") == parse_memory(4 * 1024**3) == 4 * 1024**3
    assert parse_memory("500 MB") == 500_000_000


@pytest.mark.parametrize("size", ["", "4 G", "-1 GiB", "0 GiB", "4 GiBs", 0, -1, 4, "1 KiB", None, True, float("nan")])
def test_what_is_no_size(size):
    with pytest.raises(ArgumentError) as refused:
        parse_memory(size)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (-1, "0 s"), (0.25, "0.25 s"), (59, "59 s"), (90, "1 min 30 s"), (1800, "30 min"),
     (5400, "1 h 30 min"), (86400, "1 d"), (604800 + 3 * 3600 + 5, "7 d 3 h")],
)  # fmt: skip
def test_durations_are_shown_in_two_units(seconds, text):
    assert format_duration(seconds) == text


def test_sizes_are_shown_in_binary_units():
    assert format_memory(4 * 1024**3) == "4 GiB"
    assert format_memory(1536 * 1024**2) == "1.5 GiB"
    assert format_memory(12) == "12 B"
    assert format_memory(3 * 1024**4) == "3 TiB"


@given(st.floats(0.01, 1e8))
def test_a_duration_that_is_shown_can_be_read(seconds):
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.03)


@given(st.integers(1024**2, 2**50))
def test_a_size_that_is_shown_can_be_read(count):
    assert parse_memory(format_memory(count)) == pytest.approx(count, rel=0.005)
