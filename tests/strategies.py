"""Hypothesis strategies: partitions of one sky."""

from hypothesis import strategies as st

from sciplat.sky.cell import Cell


@st.composite
def partitions(draw, max_splits=12, max_order=6):
    """Draw disjoint cells that tile the whole sky, in its order."""
    cells = [Cell(0, base) for base in range(12)]
    for _ in range(draw(st.integers(0, max_splits))):
        place = draw(st.integers(0, len(cells) - 1))
        if cells[place].order < max_order:
            cells[place : place + 1] = cells[place].children
    return cells
