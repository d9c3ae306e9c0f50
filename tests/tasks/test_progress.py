import io

from rich.console import Console

from sciplat.tasks import progress as module
from sciplat.tasks.progress import progress


def test_items_pass_in_their_order_and_a_bar_is_drawn_on_a_terminal(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(module, "Console", lambda **_: Console(file=screen, force_terminal=True, width=80))
    assert list(progress(iter("abc"), what="letters", total=3)) == ["a", "b", "c"]
    assert "letters" in screen.getvalue()
    assert "3/3" in screen.getvalue()


def test_nothing_is_drawn_where_nobody_looks(capfd):
    assert list(progress(range(3), what="numbers", total=3)) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")
