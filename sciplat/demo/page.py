"""One self-contained HTML page: verdict, numbers, pictures the facts of the run, nothing from elsewhere."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from sciplat.demo.pictures import Picture

STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f4f5f7; color: #222; font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { margin: 0 0 1rem; font-size: 1.9rem; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.25rem; }
.verdict { padding: .8rem 1.1rem; border-left: .4rem solid; background: #fff; }
.verdict strong { font-size: 1.1rem; }
.passed { border-color: #0072b2; }
.failed { border-color: #d55e00; }
.verdict ul { margin: .4rem 0 0; padding-left: 1.2rem; }
.scroll { overflow-x: auto; background: #fff; }
table { width: 100%; border-collapse: collapse; }
th, td { padding: .4rem .9rem; border-bottom: 1px solid #e3e5e8; text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid #b9bec5; font-weight: 600; }
tbody th { font-weight: 400; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
figure { margin: 0; padding: 1rem; background: #fff; }
figure img { display: block; width: 100%; height: auto; }
figcaption { margin-top: .6rem; color: #555; font-size: .92rem; }
"""


def render_page(
    *,
    failures: Sequence[str],
    rows: Iterable[tuple[str, str, str]],
    run: Mapping[str, str],
    pictures: Iterable[Picture],
) -> str:
    """Return the page as text.

    Parameters
    ----------
    failures : sequence of str
        What is wrong; empty for a run that passed.
    rows : iterable of (what, found, expected)
        The numbers.
    run : mapping of str to str
        Facts about the run.
    pictures : iterable of Picture
        PNG files, embedded in the page.
    """
    body = "\n".join(
        (
            "<h1>sciplat demo: a simulated survey with known truth</h1>",
            _verdict(failures),
            "<h2>Numbers</h2>",
            _table(("", "found", "expected"), rows),
            *(_figure(picture) for picture in pictures),
            "<h2>The run</h2>",
            _table(("", "value"), run.items()),
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>sciplat demo</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _verdict(failures: Sequence[str]) -> str:
    if not failures:
        text = "Every source was measured exactly once, and the measurements agree with the truth."
        return f'<div class="verdict passed"><strong>Passed.</strong> {text}</div>'
    items = "".join(f"<li>{escape(failure)}</li>" for failure in failures)
    return f'<div class="verdict failed"><strong>Failed.</strong><ul>{items}</ul></div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = []
    for first, *rest in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    head_and_body = f"<thead><tr>{names}</tr></thead>\n<tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll"><table>{head_and_body}</table></div>'


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    title, caption = escape(picture.title), escape(picture.caption)
    return (
        f'<h2>{title}</h2>\n<figure><img alt="{title}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
