"""What the operations above a scan tell it: which columns are needed, and between which values rows can matter."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain
from typing import Any, cast

from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.lazy.concat import Concat
from sciplat.lazy.crossmatch import Crossmatch
from sciplat.lazy.groups import CrossmatchMany, Groups
from sciplat.lazy.join import Join, JoinTable
from sciplat.lazy.nest import Nest
from sciplat.lazy.node import Node, OverOne, RowFilter, Scan, Select, Within
from sciplat.lazy.sample import Sample
from sciplat.lazy.where import Where, WithColumns
from sciplat.sky.align import common_ranges
from sciplat.sky.coverage import Coverage
from sciplat.steps.expression import Bounds, Expression, common_bounds

# the columns that a row filter looks at
_FILTERS: dict[type[RowFilter], Callable[[Any], tuple[str, ...]]] = {
    Within: lambda node: tuple(node.properties["position"]),
    Where: lambda node: node.expression.columns,
    Sample: lambda node: (*([node.properties["id"]] if node.properties["id"] else []), *node.properties["position"]),
}
# nodes whose rows have the places of rows of the inner node; a function's may have others
_IN_PLACE: tuple[type[OverOne], ...] = (RowFilter, Select, WithColumns, Nest, Join, JoinTable)


def filtered(node: Node, expression: Expression) -> Where:
    """Return the plan of the rows for which an expression is true; row groups in which none can be are not read.

    Raises
    ------
    ColumnError, ArgumentError
        If the expression does not fit the columns.
    """
    where = Where(node, expression)
    return replace(where, inner=_bounded(node, expression.bounds()))


def narrowed(node: Node, columns: tuple[str, ...]) -> Node:
    """Return the plan with scans that read only what some of its columns need.

    Parameters
    ----------
    node : Node
    columns : tuple of str
        Of the node's, `_healpix_29` among them.

    Returns
    -------
    Node
        With these columns, perhaps in another order and among others.
    """
    if isinstance(node, RowFilter):
        return _over(node, narrowed(node.inner, _united(columns, _FILTERS[type(node)](node))))
    narrow = _NARROWED.get(type(node))
    return narrow(node, columns) if narrow else node


def covered(node: Node, cover: Coverage) -> Node:
    """Return the plan with scans that leave out what lies outside a coverage; some of it may stay."""
    if isinstance(node, Scan):
        both = cover if node.cover is None else Coverage(common_ranges(node.cover.ranges, cover.ranges))
        return replace(node, cover=both)
    if isinstance(node, Concat):
        return Concat(covered(node.inner, cover), covered(node.other, cover))
    if isinstance(node, _IN_PLACE) or (isinstance(node, Crossmatch) and node.keeps_left):
        return _over(node, covered(node.inner, cover))
    return node


def _bounded(node: Node, bounds: Bounds) -> Node:
    """Return the plan with scans that leave out row groups without a row inside; others outside may stay."""
    bounds = {name: span for name, span in bounds.items() if name in node.schema.names}
    if isinstance(node, Scan):
        return replace(node, bounds=tuple(sorted(common_bounds(dict(node.bounds), bounds).items())))
    if isinstance(node, Concat):
        return Concat(_bounded(node.inner, bounds), _bounded(node.other, bounds))
    if isinstance(node, WithColumns):
        computed = {name for name, _ in node.computed}
        bounds = {name: span for name, span in bounds.items() if name not in computed}
    if isinstance(node, Nest):  # rows that are gathered share these alone
        bounds = {name: span for name, span in bounds.items() if name in (node.by, HEALPIX_COLUMN)}
    if isinstance(node, Crossmatch):
        mine = dict(node.layout.mine) if node.keeps_left else {}
        bounds = {name: span for name, span in bounds.items() if name in mine}
    if isinstance(node, _IN_PLACE) or (isinstance(node, Crossmatch) and node.keeps_left):
        return _over(node, _bounded(node.inner, bounds))
    return node


def _narrowed_columns(node: WithColumns, columns: tuple[str, ...]) -> Node:
    """Return the computing of no more columns than are asked for."""
    computed = tuple((name, expression) for name, expression in node.computed if name in columns)
    replaced = {name for name, _ in computed}
    kept = [name for name in columns if name not in replaced]
    inner = narrowed(node.inner, _united(kept, *(expression.columns for _, expression in computed)))
    return WithColumns(inner, computed) if computed else inner


def _narrowed_join(node: Join | JoinTable, columns: tuple[str, ...]) -> Node:
    """Return a join that makes some columns; what the other side is asked for keeps its name in the result."""
    mine, its = ([pair[side] for pair in node.on] for side in (0, 1))
    wanted = [old for old, new in node.joining.kept if new in columns]
    position = node.properties["position"]
    # a column of the other side has its suffix because there is one of its name here
    left = (HEALPIX_COLUMN, *position, *mine, *columns, *wanted)
    inner = _only(node.inner, left)
    if isinstance(node, JoinTable):
        return _over(node, inner)
    right = (HEALPIX_COLUMN, *node.other.properties["position"], *its, *wanted)
    return replace(node, inner=inner, other=_only(node.other, right))


def _narrowed_crossmatch(node: Crossmatch, columns: tuple[str, ...]) -> Node:
    """Return a cross-match that makes some columns; what the other side is asked for keeps its name in the result."""
    matching, layout = node.matching, node.layout
    wanted = [old for old, new in layout.its if new in columns]
    said = [name for name, new in layout.measured if new in columns]
    # what has a suffix has it because there is a column of its name here
    mine = (*matching.left.columns, *(old for old, new in layout.mine if new in columns), *wanted, *said)
    its = (*matching.right.columns, *wanted, *said)
    sides = {"inner": _only(node.inner, mine), "other": _only(node.other, its)}
    return replace(node, **sides)  # type: ignore[arg-type]


def _narrowed_many(node: CrossmatchMany, columns: tuple[str, ...]) -> Node:
    """Return a match of many catalogs that gives some columns, under the names that they have."""
    kept = tuple(tuple(pair for pair in names if pair[1] in columns) for names in node.kept)
    catalogs = tuple(
        _only(each, (HEALPIX_COLUMN, *each.properties["position"], *(old for old, _ in names)))
        for each, names in zip(node.catalogs, kept, strict=True)
    )
    return replace(node, catalogs=catalogs, kept=kept)


_NARROWED: dict[type, Callable[[Any, tuple[str, ...]], Node]] = {
    Scan: lambda node, columns: replace(node, columns=columns),
    Select: lambda node, columns: narrowed(node.inner, columns),
    WithColumns: _narrowed_columns,
    Nest: lambda node, _: _over(node, _only(node.inner, (*node.head, *node.columns))),
    Concat: lambda node, columns: Concat(_only(node.inner, columns), _only(node.other, columns)),
    Join: _narrowed_join,
    JoinTable: _narrowed_join,
    Crossmatch: _narrowed_crossmatch,
    CrossmatchMany: _narrowed_many,
    Groups: lambda node, columns: _over(
        node, _only(node.inner, (HEALPIX_COLUMN, *node.properties["position"], *columns))
    ),
}


def _only(node: Node, columns: Iterable[str]) -> Node:
    """Return the narrowed plan with no others of its columns than these, those that place and name its rows in front.

    Columns that it hides by a selection would otherwise come to light, under names that mean something else above it;
    and a plan is made again from its record by selections, which keep the names of rows.
    """
    there, placed = set(node.schema.names), (HEALPIX_COLUMN, *node.properties["position"])
    chosen = tuple(name for name in columns if name in there)
    if set(placed) <= set(chosen):
        chosen = _united(placed[:1], filter(None, [node.properties["id"]]), placed[1:], chosen)
    inner = narrowed(node, chosen)
    return inner if inner.schema.names == list(chosen) else Select(inner, chosen)


def _over(node: OverOne, inner: Node) -> Node:
    """Return a node over another inner one."""
    return cast(Node, replace(node, inner=inner))


def _united(*columns: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(columns)))
