import pytest

from sciplat.lazy.explain import Plan, format_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.0123, "0.012 s"), (9.94, "9.9 s"), (11.2, "11 s"), (119, "119 s"), (120, "2 min"), (150, "2.5 min"),
     (2520, "42 min"), (7199, "120 min"), (7200, "2 h"), (4_443_300, "1,234 h")],
)  # fmt: skip
def test_times_are_as_people_read_them(seconds, text):
    assert format_seconds(seconds) == text


def test_a_quote_is_one_sentence_and_says_what_it_does_not_know():
    plan = Plan(3, 4, 10**9, 10**10, 1200, 5000, 10**6, 10**8, 10**9, 250.0, 2, calibrated=False, functions=False)
    for words in ("3 cells, 4 tasks", "(of 10 GB)", "1,200 requests", "100 MB of 1 GB", "4.2 min of one core", "guess"):
        assert words in str(plan)
    assert "\n" not in str(plan)
    unlimited = Plan(3, 4, 10**9, 10**10, 1200, 5000, 10**6, 10**8, None, 250.0, 2, calibrated=True, functions=True)
    assert "without the time of your functions" in str(unlimited)
    assert "largest task 100 MB; about" in str(unlimited)
    assert "guess" not in str(unlimited)
